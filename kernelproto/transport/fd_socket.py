"""A message socket over ``anyio.wait_readable``: for Trio, and for asyncio on Windows.

Theory of operation
===================

A zmq socket has one descriptor for both directions, and it is edge-triggered: it becomes readable
when the socket's state changes, and any operation on the socket may take that edge away. So nobody
may wait for the descriptor without having looked at EVENTS, and whoever has operated on the socket
must look at EVENTS for those who wait. Three rules follow:

- One task at a time watches the descriptor; the others wait for its news, and one of them takes its
  place when it leaves.
- After every operation EVENTS is read, and reading it is an operation. Whoever reads it wakes the
  watching task if there is something that is waited for.
- One task at a time waits to send, so that messages leave in the order in which they were given.
"""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import zmq
from anyio.lowlevel import checkpoint

from kernelproto.transport.raw import Context, RawSocket, drain, try_send
from kernelproto.wire.message import Frame


class FDSocket:
    """Implements MessageSocket."""

    def __init__(self, context: Context, kind: int) -> None:
        self.raw: RawSocket = context.socket(kind)
        self._fd = int(self.raw.get(zmq.FD))
        self._watch: anyio.CancelScope | None = None
        self._news: anyio.Event | None = None
        self._awaited = 0  # the events that a task waits for
        self._sending = anyio.Lock(fast_acquire=True)

    async def receive(self) -> list[list[bytes]]:
        batch = drain(self.raw, [])
        if batch:
            self._events()
            await checkpoint()
        while not batch:
            if not await self._wait(zmq.POLLIN):
                await checkpoint()
            drain(self.raw, batch)
            self._events()
        return batch

    def try_send(self, frames: Sequence[Frame]) -> bool:
        sent = try_send(self.raw, frames)
        self._events()
        return sent

    async def send(self, frames: Sequence[Frame]) -> None:
        async with self._sending:
            while not self.try_send(frames):
                await self._wait(zmq.POLLOUT)

    def close(self, linger_ms: int) -> None:
        self.raw.close(linger_ms)

    async def _wait(self, event: zmq.PollEvent) -> bool:
        """Wait until EVENTS has *event*; return whether there was need to."""
        waited = False
        self._awaited |= event
        try:
            while not self._events() & event:
                waited = True
                if self._watch is None:
                    await self._watch_descriptor()
                else:
                    self._news = self._news or anyio.Event()
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
                if self._news is not None:
                    self._news.set()
                    self._news = None

    def _events(self) -> int:
        """Read EVENTS, and wake the watching task if they have what is waited for."""
        events = int(self.raw.get(zmq.EVENTS))
        if self._watch is not None and events & self._awaited:
            self._watch.cancel()
        return events
