"""A message socket that an asyncio loop watches directly, without a separate task."""

from __future__ import annotations

import asyncio
from contextvars import Context as Variables
from contextvars import copy_context

import zmq
from anyio.lowlevel import checkpoint_if_cancelled

from kernelproto.transport.raw import MOST_AT_ONCE, READABLE, BaseSocket, Context, Take

try:
    import sniffio
except ImportError:
    sniffio = None  # type: ignore[assignment]


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

    The loop watches the descriptor for the whole life of the socket, because ``add_reader`` takes
    longer than the rest of a receive. Each waiting task has a future, which is resolved by any code
    that reads EVENTS and finds the awaited event. ``listen`` has no future: messages are handed
    over in the same turn of the loop that finds them; to wake a task would take another turn.
    """

    def __init__(self, context: Context, kind: int, head: int = 0) -> None:
        super().__init__(context, kind, head)
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._take: Take | None = None
        self._over: asyncio.Future[None]
        self._again: asyncio.Handle | None = None
        self._fd = int(self.raw.get(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._context = _context_of_asyncio()
        try:
            self._context.run(self._loop.add_reader, self._fd, self._arrived)
        except BaseException:  # an open socket would block the end of the zmq context for ever
            self.raw.close(0)
            raise

    def close(self, linger_ms: int) -> None:
        if self.owner.is_here:  # a forked child shares the parent's descriptor
            self._loop.remove_reader(self._fd)
        super().close(linger_ms)

    async def listen(self, take: Take) -> None:
        await checkpoint_if_cancelled()
        self._over = self._loop.create_future()
        self._take = take
        try:
            self._hand_over_soon()
            await self._over  # until this is cancelled, or *take* raises
        finally:
            self._take = None
            if self._again is not None:
                self._again.cancel()
                self._again = None

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
        if self._take is not None:
            if self._events() & READABLE:
                self._hand_over_soon()
        elif self._waiting:
            self._events()

    def _events(self) -> int:
        if not self.owner.is_here:
            return 0  # libzmq does nothing in a fork, and pyzmq would retry without end
        events = int(self.raw.get(zmq.EVENTS))
        for event, future in self._waiting.items():
            if events & event and not future.done():
                future.set_result(None)
        return events

    def _arrived(self) -> None:
        """Take note that the descriptor has become readable."""
        if self._take is None:
            self._events()
        else:
            self._hand_over(self._take)

    def _hand_over_soon(self) -> None:
        if self._again is None:
            self._again = self._loop.call_soon(self._hand_over_again, context=self._context)

    def _hand_over_again(self) -> None:
        self._again = None
        if self._take is not None:
            self._hand_over(self._take)

    def _hand_over(self, take: Take) -> None:
        try:
            batch = self._drain()
            for frames in batch:
                take(frames)
        except BaseException as error:
            self._take = None
            if not self._over.done():
                self._over.set_exception(error)
        else:
            if len(batch) == MOST_AT_ONCE:  # let other tasks run first
                self._hand_over_soon()
            if self._waiting:
                self._events()


def _context_of_asyncio() -> Variables:
    """Return a copy of the current context in which anyio detects asyncio without a task."""
    context = copy_context()
    if sniffio is not None:
        context.run(sniffio.current_async_library_cvar.set, "asyncio")
    return context
