"""What a plain script sees: one program on every event loop, and what is left when it has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import anyio, asyncio, sys, trio
from kernelproto import run_kernel, start_kernel

async def main():
    async with run_kernel() as kernel:
        result = await kernel.execute("6 * 7")
        print(result.text)
"""

# Puts what waits for a Ctrl-C in the place of what computes.
WAITING_IN_RUN_KERNEL = PROGRAM.replace(
    "print(result.text)", "print(kernel.manager.pid, flush=True); await anyio.sleep_forever()"
)
WAITING_WITH_START_KERNEL = PROGRAM.partition("    async with")[0] + (
    "    kernel = await start_kernel()\n"
    "    print(kernel.manager.pid, flush=True)\n"
    "    await anyio.sleep_forever()\n"
)
STRUCK_WHERE_THE_KERNEL_IS_SERVED = """
import anyio, asyncio, contextlib, signal, trio
from kernelproto import ClientClosed, start_kernel

async def main():
    strikes = iter([signal.SIGINT])
    kernel = await start_kernel()
    kernel.client.add_handler(lambda *message: [*map(signal.raise_signal, strikes)])
    with contextlib.suppress(ClientClosed):
        await kernel.kernel_info()
    await anyio.sleep_forever()
"""
LEAVING_A_STARTED_KERNEL = WAITING_WITH_START_KERNEL.partition("    await anyio.sleep")[0]

LOOPS = {
    "asyncio": "asyncio.run(main())",
    "uvloop": "anyio.run(main, backend_options={'use_uvloop': True})",
    "trio": "trio.run(main)",
}

pytestmark = [
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.parametrize("loop", LOOPS),
]


def command(*lines: str) -> list[str]:
    return [sys.executable, "-X", "dev", "-W", "error", "-c", "\n".join(lines)]


def output_of(*lines: str) -> str:
    done = subprocess.run(command(*lines), capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


@pytest.fixture(autouse=True)
def skip_without_uvloop(loop: str) -> None:
    if loop == "uvloop":
        pytest.importorskip("uvloop")


def test_the_same_program_prints_42_without_a_module_of_the_old_stack(loop: str) -> None:
    report = "print(*{name.partition('.')[0] for name in sys.modules})"
    result, modules = output_of(PROGRAM, LOOPS[loop], report).splitlines()
    assert result == "42"
    assert "kernelproto" in modules.split()
    assert not {"tornado", "traitlets", "jupyter_client", "ipykernel"} & set(modules.split())


@pytest.mark.parametrize(
    "program",
    [WAITING_IN_RUN_KERNEL, WAITING_WITH_START_KERNEL],
    ids=["run_kernel", "start_kernel"],
)
def test_ctrl_c_ends_the_kernel_as_well(loop: str, program: str, runtime_dir: Path) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command(program, LOOPS[loop]), text=True, **pipes) as script:
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


def test_a_started_kernel_ends_with_the_event_loop(loop: str, runtime_dir: Path) -> None:
    kernel = int(output_of(LEAVING_A_STARTED_KERNEL, LOOPS[loop]))
    assert not os.path.exists(f"/proc/{kernel}")
    assert list(runtime_dir.iterdir()) == []


def test_ctrl_c_that_strikes_a_task_of_the_kernel_ends_the_program(
    loop: str, runtime_dir: Path
) -> None:
    """Trio raises KeyboardInterrupt in whatever task runs, also in those of a started kernel."""
    script = command(STRUCK_WHERE_THE_KERNEL_IS_SERVED, LOOPS[loop])
    done = subprocess.run(script, capture_output=True, text=True, timeout=60)
    assert done.stderr.endswith("KeyboardInterrupt\n")
    assert done.returncode == -signal.SIGINT
    assert list(runtime_dir.iterdir()) == []
