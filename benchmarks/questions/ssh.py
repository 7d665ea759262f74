"""What does SSH cost: start, round trip and flood of a kernel on another machine?

The other machine is this one, with an sshd on loopback as in the tests. Both kernels are stock
ipykernels in a host, so that only the link differs. The connection is open before.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any

import anyio

from benchmarks.exceptions import Skipped
from benchmarks.lab import Lab, Sizes
from benchmarks.question import Contender, Goal, Question
from benchmarks.questions.host import displays_per_second, trip_milliseconds
from kernelproto import Kernel, KernelFinder, run_kernel, start_kernel
from kernelproto.ssh import SSHProvider
from kernelproto.ssh.connection import connection_to

if TYPE_CHECKING:
    from tests.ssh.sshd import Sshd

_TRIPS_OF_LINK = Sizes(1000, 200, 3)

_LINGER_SECONDS = 60.0

_SSH = "kernelproto, over SSH"
_LOCAL = "kernelproto, through a local host"
_ADDED = "added by SSH"
_LINK = "the link alone"

_ROUNDS = Sizes(7, 3, 1)


class _Started:
    """A kernel that was just started, and the time of the request."""

    def __init__(self, kernel: Kernel, began: float) -> None:
        self.kernel = kernel
        self.began = began


_Open = Callable[["Sshd"], AbstractAsyncContextManager[_Started]]


@contextmanager
def _sshd() -> Generator[Sshd]:
    """Run an sshd as the tests do."""
    if os.name != "posix":
        raise Skipped("there is no host on this system")
    try:
        import pytest

        from tests.ssh.sshd import running_sshd
    except ImportError:
        raise Skipped("pytest is not installed") from None
    with ExitStack() as ends:
        try:
            sshd = ends.enter_context(running_sshd())
        except pytest.skip.Exception as reason:
            raise Skipped(str(reason)) from None
        yield sshd


@asynccontextmanager
async def _far(sshd: Sshd) -> AsyncGenerator[_Started]:
    finder = KernelFinder([SSHProvider({"far": sshd.options}, linger=_LINGER_SECONDS)])
    async with connection_to("far", sshd.options).held() as connection:
        await connection.open()
        began = time.perf_counter()
        async with run_kernel("ssh/far/python3", finder=finder) as kernel:
            yield _Started(kernel, began)


@asynccontextmanager
async def _local(sshd: Sshd) -> AsyncGenerator[_Started]:
    began = time.perf_counter()
    kernel = await start_kernel(
        "spec/python3",
        detached=True,
        host=True,
        linger=_LINGER_SECONDS,
        launch_params={"transport": "ipc"},
    )
    try:
        yield _Started(kernel, began)
    finally:
        await kernel.shutdown()


async def _seconds_of_start(started: _Started, lab: Lab) -> float:
    await started.kernel.execute("1")
    return time.perf_counter() - started.began


async def _trip(started: _Started, lab: Lab) -> float:
    await started.kernel.execute("pass")
    return await trip_milliseconds(started.kernel, lab)


async def _flood(started: _Started, lab: Lab) -> float:
    await started.kernel.execute("pass")
    return await displays_per_second(started.kernel, lab)


def _ask(open_kernel: _Open, work: Callable[..., Coroutine[Any, Any, float]], lab: Lab) -> float:
    async def program(sshd: Sshd) -> float:
        async with open_kernel(sshd) as started:
            return await work(started, lab)

    with _sshd() as sshd:
        return anyio.run(program, sshd)


def _added(lab: Lab) -> float:
    """Return how many ms longer a round trip takes than in a local host, measured in one run."""

    async def program(sshd: Sshd) -> float:
        async with _far(sshd) as far, _local(sshd) as local:
            return await _trip(far, lab) - await _trip(local, lab)

    with _sshd() as sshd:
        return anyio.run(program, sshd)


def _link(lab: Lab) -> float:
    """Return the ms that a byte takes through the link and back."""

    async def program(sshd: Sshd) -> float:
        path = str(sshd.folder / "echo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            os.chmod(path, 0o666)
            listener.listen()
            echo = Thread(target=_echo, args=[listener], daemon=True)
            echo.start()
            async with (
                connection_to("far", sshd.options).held() as connection,
                await connection.connect(path) as stream,
            ):
                taken: list[float] = []
                for _ in range(lab.size(_TRIPS_OF_LINK)):
                    began = time.perf_counter()
                    await stream.send(b"x")
                    await stream.receive()
                    taken.append(time.perf_counter() - began)
            echo.join()
        return statistics.median(taken) * 1e3

    with _sshd() as sshd:
        return anyio.run(program, sshd)


def _echo(listener: socket.socket) -> None:
    """Send back all that one connection sends."""
    end, _ = listener.accept()
    with end:
        while data := end.recv(1000):
            end.sendall(data)


def _contenders(work: Callable[..., Coroutine[Any, Any, float]]) -> list[Contender]:
    return [
        Contender(_LOCAL, partial(_ask, _local, work)),
        Contender(_SSH, partial(_ask, _far, work)),
    ]


QUESTIONS = [
    Question(
        name="ssh.start",
        title="Start of a kernel on another machine, to its first result",
        unit="s",
        contenders=_contenders(_seconds_of_start),
        rounds=_ROUNDS,
    ),
    Question(
        name="ssh.round_trip",
        title="A short execution on another machine",
        unit="ms",
        contenders=_contenders(_trip),
        rounds=_ROUNDS,
    ),
    Question(
        name="ssh.added",
        title="Time that SSH adds to a short execution, beside the link's own round trip",
        unit="ms",
        contenders=[Contender(_ADDED, _added), Contender(_LINK, _link)],
        goals=[Goal(subject=_ADDED, floor=_LINK, limit=2.0)],
        rounds=_ROUNDS,
    ),
    Question(
        name="ssh.flood",
        title="A flood of displays on another machine",
        unit="messages/s",
        better="more",
        contenders=_contenders(_flood),
        goals=[Goal(subject=_SSH, baseline=_LOCAL, limit=0.5)],
        rounds=_ROUNDS,
    ),
]
