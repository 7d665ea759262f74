from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from kernelproto import InvalidLaunchParameter, LaunchError, run_kernel
from kernelproto.launch.process import forkserver_client as module
from kernelproto.launch.process.forkserver import ForkServer
from kernelproto.launch.process.forkserver_client import ServerLost
from tests.launch.process.forks import children_of, evaluate, finder, fork

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left")]

GUARD_SECONDS = 60


async def test_module_that_cannot_be_loaded() -> None:
    with pytest.raises(InvalidLaunchParameter, match=r"'no_such_module'.*ModuleNotFoundError"):
        async with run_kernel("fork/kernel", finder=finder("no_such_module")):
            pytest.fail("it has started")


async def test_module_that_starts_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()"
    tmp_path.joinpath("threaded.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LaunchError, match="1 threads were started"):
        async with run_kernel("fork/kernel", finder=finder("threaded")):
            pytest.fail("it has started")


async def test_module_that_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.joinpath("deadly.py").write_text("import os; os._exit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(LaunchError, match="the fork server has ended"):
        async with run_kernel("fork/kernel", finder=finder("deadly")):
            pytest.fail("it has started")


@pytest.fixture
def stopped_server() -> Iterator[ForkServer]:
    """Give a server that has forked a kernel and is stopped; continue it after the test."""
    server = ForkServer.running([])
    anyio.run(fork, server, "--version").abort()
    os.kill(server.pid, signal.SIGSTOP)
    yield server
    with suppress(ProcessLookupError):
        os.kill(server.pid, signal.SIGCONT)


async def test_launch_that_is_cancelled_before_the_server_answers(
    stopped_server: ForkServer, tmp_path: Path, until_gone
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fork, stopped_server, "-f", str(tmp_path / "kernel.json"))
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    os.kill(stopped_server.pid, signal.SIGCONT)
    process = await fork(stopped_server, "-f", str(tmp_path / "other.json"))
    for pid in children_of(stopped_server.pid):
        if pid != process.pid:
            await anyio.to_thread.run_sync(until_gone, pid)
    assert not await anyio.to_thread.run_sync(process.poll)
    process.abort()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give up on servers sooner."""
    monkeypatch.setattr(module, "_SIGNAL_TICKS", 2)
    monkeypatch.setattr(module, "_SILENT_TICKS", 10)


@pytest.mark.usefixtures("impatient")
async def test_server_that_does_not_answer_is_replaced_and_its_kernels_are_kept(
    until_gone,
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            first = await evaluate(kernel, "import os; os.getppid()")
            os.kill(first, signal.SIGSTOP)
            async with run_kernel("fork/kernel", finder=finder()) as other:
                assert await evaluate(other, "import os; os.getppid()") != first
            slow = kernel.execute("print('begun'); import time; time.sleep(1000)")
            await anext(slow)
            await kernel.interrupt()
            assert (await slow).error.ename == "KeyboardInterrupt"
            assert await evaluate(kernel, "6 * 7") == 42
        assert not await kernel.manager.is_alive()
        await anyio.to_thread.run_sync(until_gone, first)  # although the server is stopped


@pytest.mark.usefixtures("impatient")
async def test_server_that_answers_again_ends_with_its_last_kernel(until_gone) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            first = await evaluate(kernel, "import os; os.getppid()")
            os.kill(first, signal.SIGSTOP)
            async with run_kernel("fork/kernel", finder=finder()):
                os.kill(first, signal.SIGCONT)
                assert await evaluate(kernel, "6 * 7") == 42
            await kernel.manager.kill()
            assert await kernel.manager.wait() == -signal.SIGKILL
        await anyio.to_thread.run_sync(until_gone, first)


async def test_server_that_is_stopped_ends_with_the_program(tmp_path: Path) -> None:
    server = ForkServer.running([])
    process = await fork(server, "-f", str(tmp_path / "kernel.json"))
    os.kill(server.pid, signal.SIGSTOP)
    await anyio.to_thread.run_sync(ForkServer.close_all)
    assert await process.wait() is None
    process.close()


async def test_kernel_that_hangs_is_given_up(hanging: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ENTERING_TICKS", 2)
    server = ForkServer.running([])
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(OSError, match="working directory"):
        await fork(server, "-f", "kernel.json", TZ=hanging)
    assert not server.dead


async def test_server_that_dies_fails_every_launch(hanging: str) -> None:
    server = ForkServer.running([])

    async def launch() -> None:
        with pytest.raises(ServerLost, match="it has ended"):
            await fork(server, "-f", "kernel.json", TZ=hanging)

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(launch)
            while len(server._client._processes) < 3:  # noqa: ASYNC110 (a thread hears of them)
                await anyio.sleep(0.01)
            os.kill(server.pid, signal.SIGKILL)
