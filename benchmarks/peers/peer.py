"""What everybody who is measured can do, in words that every question uses.

The questions are written as coroutines. Who has no event loop drives them by hand: its coroutines
never wait for anything but their own blocking calls.
"""

from __future__ import annotations

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
    """Outputs that were read as they came, and the time that it took.

    Args:
        outputs: how many; of ``buffers`` the bytes.
        seconds: from the time that the first output tells, by the kernel's clock, to the end.
    """

    outputs: int
    seconds: float


def since(text: str | None) -> float:
    """Return the seconds since the time that is written there; processes share this clock."""
    return time.monotonic() - float(text or "nan")


class Client(Protocol):
    """Connected to a kernel, whose outputs arrive."""

    async def execute(self, code: str) -> int:
        """Run code; return the number of outputs once they, the reply and "idle" are here."""
        ...

    async def stream(self, code: str) -> Streamed:
        """Run code whose first output is the time, reading each output as it comes."""
        ...

    async def buffers(self, code: str) -> Streamed:
        """Run code; return the bytes of the buffers that its displays carry, and the time."""
        ...

    async def pipeline(self, code: str, count: int) -> None:
        """Send *count* requests at once, and wait for all of them."""
        ...


class Launched(Protocol):
    """A kernel of one's own that is ready."""

    client: Client
    pid: int

    async def shutdown(self) -> None:
        """End the kernel; return when its process is gone."""
        ...

    async def death(self, code: str) -> None:
        """Run code, and return when one is told that the kernel has died."""
        ...


class Launcher(Protocol):
    """Somebody who starts kernels."""

    name: str

    def run(self, program: Program[T]) -> T:
        """Run a coroutine function in an event loop of its own."""
        ...

    def launch(self) -> AbstractAsyncContextManager[Launched]:
        """Start a kernel; leaving the block ends it."""
        ...


class Peer(ABC):
    """Somebody who talks to kernels; by default on asyncio."""

    name: str

    def run(self, program: Program[T]) -> T:
        """Run a coroutine function in an event loop of its own."""
        return run_in("asyncio", program)

    @abstractmethod
    def connect(self, file: Path) -> AbstractAsyncContextManager[Client]:
        """Connect to the kernel of a connection file."""

    async def each(self, clients: Sequence[Any], code: str, count: int) -> None:
        """Run code *count* times on every one of *clients*, all at the same time."""

        async def one(client: Client) -> None:
            for _ in range(count):
                await client.execute(code)

        async with anyio.create_task_group() as tasks:
            for client in clients:
                tasks.start_soon(one, client)


def run_in(loop: str, program: Program[T]) -> T:
    """Run a coroutine function in the event loop of that name: asyncio, uvloop or trio."""

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
