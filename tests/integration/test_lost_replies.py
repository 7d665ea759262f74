"""Kernels that lose a reply: the execution raises ReplyLost, and the kernel goes on."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest

from kernelproto import ExecutionTimeout, KernelUnresponsive, ReplyLost, Timeouts, run_kernel
from kernelproto.blocking import run_kernel_blocking
from kernelproto.launch.spec.kernelspec import install_kernelspec

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60

# A wrapper around ipykernel, as many are written.
WRAPPER = """
import time

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel


class Wrapper(Kernel):
    implementation = "wrapper"
    implementation_version = "1"
    language_info = {"name": "none", "mimetype": "text/plain", "file_extension": ".txt"}
    banner = "a wrapper"

    async def do_execute(self, code, silent, store_history=True, user_expressions=None,
                         allow_stdin=False, *, cell_meta=None, cell_id=None):
        self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": code})
        if code == "raise":
            raise RuntimeError("the wrapper is broken")
        if code == "unserialisable":
            return {"status": "ok", "execution_count": 1, "user_expressions": {"x": object()}}
        if code == "sleep":
            time.sleep(3)
        return {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}}


IPKernelApp.launch_instance(kernel_class=Wrapper)
"""


@pytest.fixture
def wrapper(tmp_path: Path) -> str:
    """Install the wrapper; give its kernel type."""
    program = tmp_path / "wrapper.py"
    program.write_text(WRAPPER)
    spec = {
        "argv": [sys.executable, str(program), "-f", "{connection_file}"],
        "display_name": "Wrapper",
        "language": "none",
    }
    folder = tmp_path / "wrapper"
    folder.mkdir()
    (folder / "kernel.json").write_text(json.dumps(spec))
    install_kernelspec(folder, "wrapper", user=True)
    return "spec/wrapper"


@pytest.mark.parametrize("code", ["raise", "unserialisable"])
async def test_wrapper_that_fails_ends_the_execution_and_goes_on(wrapper: str, code: str) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel(wrapper) as kernel:
            with pytest.raises(ReplyLost) as lost:
                await kernel.execute(code)
            assert lost.value.result.stdout == code
            assert (await kernel.execute("fine")).stdout == "fine"


async def test_execution_behind_a_lost_reply_is_not_struck(wrapper: str) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            run_kernel(wrapper) as kernel,
            kernel.execute("raise") as broken,
            kernel.execute("sleep") as slow,
        ):
            with pytest.raises(ReplyLost):
                await broken
            assert (await slow).status == "ok"


def test_synchronous_caller_is_told_as_well(wrapper: str) -> None:
    with run_kernel_blocking(wrapper) as kernel:
        with pytest.raises(ReplyLost) as lost:
            kernel.execute("raise")
        assert lost.value.result.stdout == "raise"
        assert kernel.execute("fine").stdout == "fine"


# ipykernel sets its handler of the signal before each cell, so the cell sets another one.
STUBBORN = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("begun", flush=True)
import time
time.sleep(600)
"""

IMPATIENT = Timeouts(interrupt=1.0, shutdown=0.5, terminate=0.5)


async def test_kernel_that_ignores_interrupts_is_restarted_if_the_caller_allows_it() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("pyimport/kernel", timeouts=IMPATIENT) as kernel:
            await kernel.execute("x = 1")
            with pytest.raises(ExecutionTimeout) as late:
                await kernel.execute(STUBBORN, timeout=0.5, on_timeout="restart")
            assert late.value.restarted
            assert late.value.result.stdout == "begun\n"
            assert (await kernel.execute("'x' in globals()")).text == "False"


async def test_kernel_that_ignores_interrupts_is_told_of_otherwise() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("pyimport/kernel", timeouts=IMPATIENT) as kernel:
            with pytest.raises(KernelUnresponsive):
                await kernel.execute(STUBBORN, timeout=0.5)
            assert kernel.state == "busy"


def test_synchronous_caller_can_limit_the_time() -> None:
    with run_kernel_blocking("pyimport/kernel", timeouts=IMPATIENT) as kernel:
        with pytest.raises(ExecutionTimeout) as late:
            kernel.execute("while True: pass", timeout=0.5)
        assert late.value.ename == "KeyboardInterrupt"
        with pytest.raises(ExecutionTimeout):
            kernel.execute(STUBBORN, timeout=0.5, on_timeout="restart")
        assert kernel.execute("6 * 7").text == "42"


async def test_every_execution_ends_whenever_it_is_interrupted() -> None:
    """Interrupts that come within milliseconds of the end strike the kernel's own code."""
    ends: list[str] = []
    with anyio.fail_after(2 * GUARD_SECONDS):
        async with run_kernel("pyimport/kernel") as kernel:
            for number in range(50):
                async with kernel.execute("import time; time.sleep(0.05)") as execution:
                    await anyio.sleep(0.04 + number * 0.0005)
                    await kernel.interrupt()
                    try:
                        ends.append((await execution).status)
                    except ReplyLost:
                        ends.append("lost")
            assert (await kernel.execute("6 * 7")).text == "42"
    assert len(ends) == 50
