"""Events of a kernel: Died, Restarted, Failed, Unreachable, Reachable."""

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

# A kernel has few events: a reader with more than this unread can do without the oldest.
_MOST_KEPT = 1000


class Died(msgspec.Struct, frozen=True):
    """The kernel's process has ended without a request of this program.

    Args:
        returncode: the exit status, negative for a signal; None if unknown.
        reason: the reason in words; a DeathReason if the kind is known; None if unknown.
    """

    returncode: int | None
    reason: str | None = None

    def __str__(self) -> str:
        """Return the exit status and the reason in words."""
        return describe_exit(self.returncode) + (f" ({self.reason})" if self.reason else "")

    @property
    def cause(self) -> DeathCause:
        """The kind of the reason, or else whether a signal or an exit status ended the process."""
        if self.reason is not None:
            return self.reason.cause if isinstance(self.reason, DeathReason) else "other"
        if self.returncode is None:
            return "unknown"
        return "signal" if self.returncode < 0 else "exit_status"


class Restarted(msgspec.Struct, frozen=True):
    """The kernel is ready again, in a new process.

    Args:
        auto: whether a KernelRestarter restarted the kernel, and not ``Kernel.restart``.
        connection_info: the addresses of the new process.
        attempt: the consecutive attempt number, starting at 1; 1 for ``Kernel.restart``.
    """

    auto: bool
    connection_info: ConnectionInfo
    attempt: int


class Failed(msgspec.Struct, frozen=True):
    """The KernelRestarter has given up: the kernel stays dead.

    Args:
        attempts: the number of consecutive restarts that failed.
    """

    attempts: int


class Unreachable(msgspec.Struct, frozen=True):
    """The connection to the kernel is lost; the kernel may still run.

    Args:
        problem: the reason in words.
    """

    problem: str


class Reachable(msgspec.Struct, frozen=True):
    """The connection to the kernel is back, and the kernel is the same.

    Args:
        seconds: how long the kernel could not be reached.
    """

    seconds: float


KernelEvent: TypeAlias = Died | Restarted | Failed | Unreachable | Reachable
EventT = TypeVar("EventT", Died, Restarted, Failed, Unreachable, Reachable)
Callback = Callable[[EventT], Awaitable[None] | None]


class KernelEvents(AsyncIterator[KernelEvent]):
    """Iterates over a kernel's events; made by ``Kernel.events``.

    The iteration ends when the kernel was shut down. The last 1,000 unread events are kept.
    """

    def __init__(self) -> None:
        self._unread: deque[KernelEvent] = deque(maxlen=_MOST_KEPT)
        self._ended = False
        self._news = Bell()

    def put(self, event: KernelEvent) -> None:
        """Add an event."""
        self._unread.append(event)
        self._news.ring()

    def end(self) -> None:
        """End the iteration after the unread events."""
        self._ended = True
        self._news.ring()

    async def __anext__(self) -> KernelEvent:
        while not self._unread:
            if self._ended:
                raise StopAsyncIteration
            await self._news.wait()
        return self._unread.popleft()


class EventHub:
    """Delivers a kernel's events to iterators and callbacks.

    Args:
        start_task: starts a task for the awaitable that an async callback returns.
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
        """Remove a callback; an unknown callback is ignored."""
        if (callback, event) in self._callbacks:
            self._callbacks.remove((callback, event))

    def emit(self, event: KernelEvent) -> None:
        """Deliver an event to every iterator and callback."""
        for listener in self._listeners:
            listener.put(event)
        for callback, kind in list(self._callbacks):
            if isinstance(event, kind):
                self._call(callback, event)

    def end(self) -> None:
        """End every iteration: there are no more events."""
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
