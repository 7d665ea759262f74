"""Each hook works alone, and stays off if the installed ipykernel does not fit it."""

from __future__ import annotations

import json
import subprocess
import sys
from textwrap import dedent

import anyio
import pytest

from kernelproto import KernelExitedEarly, run_kernel
from kernelproto.launch.programs import ipykernel
from kernelproto.launch.programs.fast_ipykernel.hook import Hook, Need, misfit
from tests.launch.programs.behaviours import order, run, six_threads, unusual_values

VARIABLE = "KERNELPROTO_STOCK_IPYKERNEL"

HOOKS = (
    "flush",
    "wake",
    "timer",
    "write",
    "reply",
    "session",
    "send",
    "history",
    "history_session",
    "history_write",
    "logs",
    "parameters",
    "transform",
    "format",
    "forward",
    "stream",
    "exit",
    "frames",
    "configuration",
    "address",
    "children",
    "modules",
    "loaded",
)


class Stream:
    def write(self, text: str, *, end: str = "", **options: object) -> None:
        self.buffer = text + end

    def writelines(self, *lines: str) -> None: ...


def place(name: str) -> str:
    return f"{__name__}:{name}"


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        (Need(place("Stream.write"), "self, text, *, end, **options", "buffer"), None),
        (Need(place("Stream.writelines"), "self, *lines"), None),
        (Need(place("Stream.flush"), "self"), "Stream.flush does not exist"),
        (Need("no.such.module:f", ""), "no.such.module:f does not exist"),
        (Need(place("VARIABLE"), ""), "VARIABLE does not exist"),
        (
            Need(place("Stream.write"), "self, text"),
            "Stream.write has the parameters (self, text, *, end, **options)",
        ),
        (
            Need(place("Stream.write"), "self, text, *, end, **options", "buffer lock queue"),
            "Stream.write does not use lock, queue",
        ),
    ],
)
def test_hook_that_does_not_fit(need: Need, reason: str | None) -> None:
    sys.modules.setdefault(__name__, sys.modules[Stream.__module__])
    found = misfit(Hook("hook", [Need(place("Stream.writelines"), "self, *lines"), need]))
    assert found is reason is None or (found is not None and found.endswith(reason or "-"))


def test_all_hooks_fit_the_installed_ipykernel() -> None:
    """If this fails with a new version, look at the change before you adapt the hook."""
    done = subprocess.run(
        [sys.executable, ipykernel.__file__, ipykernel.REPORT],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == dict.fromkeys(HOOKS)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on one event loop, because the kernel does not depend on it."""
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("name", HOOKS)
async def test_hook_works_alone(name: str) -> None:
    off = ",".join(other for other in HOOKS if other != name)
    async with run_kernel("fork/kernel", launch_params={"env": {VARIABLE: off}}) as kernel:
        await order(kernel)
        await six_threads(kernel)
        await unusual_values(kernel)
        assert await run(kernel, "print('%%time', end='')\n6 * 7") == [
            ("stdout", "%%time"),
            ("execute_result", {"text/plain": "42"}),
        ]


@pytest.mark.anyio
async def test_kernel_without_hooks_of_a_fork_server_that_has_prepared_them() -> None:
    code = """
        import sys

        shell = get_ipython()
        threads = shell.kernel.iopub_thread, shell.history_manager.save_thread
        things = sys.stdout, shell, shell.kernel, shell.kernel.session, *threads
        ["_fast_ipykernel" in str(type(thing).__mro__) for thing in things]
        """
    found = []
    for off in ("", "all"):
        async with run_kernel("fork/kernel", launch_params={"env": {VARIABLE: off}}) as kernel:
            found.append((await kernel.execute(dedent(code))).text)
    assert found == [str([True] * 6), str([False] * 6)]


@pytest.mark.anyio
async def test_unknown_hook_is_refused() -> None:
    options = {"env": {VARIABLE: "flush,speed"}}
    with anyio.fail_after(60), pytest.raises(KernelExitedEarly, match="names speed, which is no"):
        async with run_kernel("pyimport/kernel", launch_params=options):
            pass
