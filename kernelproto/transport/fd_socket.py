"""A message socket over ``anyio.wait_readable``: for Trio, and for asyncio on Windows.

Theory of operation
===================

A zmq socket has one descriptor for both directions; BaseSocket describes its behaviour. Two rules
follow for waiting tasks:

- One task at a time watches the descriptor. The others wait for that task, and one of them
  continues when that task stops.
- Code that reads EVENTS, which clears the edge, wakes the watching task if an awaited event is set.
"""

from __future__ import annotations

import anyio
import zmq

from kernelproto.concurrency.bell import Bell
from kernelproto.transport.raw import BaseSocket, Context


class FDSocket(BaseSocket):
    """Implements MessageSocket."""

    def __init__(self, context: Context, kind: int, head: int = 0) -> None:
        super().__init__(context, kind, head)
        self._fd = int(self.raw.get(zmq.FD))
        self._watch: anyio.CancelScope | None = None
        self._news = Bell()
        self._awaited = 0  # the events that a task waits for

    async def _wait(self, event: int) -> bool:
        waited = False
        self._awaited |= event
        try:
            while not self._events() & event:
                waited = True
                if self._watch is None:
                    await self._watch_descriptor()
                else:
                    await self._news.wait()
        finally:
            self._awaited &= ~event
        return waited

    async def _watch_descriptor(self) -> None:
        with anyio.CancelScope() as self._watch:
            try:
                await anyio.wait_readable(self._fd)
            finally:
                self._watch = None
                self._news.ring()

    def _tell_waiting(self) -> None:
        if self._awaited:
            self._events()

    def _events(self) -> int:
        if not self.owner.is_here:
            return 0  # libzmq does nothing in a fork, and pyzmq would retry without end
        events = int(self.raw.get(zmq.EVENTS))
        if self._watch is not None and events & self._awaited:
            self._watch.cancel()
        return events
