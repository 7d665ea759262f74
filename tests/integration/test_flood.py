"""Much output while nobody takes it: all of it arrives, in order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kernelproto import Kernel, run_kernel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

SCRIPTED = """
for number in range({count}):
    publish("display_data", parent, data={{"text/plain": str(number)}}, metadata={{}})
"""

IPYKERNEL = """
from IPython.display import display
for number in range({count}):
    display({{"text/plain": str(number)}}, raw=True)
"""


async def outputs_while_blocked(kernel: Kernel, code: str, folder: Path) -> list[int]:
    """Run *code*, do nothing else until it has run, then read the numbers that it has displayed."""
    done = folder / "done"
    os.mkfifo(done)
    async with kernel.execute(f"{code}\nopen({str(done)!r}, 'w').close()") as execution:
        done.read_bytes()
        numbers = [int(output.data["text/plain"]) async for output in execution]
        result = await execution
    assert result.outputs_complete
    assert len(result.outputs) == len(numbers)
    return numbers


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_client_loses_nothing(transport, tmp_path: Path) -> None:
    count = 20_000
    async with run_kernel("spec/scripted", transport=transport) as kernel:
        numbers = await outputs_while_blocked(kernel, SCRIPTED.format(count=count), tmp_path)
    assert numbers == list(range(count))


async def test_ipykernel(tmp_path: Path) -> None:
    count = 20_000
    async with run_kernel("pyimport/kernel") as kernel:
        numbers = await outputs_while_blocked(kernel, IPYKERNEL.format(count=count), tmp_path)
    assert numbers == list(range(count))


PROGRAM = """
import os, sys, anyio
from kernelproto import run_kernel

async def main():
    async with run_kernel(sys.argv[1]) as kernel:
        result = await kernel.execute(f"program = {os.getpid()}; {sys.argv[2]}")
        print(*(output.data["text/plain"] for output in result.outputs))

anyio.run(main)
"""


@pytest.mark.parametrize("kernel_type", ["pyimport/kernel", "fork/kernel"])
def test_suspended_program(kernel_type: str) -> None:
    """As a laptop's sleep or a debugger does it: libzmq's own threads read nothing either."""
    count = 20_000
    code = f"""import os, signal
os.kill(program, signal.SIGSTOP)
{IPYKERNEL.format(count=count)}
os.kill(program, signal.SIGCONT)
"""
    command = [sys.executable, "-c", PROGRAM, kernel_type, code]
    program = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert program.stderr == ""
    assert program.stdout.split() == list(map(str, range(count)))
