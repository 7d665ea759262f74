"""A message socket that an asyncio loop watches: the loop itself, without a task of its own."""

from __future__ import annotations

import asyncio

import zmq

from kernelproto.transport.raw import BaseSocket, Context


def usable() -> bool:
    """Return whether the calling task runs on an asyncio loop that can watch descriptors."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    if asyncio.current_task(loop) is None:  # Trio as a guest of an asyncio loop
        return False
    # The Proactor loop of Windows has no add_reader.
    return type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader


class AsyncioSocket(BaseSocket):
    """Implements MessageSocket.

    The descriptor is watched from the first to the last, because beginning to takes longer than
    all the rest of a receive. Whoever waits has a future, which is resolved by whoever finds in
    EVENTS what is waited for.
    """

    def __init__(self, context: Context, kind: int) -> None:
        super().__init__(context, kind)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._fd = int(self.raw.get(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._events)

    def close(self, linger_ms: int) -> None:
        self._loop.remove_reader(self._fd)
        super().close(linger_ms)

    async def _wait(self, event: int) -> bool:
        if self._events() & event:
            return False
        self._waiting[event] = self._loop.create_future()
        try:
            await self._waiting[event]
        finally:
            del self._waiting[event]
        return True

    def _tell_waiting(self) -> None:
        if self._waiting:
            self._events()

    def _events(self) -> int:
        """Read EVENTS, which takes the edge away, and wake those who wait for what they have."""
        events = int(self.raw.get(zmq.EVENTS))
        for event, future in self._waiting.items():
            if events & event and not future.done():
                future.set_result(None)
        return events
