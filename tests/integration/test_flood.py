"""Much output while the application's event loop is blocked: all of it arrives, in order.

A kernel may lose it: ipykernel keeps no more than 1000 messages that libzmq could not send yet, and
over ipc the operating system takes just a few hundred of them. A busy machine exceeds that. So what
the client promises is tested with a kernel that keeps everything.
"""

from __future__ import annotations

import os
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
    count = 2_000
    async with run_kernel("pyimport/kernel", transport="tcp") as kernel:
        numbers = await outputs_while_blocked(kernel, IPYKERNEL.format(count=count), tmp_path)
    assert numbers == list(range(count))
