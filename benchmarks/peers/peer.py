"""The Protocols of the contenders.

The questions are coroutines. A contender without an event loop runs them step by step: its
coroutines wait only inside their own blocking calls.
"""

from __future__ import annotations

import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import anyio

T = TypeVar("T")

Program = Callable[[], Awaitable[T]]

# A sample that takes longer has failed.
LONGEST_SECONDS = 60.0


class Streamed(NamedTuple):
    """The number of outputs that were read, and the time it took.

    Args:
        outputs: number of outputs; for ``buffers``, number of bytes.
        seconds: from the time in the first output, by the kernel's clock, to the end.
    """

    outputs: int
    seconds: float


def since(text: str | None) -> float:
    """Return the seconds since the time in *text*; all processes share this clock."""
    return time.monotonic() - float(text or "nan")


class Client(Protocol):
    """A client that is connected to a kernel and receives its outputs."""

    async def execute(self, code: str) -> int:
        """Run code; wait for outputs, reply and "idle", and return the number of outputs."""
        ...

    async def stream(self, code: str) -> Streamed:
        """Run code whose first output is the time; read each output as it arrives."""
        ...

    async def buffers(self, code: str) -> Streamed:
        """Run code; return the number of bytes in the buffers of its displays, and the time."""
        ...

    async def pipeline(self, code: str, count: int) -> None:
        """Send *count* requests at once, and wait for all of them."""
        ...


async def trip_milliseconds(client: Client, code: str, count: int) -> float:
    """Return the median of *count* executions with one output, after a tenth as many more."""
    taken: list[float] = []
    for _ in range(count + count // 10):
        began = time.perf_counter()
        outputs = await client.execute(code)
        taken.append(time.perf_counter() - began)
        if outputs != 1:
            raise RuntimeError(f"{outputs} outputs instead of one")
    return statistics.median(taken[count // 10 :]) * 1e3


class Launched(Protocol):
    """A ready kernel that this contender has started."""

    client: Client
    pid: int

    async def shutdown(self) -> None:
        """End the kernel; return when its process is gone."""
        ...

    async def death(self, code: str) -> None:
        """Run code; return when the death of the kernel is reported."""
        ...


class Launcher(Protocol):
    """A contender that starts kernels."""

    name: str

    def run(self, program: Program[T]) -> T:
        """Run a coroutine function in a new event loop."""
        ...

    def launch(self) -> AbstractAsyncContextManager[Launched]:
        """Start a kernel; leaving the block ends it."""
        ...


class Peer(ABC):
    """A contender that talks to kernels; on asyncio by default."""

    name: str

    def run(self, program: Program[T]) -> T:
        """Run a coroutine function in a new event loop."""
        return run_in("asyncio", program)

    @abstractmethod
    def connect(self, file: Path) -> AbstractAsyncContextManager[Client]:
        """Connect to the kernel of a connection file."""

    async def each(self, clients: Sequence[Any], code: str, count: int) -> None:
        """Run code *count* times on each of *clients*, concurrently."""

        async def one(client: Client) -> None:
            for _ in range(count):
                await client.execute(code)

        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(one, client)


def run_in(loop: str, program: Program[T]) -> T:
    """Run a coroutine function in the named event loop: asyncio, uvloop or trio."""

    async def bounded() -> T:
        with anyio.fail_after(LONGEST_SECONDS):
            return await program()

    backend = "trio" if loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    return anyio.run(partial(bounded), backend=backend, backend_options=options)


def run_by_hand(program: Program[T]) -> T:
    """Run a coroutine function that never yields to an event loop."""
    steps = program().__await__()
    try:
        next(steps)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("there is no event loop to wait in")
