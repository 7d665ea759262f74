"""A provider of fakes that are scripted for the snippets of the checks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from kernelproto.testing import PYTHON, Exchange, FakeKernel


def _prepare(kernel: FakeKernel) -> None:
    async def be_endless(exchange: Exchange) -> None:
        exchange.stream("begun")
        await anyio.sleep_forever()

    kernel.on_execute(PYTHON.env, stdout=kernel.env.get("KERNELPROTO_CHECK", "nothing"))
    kernel.on_execute(PYTHON.cwd, stdout=f"{kernel.cwd}\n")
    kernel.on_execute(PYTHON.endless, be_endless)


@pytest.fixture
def prepare():
    """Give a function for FakeProvider that makes its kernels answer the snippets of PYTHON."""
    return _prepare


@pytest.fixture
def write_kernelspec() -> Callable[..., None]:
    """Give a function that installs a kernelspec for the user of this test."""

    def write(name: str, /, **entries: object) -> None:
        folder = Path(os.environ["JUPYTER_DATA_DIR"], "kernels", name)
        folder.mkdir(parents=True)
        folder.joinpath("kernel.json").write_text(json.dumps(entries))

    return write
