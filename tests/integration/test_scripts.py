"""What a plain script sees: one program on every event loop, and what is left when it has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

HEAD = """
import anyio, asyncio, contextlib, signal, sys, trio
from kernelproto import ClientClosed, run_kernel, start_kernel

async def main():
"""

COMPUTE = """
    async with run_kernel() as kernel:
        result = await kernel.execute("6 * 7")
        print(result.text)
"""

# Python may notice a signal that comes just before it goes to sleep only when it wakes again.
WAIT_IN_THE_BLOCK = """
    async with run_kernel() as kernel:
        print(kernel.manager.pid, flush=True)
        while True:
            await anyio.sleep(0.1)
"""

LEAVE = """
    kernel = await start_kernel()
    print(kernel.manager.pid, flush=True)
"""

WAIT = f"{LEAVE}    while True:\n        await anyio.sleep(0.1)"

RAISE_WHERE_THE_KERNEL_IS_SERVED = """
    kernel = await start_kernel()
    once = iter([signal.SIGINT])
    kernel.client.add_handler(lambda *message: [*map(signal.raise_signal, once)])
    with contextlib.suppress(ClientClosed):
        await kernel.kernel_info()
    await anyio.sleep_forever()
"""

RUN = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "anyio.run(main, backend_options={'use_uvloop': True})",
    "trio": "trio.run(main)",
}

pytestmark = pytest.mark.usefixtures("no_leaks")

without_uvloop = pytest.mark.skipif(not find_spec("uvloop"), reason="uvloop is not installed")


@pytest.fixture(params=["asyncio", pytest.param("uvloop", marks=without_uvloop), "trio"])
def loop(request: pytest.FixtureRequest) -> str:
    return request.param


def command(*parts: str) -> list[str]:
    return [sys.executable, "-W", "error", "-c", "\n".join([HEAD, *parts])]


def output_of(*parts: str) -> str:
    done = subprocess.run(command(*parts), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_same_program_prints_42_without_a_module_of_the_old_stack(loop: str) -> None:
    report = "print(*{name.partition('.')[0] for name in sys.modules})"
    result, modules = output_of(COMPUTE, RUN[loop], report).splitlines()
    assert result == "42"
    assert "kernelproto" in modules.split()
    assert not {"tornado", "traitlets", "jupyter_client", "ipykernel"} & set(modules.split())


@pytest.mark.parametrize("program", [WAIT_IN_THE_BLOCK, WAIT], ids=["run_kernel", "start_kernel"])
def test_ctrl_c_ends_the_kernel_as_well(loop: str, program: str, runtime_dir: Path) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(program, RUN[loop]), text=True, **pipes) as script:
        try:
            kernel = int(script.stdout.readline())
            script.send_signal(signal.SIGINT)
            _, stderr = script.communicate(timeout=60)
        finally:
            script.kill()
    assert stderr.endswith("KeyboardInterrupt\n")
    assert script.returncode == -signal.SIGINT
    assert not os.path.exists(f"/proc/{kernel}")
    assert list(runtime_dir.iterdir()) == []


def test_ctrl_c_that_strikes_a_task_of_the_kernel_ends_the_program(
    loop: str, runtime_dir: Path
) -> None:
    """Trio raises KeyboardInterrupt in whatever task runs, also in those of a started kernel."""
    script = command(RAISE_WHERE_THE_KERNEL_IS_SERVED, RUN[loop])
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith("KeyboardInterrupt\n")
    assert done.returncode == -signal.SIGINT
    assert list(runtime_dir.iterdir()) == []


def test_a_started_kernel_ends_with_the_event_loop(loop: str, runtime_dir: Path) -> None:
    kernel = int(output_of(LEAVE, RUN[loop]))
    assert not os.path.exists(f"/proc/{kernel}")
    assert list(runtime_dir.iterdir()) == []
