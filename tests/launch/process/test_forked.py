from __future__ import annotations

import os
import signal
import subprocess

import pytest

from kernelproto.launch.process.forked import ForkedProcess, ForkRequest
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.programs.watchdog import start_time

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


class Server:
    """Notes the signals that it is asked to send."""

    def __init__(self) -> None:
        self.signals: list[tuple[int, int]] = []
        self.kept: list[int] = []

    def keep(self, process: ForkedProcess) -> None:
        self.kept.append(process.pid)

    def forget(self, process: ForkedProcess) -> None:
        self.kept.remove(process.pid)

    def send_signal(self, process: ForkedProcess, signum: int) -> None:
        self.signals.append((process.pid, signum))


def forked(pid: int, started: str = "") -> tuple[Server, ForkedProcess]:
    server, request = Server(), ForkRequest(1)
    process = request.process = ForkedProcess(server, pid, started, request)
    return server, process


async def test_answer_is_the_process_or_the_error() -> None:
    request = ForkRequest(1)
    request.process = ForkedProcess(Server(), 7, "", request)
    request.succeed()
    assert await request.answer() is request.process
    request.process.end(None)
    request.process.close()
    failed = ForkRequest(2)
    failed.fail(OSError("no"))
    with pytest.raises(OSError, match="no"):
        await failed.answer()
    failed.close()


async def test_end_is_noticed_once() -> None:
    ends: list[str] = []
    server, process = forked(7)
    process.before_reaping = lambda: ends.append("noticed")
    process.terminate()
    assert not process.poll()
    process.end(Exit(3, cpu_seconds=0.0, peak_memory=0))
    assert await process.wait() == 3
    assert process.poll()
    process.kill()  # ignored
    process.close()
    assert ends == ["noticed"]
    assert server.signals == [(7, signal.SIGTERM)]


async def test_aborted_process_closes_its_descriptor_at_its_end() -> None:
    server, process = forked(7)
    process.abort()
    assert server.signals == [(7, signal.SIGKILL)]
    process.end(None)
    assert process._sign.closed


async def test_released_process() -> None:
    server, process = forked(7)
    process.outlive()
    assert server.kept == [7]
    process.release()
    assert server.kept == []
    with pytest.raises(RuntimeError, match="released"):
        await process.wait()
    process.end(None)  # the server had sent this already
    process.close()


def test_signals_without_the_server_reach_the_same_process_only() -> None:
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    _, other = forked(child.pid, "1")
    other.signal_directly(signal.SIGKILL)
    assert other.has_ended()
    os.kill(child.pid, 0)
    _, process = forked(child.pid, start_time(child.pid))
    assert not process.has_ended()
    process.signal_directly(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert process.has_ended()
    for one in (other, process):
        one.end(None)
        one.close()
