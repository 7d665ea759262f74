"""Pacing: limit the protocol work of an event loop turn, in fair shares for all connections.

The size of received data does not limit the resulting work, because an HTTP chunk or a WebSocket
frame can be as short as six bytes. An event loop delivers all bytes that have arrived (with uvloop
several megabytes), and uvicorn parses them in one go. Other clients would wait for seconds.

How it works
------------
A ``PacedTransport`` stands between the transport of a connection and its protocol. The
PacedTransport buffers received data and passes the data to the protocol in slices of SLICE_BYTES.
While the buffer holds more than one slice, or any data for a protocol that has paused, the
transport does not read: the network slows down a client that sends too fast. A pause during which
no data arrives takes no system call, because a WebSocket pauses after each message until the
application takes the message.

One ``Pacer`` for the server chooses the connection that is next. In each turn of the event loop the
Pacer passes on slices for TURN_SECONDS, and continues in the next turn. Connections that have just
received data come before connections that have already had a slice, so clients that send little do
not wait for clients that send much.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

# At most 350 chunks or frames, which take a few milliseconds.
SLICE_BYTES = 2048

TURN_SECONDS = 0.005

# The time for a client to read the last response and stop sending.
LINGER_SECONDS = 5


class Pacer:
    """Passes slices of received data to the protocols of many connections."""

    def __init__(self) -> None:
        self._first: deque[PacedTransport] = deque()
        self._more: deque[PacedTransport] = deque()
        self._is_scheduled = False

    def add(self, transport: PacedTransport, *, is_first: bool) -> None:
        """Give a transport one turn soon.

        Args:
            transport: has received data, and is not in the queue.
            is_first: whether the transport precedes those that have already had a turn for their
                data.
        """
        (self._first if is_first else self._more).append(transport)
        self._schedule(transport.loop)

    def _schedule(self, loop: Any) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            loop.call_soon(self._turn, loop)

    def _turn(self, loop: Any) -> None:
        self._is_scheduled = False
        deadline = time.perf_counter() + TURN_SECONDS
        try:
            while self._first:
                self._first.popleft().take_turn()
                if time.perf_counter() > deadline:
                    break
            while self._more:  # at least one of them, even if the time is up
                self._more.popleft().take_turn()
                if time.perf_counter() > deadline:
                    break
        finally:
            if self._first or self._more:
                self._schedule(loop)


class PacedTransport:
    """A transport that passes received data to the protocol in slices.

    Args:
        transport: the transport of the connection.
        loop: the event loop.
        pacer: schedules the slices.
        data_received: the method of the protocol that takes a slice.
        lingers: returns whether the client may still be sending when the protocol closes the
            connection. Closing at once would then destroy a response that the client has not read
            yet, so the transport discards further data for at most LINGER_SECONDS.

    Attributes:
        loop: the event loop.
    """

    def __init__(
        self,
        transport: Any,
        loop: Any,
        pacer: Pacer,
        data_received: Callable[[Any], None],
        lingers: Callable[[], bool],
    ) -> None:
        self.loop = loop
        self._transport = transport
        self._pacer = pacer
        self._data_received = data_received
        self._lingers = lingers
        self._received = bytearray()
        self._is_queued = False
        self._is_paused = False  # by the protocol
        self._lingering: Any = None
        # Looked up once, because the protocol calls it for each message.
        self.write: Callable[[bytes], None] = transport.write

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the underlying transport."""
        return getattr(self._transport, name)

    def hand_over(self, data_received: Callable[[Any], None], lingers: Callable[[], bool]) -> None:
        """Switch to another protocol; discard data that the old one has not taken."""
        self._data_received = data_received
        self._lingers = lingers
        self._received.clear()

    def receive(self, data: bytes) -> None:
        """Buffer data from the underlying transport."""
        if self._lingering is not None:  # discarded, but read at the same pace
            self._transport.pause_reading()
            self._queue(is_first=False)
            return
        is_first = not self._received
        self._received += data
        is_enough = self._is_paused or len(self._received) > SLICE_BYTES
        if is_enough and not self._transport.is_closing():
            self._transport.pause_reading()
        if not self._is_paused:
            self._queue(is_first=is_first)

    def take_turn(self) -> None:
        """Pass on one slice. The pacer calls this."""
        self._is_queued = False
        if self._is_paused or self._transport.is_closing():
            return
        if self._lingering is None and self._received:
            self._data_received(self._take())
            if self._is_paused or self._transport.is_closing():
                return
        if self._received and self._lingering is None:
            self._queue(is_first=False)
        else:
            self._transport.resume_reading()

    def drain(self, most: int | None = None) -> None:
        """Pass on the data that arrived before the connection was lost.

        Args:
            most: the largest number of slices; None for all of them.
        """
        while self._received and self._lingering is None and most != 0:
            self._data_received(self._take())
            most = None if most is None else most - 1
        self._received.clear()
        if self._lingering is not None:
            self._lingering.cancel()

    def pause_reading(self) -> None:
        """Pass on nothing until ``resume_reading`` is called."""
        self._is_paused = True

    def resume_reading(self) -> None:
        """Continue to pass on data."""
        self._is_paused = False
        if self._received:
            self._queue(is_first=False)
        elif self._lingering is None:
            self._transport.resume_reading()

    def is_closing(self) -> bool:
        """Return whether the protocol can no longer send."""
        return self._lingering is not None or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection after all data is sent; see *lingers*."""
        if self._lingering is not None or self._transport.is_closing() or not self._lingers():
            self._transport.close()
            return
        self._received.clear()
        self._is_paused = False
        self._lingering = self.loop.call_later(LINGER_SECONDS, self._transport.abort)
        try:
            if self._transport.can_write_eof():  # an encrypted transport cannot
                self._transport.write_eof()
        except OSError:  # the client has already closed the connection
            self._transport.abort()
            return
        self._transport.resume_reading()

    def _take(self) -> bytearray:
        data = self._received[:SLICE_BYTES]
        del self._received[:SLICE_BYTES]
        return data

    def _queue(self, *, is_first: bool) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._pacer.add(self, is_first=is_first)
