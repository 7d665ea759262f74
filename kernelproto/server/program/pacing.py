"""Pacing: bounded protocol work in each turn of the event loop, shared fairly between connections.

The size of received data does not bound the work that it causes: six bytes can be an HTTP chunk or
a WebSocket frame. An event loop hands over as many bytes as have arrived, with uvloop several
megabytes, and uvicorn parses all of them at once: seconds in which no other client is answered.

Theory of operation
-------------------
A ``PacedTransport`` stands between a connection's transport and its protocol. It collects received
data and hands it to the protocol in slices of SLICE_BYTES. While it holds more than a slice, the
transport does not read, so a client that sends faster than it is served waits in the network.

One ``Pacer`` chooses the next connection. In each turn of the event loop it hands out
slices until TURN_SECONDS are over, and goes on in the next turn. A connection that has just
received data comes before those that have had a slice already: a client that sends little is not
delayed by clients that send much.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

# At most 350 chunks or frames, which take a few milliseconds.
SLICE_BYTES = 2048

TURN_SECONDS = 0.005

# How long a client may take to read its last answer, and to stop sending.
LINGER_SECONDS = 5


class Pacer:
    """Hands out slices of received data to the protocols of many connections."""

    def __init__(self) -> None:
        self._first: deque[PacedTransport] = deque()
        self._more: deque[PacedTransport] = deque()
        self._is_scheduled = False

    def add(self, transport: PacedTransport, *, is_first: bool) -> None:
        """Let a transport have one turn, soon.

        Args:
            transport: has received data, and waits for no turn yet.
            is_first: whether it comes before those that have had a turn for earlier data.
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
            while self._more:  # one of them at the least, however many others there are
                self._more.popleft().take_turn()
                if time.perf_counter() > deadline:
                    break
        finally:
            if self._first or self._more:
                self._schedule(loop)


class PacedTransport:
    """A transport that hands received data to its protocol in slices.

    Args:
        transport: is read and written.
        loop: the event loop.
        pacer: says when the protocol gets a slice.
        broadcast: takes a slice; part of the protocol.
        lingers: tells, when the protocol closes the connection, whether the client may still be
            sending. Closing at once would then destroy the answer that the client has not read
            yet, so the rest is received and thrown away, for LINGER_SECONDS at most.

    Attributes:
        loop: the event loop.
    """

    def __init__(
        self,
        transport: Any,
        loop: Any,
        pacer: Pacer,
        broadcast: Callable[[Any], None],
        lingers: Callable[[], bool],
    ) -> None:
        self.loop = loop
        self._transport = transport
        self._pacer = pacer
        self._feed = broadcast
        self._lingers = lingers
        self._received = bytearray()
        self._is_queued = False
        self._is_paused = False  # by the protocol
        self._lingering: Any = None
        # Looked up once, because it is called for each message.
        self.write: Callable[[bytes], None] = transport.write

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the transport itself."""
        return getattr(self._transport, name)

    def hand_over(self, broadcast: Callable[[Any], None], lingers: Callable[[], bool]) -> None:
        """Serve another protocol from now on; data that was received for the other one is gone."""
        self._feed = broadcast
        self._lingers = lingers
        self._received.clear()

    def receive(self, data: bytes) -> None:
        """Take in data that the transport has received."""
        if self._lingering is not None:  # it is thrown away, at the same pace
            self._transport.pause_reading()
            self._queue(is_first=False)
            return
        is_first = not self._received
        self._received += data
        if len(self._received) > SLICE_BYTES and not self._transport.is_closing():
            self._transport.pause_reading()
        if not self._is_paused:
            self._queue(is_first=is_first)

    def take_turn(self) -> None:
        """Hand on a slice; called by the pacer."""
        self._is_queued = False
        if self._is_paused or self._transport.is_closing():
            return
        if self._lingering is None and self._received:
            self._feed(self._take())
            if self._is_paused or self._transport.is_closing():
                return
        if self._received and self._lingering is None:
            self._queue(is_first=False)
        else:
            self._transport.resume_reading()

    def drain(self, most: int | None = None) -> None:
        """Hand on the data that was received before the connection was lost.

        Args:
            most: how many slices; None for all of it.
        """
        while self._received and self._lingering is None and most != 0:
            self._feed(self._take())
            most = None if most is None else most - 1
        self._received.clear()
        if self._lingering is not None:
            self._lingering.cancel()

    def pause_reading(self) -> None:
        """Hand on nothing until ``resume_reading`` is called."""
        self._is_paused = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Hand on the data that has come meanwhile."""
        self._is_paused = False
        if self._received:
            self._queue(is_first=False)
        elif self._lingering is None:
            self._transport.resume_reading()

    def is_closing(self) -> bool:
        """Return whether the protocol can send nothing more."""
        return self._lingering is not None or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection when everything is sent; see *lingers*."""
        if self._lingering is not None or self._transport.is_closing() or not self._lingers():
            self._transport.close()
            return
        self._received.clear()
        self._is_paused = False
        self._lingering = self.loop.call_later(LINGER_SECONDS, self._transport.abort)
        if self._transport.can_write_eof():  # not where it is encrypted
            self._transport.write_eof()
        self._transport.resume_reading()

    def _take(self) -> bytearray:
        data = self._received[:SLICE_BYTES]
        del self._received[:SLICE_BYTES]
        return data

    def _queue(self, *, is_first: bool) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._pacer.add(self, is_first=is_first)
