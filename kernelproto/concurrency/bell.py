"""Bell: wakes all tasks that wait, again and again."""

from __future__ import annotations

import anyio


class Bell:
    """Wakes all waiting tasks; unlike an Event, can be rung many times.

    A task checks a condition in a loop and waits while the condition is false:
    ``while not ready: await bell.wait()``. Code that may change the condition rings afterwards.
    Between the check and the wait there must be no checkpoint.
    """

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: anyio.Event | None = None

    def ring(self) -> None:
        """Wake the tasks that wait now."""
        if self._next is not None:
            self._next.set()
            self._next = None

    async def wait(self) -> None:
        """Wait for the next ring; earlier ones do not count."""
        if self._next is None:
            self._next = anyio.Event()
        await self._next.wait()
