"""Forked kernels that outlive their program, their fork server, or both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from kernelproto import KernelDied, adopt_kernel, start_kernel
from kernelproto.launch.process.forkserver import ForkServer
from kernelproto.launch.programs.watchdog import start_time
from tests.launch.process.forks import evaluate, finder

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("no_leaks", "no_servers_left"),
]

GUARD_SECONDS = 60

PROGRAM = """
import anyio, os, signal, sys
from kernelproto import start_kernel

async def main():
    kernel = await start_kernel("fork/kernel", detached=True, host=False)
    await kernel.execute("x = 42")
    print(kernel.manager.connection_file, flush=True)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if sys.argv[1] == "exit":
        os._exit(0)

anyio.run(main)
"""

# The program dies when it has recorded one of two kernels.
DIES_WHILE_IT_STARTS_A_KERNEL = """
import anyio, os, signal
from kernelproto.launch.process.forkserver import ForkServer
from tests.launch.process.forks import fork

async def main():
    server = ForkServer.running(())
    runtime_dir = os.environ["JUPYTER_RUNTIME_DIR"]
    kept = await fork(server, "-f", f"{runtime_dir}/one.json")
    lost = await fork(server, "-f", f"{runtime_dir}/two.json")
    kept.outlive()
    print(kept.pid, lost.pid, server.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main)
"""


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("end", ["return", "exit", "kill"])
async def test_kernel_outlives_its_program(end: str, runtime_dir: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, end]
    done = await anyio.run_process(command, check=False, stderr=None)
    assert done.returncode == (-signal.SIGKILL if end == "kill" else 0)
    path = done.stdout.decode().strip()
    with anyio.fail_after(GUARD_SECONDS):
        async with adopt_kernel(path) as kernel:
            assert await evaluate(kernel, "x") == 42
            code = (
                "from ipykernel.kernelapp import IPKernelApp; IPKernelApp.instance().parent_handle"
            )
            assert await evaluate(kernel, code) == 0
            pid = kernel.manager.pid
    assert start_time(pid) == ""
    assert os.listdir(runtime_dir) == []


async def test_exit_status_is_known_while_the_server_runs() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel("fork/kernel", detached=True, host=False, finder=finder())
        assert await kernel.shutdown() == 0
        kernel = await start_kernel("fork/kernel", detached=True, host=False, finder=finder())
        with pytest.raises(KernelDied) as caught:
            await kernel.execute("import os; os._exit(3)")
        assert caught.value.returncode == 3
        await kernel.shutdown()


async def test_kernel_outlives_its_server() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel("fork/kernel", detached=True, host=False, finder=finder())
        await _kill_server()
        assert await evaluate(kernel, "6 * 7") == 42
        await kernel.manager.signal(signal.SIGTERM)
        with pytest.raises(KernelDied):
            await kernel.execute("import time; time.sleep(1000)")
        await kernel.restart()
        assert await evaluate(kernel, "6 * 7") == 42
        await _kill_server()
        assert await kernel.shutdown() is None


async def test_kernel_that_is_released_without_its_server() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        params = {"detached": True}
        info, manager = await finder().launch("fork/kernel", launch_params=params)
        await _kill_server()
        assert await manager.is_alive()
        await manager.detach()
        async with adopt_kernel(info) as kernel:
            assert await evaluate(kernel, "6 * 7") == 42


async def _kill_server() -> None:
    server = ForkServer.running(())
    os.kill(server.pid, signal.SIGKILL)
    while not server.dead:
        await anyio.lowlevel.checkpoint()


def test_only_a_recorded_kernel_outlives_its_program(runtime_dir: Path, until_gone) -> None:
    command = [sys.executable, "-c", DIES_WHILE_IT_STARTS_A_KERNEL]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    kept, lost, server = map(int, done.stdout.split())
    until_gone(lost)
    until_gone(server)
    os.kill(kept, signal.SIGKILL)  # an error if it has ended
    until_gone(kept)
    for path in runtime_dir.iterdir():
        path.unlink()
