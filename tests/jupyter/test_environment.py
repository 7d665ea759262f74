from __future__ import annotations

import os

import pytest

from kernelproto import Stream, run_kernel
from kernelproto.jupyter.environment import changes, with_environment
from kernelproto.jupyter.kernel_types import jupyter_kernels


def test_only_changes_are_passed_and_no_variable_is_filled_in() -> None:
    env = {**os.environ, "HOME": "/nowhere", "NEW": "${HOME}"}

    assert changes(env) == {"HOME": "/nowhere", "NEW": "$${HOME}"}


@pytest.mark.asyncio
@pytest.mark.usefixtures("no_leaks", "no_server")
async def test_kernel_has_the_whole_environment_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "x")
    env = {name: value for name, value in os.environ.items() if name != "SECRET"}
    env["NEW"] = "${HOME}"
    finder = with_environment(jupyter_kernels(), env)

    async with run_kernel("fork/kernel", env=changes(env), finder=finder) as kernel:
        result = await kernel.execute("import os; print('SECRET' in os.environ, os.environ['NEW'])")

    assert result.outputs == [Stream("stdout", "False ${HOME}\n")]
