"""What happens to a kernel over its lifecycle, for whoever wants to know."""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias, TypeVar
from weakref import WeakSet

import msgspec

from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.task_groups import StartTask
from kernelproto.interfaces import DeathCause, DeathReason
from kernelproto.launch.failures import describe_exit
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

# A kernel has few events; whoever has not read so many has lost interest in the first.
_MOST_KEPT = 1000


class Died(msgspec.Struct, frozen=True):
    """The kernel's process has ended, and nobody here had asked for it.

    Args:
        returncode: its exit status, negative for a signal, None where it can't be known.
        reason: why, in words, where more is known; a DeathReason where its kind is known as well.
    """

    returncode: int | None
    reason: str | None = None

    def __str__(self) -> str:
        """Return in words how it has died: its exit status, and the reason."""
        return describe_exit(self.returncode) + (f" ({self.reason})" if self.reason else "")

    @property
    def cause(self) -> DeathCause:
        """The kind of the reason, or else whether it was a signal or an exit status."""
        if self.reason is not None:
            return self.reason.cause if isinstance(self.reason, DeathReason) else "other"
        if self.returncode is None:
            return "unknown"
        return "signal" if self.returncode < 0 else "exit_status"


class Restarted(msgspec.Struct, frozen=True):
    """The kernel runs and is ready again, in a new process.

    Args:
        auto: whether a KernelRestarter has done it, or somebody by hand.
        connection_info: where the kernel is now.
        attempt: the how manieth start in a row it was; 1 by hand.
    """

    auto: bool
    connection_info: ConnectionInfo
    attempt: int


class Failed(msgspec.Struct, frozen=True):
    """The KernelRestarter has given up: the kernel stays dead.

    Args:
        attempts: how many starts in a row were in vain.
    """

    attempts: int


KernelEvent: TypeAlias = Died | Restarted | Failed
EventT = TypeVar("EventT", Died, Restarted, Failed)
Callback = Callable[[EventT], Awaitable[None] | None]


class KernelEvents(AsyncIterator[KernelEvent]):
    """Iterates over a kernel's events from when it was made; ``Kernel.events`` makes it.

    It ends when the kernel was shut down. It keeps the last 1,000 events that were not read yet.
    """

    def __init__(self) -> None:
        self._unread: deque[KernelEvent] = deque(maxlen=_MOST_KEPT)
        self._ended = False
        self._news = Bell()

    def put(self, event: KernelEvent) -> None:
        """Take in an event."""
        self._unread.append(event)
        self._news.ring()

    def end(self) -> None:
        """End the iteration, after what is unread."""
        self._ended = True
        self._news.ring()

    async def __anext__(self) -> KernelEvent:
        while not self._unread:
            if self._ended:
                raise StopAsyncIteration
            await self._news.wait()
        return self._unread.popleft()


class EventHub:
    """Tells a kernel's events to all who listen.

    Args:
        start_task: runs what asynchronous callbacks return.
    """

    def __init__(self, start_task: StartTask) -> None:
        self._start_task = start_task
        self._listeners: WeakSet[KernelEvents] = WeakSet()
        self._callbacks: list[tuple[Callback[Any], type[KernelEvent]]] = []
        self._ended = False

    def listen(self) -> KernelEvents:
        """Return an iterator over the events from now on."""
        listener = KernelEvents()
        if self._ended:
            listener.end()
        self._listeners.add(listener)
        return listener

    def add_callback(self, callback: Callback[EventT], event: type[EventT]) -> None:
        """Call a function for every event of a kind; see ``KernelRestarter.add_callback``."""
        self._callbacks.append((callback, event))

    def remove_callback(self, callback: Callback[EventT], event: type[EventT]) -> None:
        """Call it no more; one that is not there is ignored."""
        if (callback, event) in self._callbacks:
            self._callbacks.remove((callback, event))

    def emit(self, event: KernelEvent) -> None:
        """Tell everybody."""
        for listener in self._listeners:
            listener.put(event)
        for callback, kind in list(self._callbacks):
            if isinstance(event, kind):
                self._call(callback, event)

    def end(self) -> None:
        """End every iteration: nothing will happen to this kernel any more."""
        self._ended = True
        for listener in self._listeners:
            listener.end()

    def _call(self, callback: Callback[Any], event: KernelEvent) -> None:
        try:
            outcome = callback(event)
        except Exception:
            logger.exception("%r failed on %r", callback, event)
        else:
            if inspect.isawaitable(outcome):
                self._start_task(_finish, outcome)


async def _finish(outcome: Awaitable[None]) -> None:
    await outcome
