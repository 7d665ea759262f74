"""The logic of windows.py, over a stand-in for the system; whether it runs there is not shown."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import anyio
import pytest

from kernelproto.exceptions import UnsupportedRequest
from kernelproto.launch.output.forward import Forwarder
from kernelproto.launch.process.windows import JobProcess, ThreadedTail

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
FOR_EVER = "import signal; signal.pause()"


class System:
    """Replaces Windows: counts handles, and holds the processes of a job in a list."""

    def __init__(self) -> None:
        self.open: dict[int, str] = {}
        self.events_set: list[int] = []
        self.jobs: dict[int, list[subprocess.Popen]] = {}
        self.inherited: list[int] = []
        self.refusal: str | None = None
        self.processes: list[subprocess.Popen] = []

    def create_event(self) -> int:
        return self._new("event")

    def set_event(self, event: int) -> None:
        assert self.open[event] == "event"
        self.events_set.append(event)

    def this_process(self) -> int:
        return self._new("process")

    def create_job(self) -> int:
        job = self._new("job")
        self.jobs[job] = []
        return job

    def put_into_job(self, job: int, process: subprocess.Popen) -> None:
        self._refuse("put_into_job")
        self.jobs[job].append(process)

    def end_job(self, job: int, status: int) -> None:
        assert self.open[job] == "job"
        for process in self.jobs[job]:
            process.kill()

    def close(self, handle: int) -> None:
        del self.open[handle]

    def start(self, command, env, cwd, output, inherited) -> subprocess.Popen:
        self._refuse("start")
        assert all(handle in self.open for handle in inherited)
        self.inherited = list(inherited)
        self.processes.append(
            subprocess.Popen(command, env=env, cwd=cwd, stdout=output, stderr=output)
        )
        return self.processes[-1]

    def _new(self, kind: str) -> int:
        handle = 100 + 4 * len(self.open)
        self.open[handle] = kind
        return handle

    def _refuse(self, step: str) -> None:
        if self.refusal == step:
            raise OSError(5, "Access is denied")


@pytest.fixture
def system() -> System:
    return System()


@pytest.fixture
def start(system) -> Iterator[Callable[..., JobProcess]]:
    """Give a function that runs Python code as a kernel would be run."""
    tail = ThreadedTail()
    processes: list[JobProcess] = []

    def run(code: str, parent: bool = True, **options) -> JobProcess:
        env = {**os.environ, "JPY_PARENT_PID": "1"} if parent else os.environ
        command = [sys.executable, "-c", code]
        process = JobProcess(
            command, env=env, cwd=None, output=options.get("output", tail.write_end), win32=system
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.abort()
    tail.close()


async def wait(process: JobProcess) -> int | None:
    with anyio.fail_after(GUARD_SECONDS):
        return await process.wait()


async def test_exit_status(start, system) -> None:
    process = start("raise SystemExit(7)")
    assert await wait(process) == 7
    assert process.exit.returncode == 7
    assert process.poll()
    assert not process.killed
    process.close()
    process.close()
    assert system.open == {}
    assert await wait(process) == 7


async def test_wait_in_many_tasks(start) -> None:
    process = start(FOR_EVER)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait, process)
        await anyio.wait_all_tasks_blocked()
        process.terminate()
    assert process.killed
    assert process.poll()


async def test_kernel_finds_its_handles(start, system) -> None:
    tail = ThreadedTail()
    names = "JPY_INTERRUPT_EVENT", "IPY_INTERRUPT_EVENT", "JPY_PARENT_PID"
    process = start(f"import os; print(*map(os.environ.get, {names}))", output=tail.write_end)
    await wait(process)
    tail.close()
    event, same, program = map(int, tail.text().split())
    assert event == same
    assert system.inherited == [event, program]
    assert sorted(system.open.values()) == ["event", "job"]  # the kernel has its copy of the third


async def test_detached_kernel_is_in_no_job(start, system) -> None:
    process = start(FOR_EVER, parent=False)
    assert list(system.open.values()) == ["event"]
    process.release()
    assert system.open == {}
    assert not process.poll()


async def test_interrupt(start, system) -> None:
    process = start(FOR_EVER)
    process.interrupt()
    process.signal(signal.SIGINT)
    assert [system.open[event] for event in system.events_set] == ["event"] * 2
    process.kill()
    await wait(process)
    process.interrupt()
    assert len(system.events_set) == 2


@pytest.mark.parametrize("signum", [signal.SIGTERM, 9])
async def test_signals(start, signum) -> None:
    process = start(FOR_EVER)
    process.signal(0)
    assert not process.poll()
    process.signal(signum)
    await wait(process)
    assert process.poll()
    process.signal(signum)
    with pytest.raises(UnsupportedRequest, match="no signal 10 on Windows"):
        process.signal(10)


async def test_processes_that_outlive_the_kernel_are_ended(start, system) -> None:
    process = start("")
    other = subprocess.Popen(["sleep", "1000"])  # noqa: ASYNC220
    for job in system.jobs.values():
        job.append(other)
    await wait(process)
    assert other.wait() == -signal.SIGKILL


@pytest.mark.parametrize("step", ["start", "put_into_job"])
async def test_nothing_is_left_of_a_failure(start, system, step) -> None:
    system.refusal = step
    with pytest.raises(OSError, match="Access is denied"):
        start(FOR_EVER)
    assert system.open == {}
    assert all(process.poll() is not None for process in system.processes)


async def test_no_thread_can_be_started(start, system, monkeypatch) -> None:
    def fail(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="thread"):
            start(FOR_EVER)
    assert system.open == {}
    assert all(process.poll() is not None for process in system.processes)


async def test_tail() -> None:
    received = bytearray()
    relay = Forwarder(received.extend)
    tail = ThreadedTail(relay)
    tail.write_end.write(b"x" * 100_000)
    tail.write_end.write("\u00e9".encode() + b"\xff")
    tail.close()
    tail.close()
    assert tail.text() == "x" * (64 * 1024 - 3) + "\u00e9\ufffd"
    assert relay.join(GUARD_SECONDS)
    assert len(received) == 100_003
