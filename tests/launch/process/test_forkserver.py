from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from kernelproto import (
    InvalidLaunchParameter,
    KernelDied,
    KernelExitedEarly,
    NoSuchKernel,
    run_kernel,
)
from kernelproto.launch.process.forkserver import ForkServer
from kernelproto.launch.providers import ForkServerProvider
from kernelproto.testing import check_kernel_provider
from tests.launch.process.forks import evaluate, finder

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left")]

GUARD_SECONDS = 60


async def test_one_server_for_all() -> None:
    async with (
        run_kernel("fork/kernel", finder=finder()) as one,
        run_kernel("fork/kernel", finder=finder()) as other,
    ):
        parent = "import os; os.getppid()"
        assert await evaluate(one, parent) == await evaluate(other, parent)


async def test_server_that_dies_takes_its_kernels_with_it_and_is_replaced() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            server = await evaluate(kernel, "import os; os.getppid()")
            os.kill(server, signal.SIGKILL)
            with pytest.raises(KernelDied):
                await kernel.execute("import time; time.sleep(1000)")
            assert not await kernel.manager.is_alive()
            await kernel.restart()
            assert await evaluate(kernel, "import os; os.getppid()") != server


OWNER = """
import os, sys, anyio
from kernelproto import run_kernel
async def main():
    async with run_kernel("fork/kernel") as kernel:
        print(kernel.manager.pid, flush=True)
        await anyio.sleep_forever()
anyio.run(main)
"""


def test_owner_that_is_killed_leaves_nothing(runtime_dir: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        end = os.pidfd_open(pid)
        owner.kill()
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        assert selector.select(GUARD_SECONDS)
    os.close(end)


async def test_fork_of_the_owner_does_not_keep_the_server() -> None:
    async with run_kernel("fork/kernel", finder=finder()):
        child = os.fork()
        if child == 0:
            signal.pause()
    ForkServer.close_all()  # would never return if the child held the socket
    os.kill(child, signal.SIGKILL)
    await anyio.to_thread.run_sync(os.waitpid, child, 0)


FORKING_PROGRAM = """
import atexit, os, sys, threading
import anyio
from kernelproto import run_kernel
from kernelproto.launch.process.forkserver import ForkServer

async def answer():
    async with run_kernel("fork/kernel") as kernel:
        return (await kernel.execute("6 * 7")).text

def in_child(function):
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""

FORK_WHILE_A_SERVER_STARTS = """
def use_library():
    assert anyio.run(answer, backend=backend) == "42"

for _ in range(5):
    starting = threading.Thread(target=ForkServer.running, args=[()])
    starting.start()
    child = in_child(use_library)
    starting.join()
    assert status(child) == 0
    ForkServer.close_all()
"""

LEAVE_IN_A_CHILD = """
async def main():
    async with run_kernel("fork/kernel") as kernel:
        server = ForkServer.running(())

        def leave():
            for use in (kernel.manager._process.kill, kernel.manager._process.interrupt):
                try:
                    use()
                except RuntimeError as error:
                    assert "forked from" in str(error)
                else:
                    raise AssertionError("the child has sent a signal")
            server.close()
            ForkServer.close_all()
            atexit._run_exitfuncs()

        assert await anyio.to_thread.run_sync(status, in_child(leave)) == 0
        assert (await kernel.execute("6 * 7")).text == "42"
        assert not server.dead

anyio.run(main, backend=backend)
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("program", [FORK_WHILE_A_SERVER_STARTS, LEAVE_IN_A_CHILD])
def test_fork_of_the_program(program: str, backend: str) -> None:
    source = f"backend = {backend!r}\n{FORKING_PROGRAM}\n{program}"
    subprocess.run([sys.executable, "-c", source], check=True, timeout=GUARD_SECONDS)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"cwd": "/no/such/folder"}, InvalidLaunchParameter, "/no/such/folder"),
        ({"launch_params": {"extra_arguments": ["--no-such"]}}, KernelExitedEarly, "no-such"),
        ({"env": {"A": "\0"}}, InvalidLaunchParameter, "A"),
        ({"kernel_type": "fork/other"}, NoSuchKernel, "other"),
    ],
)
async def test_bad_launches(options, error, words) -> None:
    with pytest.raises(error, match=words):
        async with run_kernel(**{"kernel_type": "fork/kernel", "finder": finder(), **options}):
            pytest.fail("it has started")


async def test_limits() -> None:
    async with run_kernel(
        "fork/kernel", finder=finder(), launch_params={"limits": {"open_files": 100}}
    ) as kernel:
        assert await evaluate(kernel, "import resource; resource.getrlimit(7)[0]") == 100


async def test_twenty_at_once() -> None:
    async def run(number: int) -> None:
        async with run_kernel("fork/kernel", finder=kernels) as kernel:
            assert (await kernel.execute(f"{number}")).text == str(number)

    kernels = finder()
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(run, number)


def test_configuration() -> None:
    provider = ForkServerProvider()
    provider.load_config({"preload": ["decimal"]})
    provider.load_config(None)
    with pytest.raises(ValueError, match="preload"):
        provider.load_config({"preload": "decimal"})


def test_any_thread_may_fork() -> None:
    async def run() -> None:
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            parents.append(await evaluate(kernel, "import os; os.getppid()"))

    parents: list[object] = []
    threads = [threading.Thread(target=anyio.run, args=[run]) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parents) == 5
    assert len(set(parents)) == 1


async def test_conformance(anyio_backend_name: str) -> None:
    await check_kernel_provider(ForkServerProvider())


async def test_python3_is_forked(write_kernelspec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    write_kernelspec("python3", argv=argv, env={"LEVEL": "1"})
    code = "import os; os.getpid() == os.getsid(0), os.environ['LEVEL'], os.getppid()"
    async with run_kernel("python3") as one, run_kernel("python3", env={"LEVEL": "2"}) as two:
        assert one.connection_info.kernel_name == "fork/python3"
        (own_session, level, server), other = [await evaluate(each, code) for each in (one, two)]
        assert (own_session, level) == (True, "1")
        assert other == (True, "2", server)
    async with run_kernel("spec/python3") as kernel:
        assert (await evaluate(kernel, code))[2] == os.getpid()
