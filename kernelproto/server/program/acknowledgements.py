"""Acknowledgements: pongs show the messages that a client's WebSocket has received.

RFC 6455 obliges every WebSocket client to answer a ping with a pong, so a ping behind a message
acknowledges that message without the client's cooperation. ``asgi_extension`` describes how an
application uses this.

All messages that are sent in one turn of the event loop are written together, followed by one ping.
So a client that leaves right after the last of them has already acknowledged it. If the application
says that another message follows soon, no ping follows until then, until the client sends a ping,
or for LATEST_SECONDS at most: a pong wakes the server, so a ping costs as much time as a message.

The protocol makes the frames itself, because ``websockets`` spends more time on the frame of a
message than all other code of this module.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from websockets.frames import Frame, Opcode
from websockets.http11 import Request

from kernelproto.server.asgi_extension import EXTENSION, SEND_AT_ONCE, OnAcknowledged
from kernelproto.server.program.protocols import PacedWebSocket

# The payload of a ping. It is longer than the 4 bytes of uvicorn's keepalive pings.
_number = struct.Struct("!Q")

# Within one batch, a ping follows at least every so many messages.
_MESSAGES_PER_PING = 16

# The longest time between a message and the ping behind it.
LATEST_SECONDS = 0.01

# A larger batch is written at once, so that the transport can report a full buffer.
_BATCH_BYTES = 64 * 1024

# The headers of frames, by the size of their payload; see RFC 6455, section 5.2.
_small_header = struct.Struct("!BB")
_medium_header = struct.Struct("!BBH")
_large_header = struct.Struct("!BBQ")
_FINAL = 0x80

# Unanswered pings that are remembered. A later pong acknowledges the forgotten ones as well.
_MAX_PENDING = 10_000

# Enough for the pongs of all pending pings.
_LAST_READ_BYTES = 256 * 1024


class AcknowledgementProtocol(PacedWebSocket):
    """A WebSocket with the extension for acknowledgements."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._pings_sent = 0
        self._pending: deque[tuple[int, OnAcknowledged]] = deque(maxlen=_MAX_PENDING)
        # The messages that no ping follows yet: their number, and the callback of the last one.
        self._unacknowledged = 0
        self._on_acknowledged: OnAcknowledged | None = None
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._is_followed = False  # whether another message follows the last one soon
        self._cancel_timer: Callable[[], None] | None = None  # the timer of a late ping

    def handle_connect(self, event: Request) -> None:
        """Add the extension to the scope of a new WebSocket."""
        super().handle_connect(event)
        if hasattr(self, "scope"):  # the handshake is valid, and its task has not started yet
            cast("dict[str, Any]", self.scope)["extensions"][EXTENSION] = {
                SEND_AT_ONCE: self.send_at_once
            }

    async def send(self, message: Any) -> None:
        """Send an event of the application."""
        on_acknowledged: OnAcknowledged | None = message.pop(EXTENSION, None)
        await self.writable.wait()
        if on_acknowledged is None or self._is_ending():
            self._is_followed = False  # a close frame may follow
            self._write_batch()
            if self._cancel_timer is not None:
                self._ping_late()
            await super().send(message)
            return
        data = message.get("bytes")
        self._add(message["text"] if data is None else data, on_acknowledged)

    def send_at_once(
        self, data: bytes | str, on_acknowledged: OnAcknowledged, is_followed: bool
    ) -> bool:
        """Send a message without waiting; part of the extension (``SendAtOnce``)."""
        if not (self.handshake_complete and self.writable.is_set()) or self._is_ending():
            return False
        self._add(data, on_acknowledged, is_followed=is_followed)
        return True

    def _add(
        self, data: bytes | str, on_acknowledged: OnAcknowledged, *, is_followed: bool = False
    ) -> None:
        """Add a message to the batch of this turn of the event loop."""
        if not self._batch:
            self.loop.call_soon(self._write_soon)
        if isinstance(data, str):
            self._add_frame(Opcode.TEXT, data.encode())
        else:
            self._add_frame(Opcode.BINARY, data)
        self._on_acknowledged = on_acknowledged
        self._is_followed = is_followed
        self._unacknowledged += 1
        if self._unacknowledged == _MESSAGES_PER_PING:
            self._ping()
        if self._batch_bytes >= _BATCH_BYTES:
            self._write_batch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Read the data that arrived before the loss, then close.

        If a write noticed the loss, pongs may still wait in the socket. An encrypted connection
        cannot be read any more.
        """
        if not self.disconnected and self.transport.get_extra_info("ssl_object") is None:
            with suppress(OSError):
                data = os.read(self.transport.get_extra_info("socket").fileno(), _LAST_READ_BYTES)
                self.transport.receive(data)
        super().connection_lost(exc)
        self._stop_timer()

    def keepalive_timeout(self) -> None:
        """Abort the connection of a client that answers no ping.

        uvicorn would wait until the client has read everything that was sent.
        """
        was_open = not self._is_ending()
        super().keepalive_timeout()
        if was_open:
            self.disconnected = True
            self.transport.abort()

    def handle_ping(self) -> None:
        """Answer a ping; when the client gets the pong, it has acknowledged all messages so far."""
        if self._unacknowledged:
            self._ping_late()
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Acknowledge all messages before the ping that the pong answers."""
        number = _number.unpack(event.data)[0] if len(event.data) == _number.size else -1
        if not self._pending or number < self._pending[0][0]:
            super().handle_pong(event)
            return
        while self._pending and self._pending[0][0] <= number:
            _, on_acknowledged = self._pending.popleft()
            on_acknowledged()

    def _ping(self) -> None:
        """Put a ping behind the messages so far."""
        assert self._on_acknowledged is not None
        self._stop_timer()
        self._pings_sent += 1
        self._pending.append((self._pings_sent, self._on_acknowledged))
        self._unacknowledged = 0
        self._add_frame(Opcode.PING, _number.pack(self._pings_sent))

    def _add_frame(self, opcode: Opcode, data: bytes) -> None:
        if self.conn.extensions:  # compression, which the server program does not offer
            frame = Frame(opcode, data).serialize(mask=False, extensions=self.conn.extensions)
            self._batch.append(frame)
        else:
            self._batch += _header(opcode, len(data)), data
        self._batch_bytes += len(data)

    def _write_soon(self) -> None:
        """Write the batch; if a message follows, after one more turn of the event loop.

        A flood would otherwise be written in many small batches.
        """
        if self._is_followed:
            self.loop.call_soon(self._write_batch)
        else:
            self._write_batch()

    def _write_batch(self) -> None:
        if self._batch and not self._is_ending():
            if self._unacknowledged and not self._is_followed:
                self._ping()
            elif self._unacknowledged and self._cancel_timer is None:
                self._cancel_timer = self.loop.call_later(LATEST_SECONDS, self._ping_late).cancel
            self.transport.write(b"".join(self._batch))
        self._batch.clear()
        self._batch_bytes = 0

    def _ping_late(self) -> None:
        if not self._is_ending():
            self._ping()
            self._write_batch()

    def _stop_timer(self) -> None:
        if self._cancel_timer is not None:
            self._cancel_timer()
            self._cancel_timer = None

    def _is_ending(self) -> bool:
        return self.disconnected or self.close_sent or self.transport.is_closing()


def _header(opcode: Opcode, size: int) -> bytes:
    """Return the header of an unmasked frame with a whole message."""
    if size < 126:
        return _small_header.pack(_FINAL | opcode, size)
    if size < 2**16:
        return _medium_header.pack(_FINAL | opcode, 126, size)
    return _large_header.pack(_FINAL | opcode, 127, size)
