"""The clock of a kernel's start, which stops while the kernel waits in a queue.

Supervision measures each start with a StartupClock. The code that launches the kernel may be in the
provider of another package, so the clock is a context variable.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import cast

import anyio

from kernelproto.timeouts import Timeouts

_running: ContextVar[StartupClock | None] = ContextVar("kernelproto_startup_clock", default=None)


class StartupClock:
    """The time that the start of a kernel may still take, from now on.

    Args:
        timeouts: ``startup`` limits the time of the start, ``queue`` the time in queues.

    Attributes:
        ran_out_in_queue: whether the time in queues was over, and not that of the start.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self.ran_out_in_queue = False
        self._startup_left = timeouts.startup
        self._queue_left = timeouts.queue
        self._stops = 0
        self._since = anyio.current_time()
        self._scope: anyio.CancelScope | None = None

    def limit(self) -> AbstractContextManager[anyio.CancelScope, bool]:
        """Cancel the block when the time is over; one block at a time."""
        # A type checker has to know that the code behind the block can be reached.
        return cast("AbstractContextManager[anyio.CancelScope, bool]", self._limit())

    @contextmanager
    def _limit(self) -> Generator[anyio.CancelScope]:
        running = _running.set(self)
        try:
            with anyio.CancelScope(deadline=self._deadline) as self._scope:
                yield self._scope
        finally:
            self._scope = None
            _running.reset(running)

    @contextmanager
    def stopped(self) -> Generator[None]:
        """Count the time of the block as time in a queue; blocks may overlap."""
        self._count(1)
        try:
            yield
        finally:
            if self._scope is not None and self._scope.cancel_called:
                self.ran_out_in_queue = True
            self._count(-1)

    @property
    def _deadline(self) -> float:
        return self._since + (self._queue_left if self._stops else self._startup_left)

    def _count(self, change: int) -> None:
        now = anyio.current_time()
        if self._stops:
            self._queue_left -= now - self._since
        else:
            self._startup_left -= now - self._since
        self._since = now
        self._stops += change
        if self._scope is not None:
            self._scope.deadline = self._deadline


@contextmanager
def waiting_in_queue() -> Generator[None]:
    """Do not count the block as start-up time: the kernel waits in a queue, or for a connection.

    For ``KernelProvider.launch``. The time counts for ``Timeouts.queue`` instead of
    ``Timeouts.startup``. After ``Timeouts.queue``, the launch is cancelled, and the caller gets
    KernelNotReady with the phase "queue". The block may be in a task that the launch has started.
    Outside of a supervised launch, the block does nothing.
    """
    clock = _running.get()
    if clock is None:
        yield
    else:
        with clock.stopped():
            yield
