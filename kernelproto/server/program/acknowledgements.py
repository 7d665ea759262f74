"""Receipts: how a client's WebSocket says that it has received what was sent to it.

ASGI does not tell. A ping does: the pong is sent by the client's WebSocket itself, as RFC 6455
demands, whatever the client may be. A server that can do this has ``EXTENSION`` among the
extensions of a WebSocket's scope. Then a function may stand under that name in a ``websocket.send``
event, to be called when the message, and all before it, were received.

What is sent in one turn of the event loop is written in one piece, with a ping behind it: a client
that leaves when it has the last of these messages has answered by then.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from websockets.frames import Frame
from websockets.http11 import Request

from kernelproto.server.program.protocols import PacedWebSocket

EXTENSION = "kernelproto.receipt"

OnAcknowledged = Callable[[], None]

# Longer than the pings by which uvicorn sees whether a client is still there.
_number = struct.Struct("!Q")

# After so many messages there is a ping also in the middle of a piece.
_MOST_UNASKED = 16

# A longer piece is written at once, and tells whether the client can take more.
_PIECE_BYTES = 64 * 1024

# At the least, that a message takes beside its data.
_HEAD_BYTES = 2

# How many receipts a client may owe before the first ones are not waited for any more.
_MOST_AWAITED = 10_000

# As much as all of these receipts take, and more.
_LAST_BYTES = 256 * 1024


class AcknowledgementProtocol(PacedWebSocket):
    """A WebSocket that gets receipts."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._asked = 0
        # The oldest may go: a receipt stands for all before it.
        self._awaited: deque[tuple[int, OnAcknowledged]] = deque(maxlen=_MOST_AWAITED)
        # Of the messages that no ping follows yet: how many there are, and of the last of them.
        self._unasked = 0
        self._on_receipt: OnAcknowledged | None = None
        # Of the piece that is not written yet.
        self._bytes = 0

    def handle_connect(self, event: Request) -> None:
        """Let the application have this WebSocket, and ask for receipts."""
        super().handle_connect(event)
        if hasattr(self, "scope"):  # the handshake is in order; its task has not begun yet
            cast("dict[str, Any]", self.scope)["extensions"][EXTENSION] = {}

    async def send(self, message: Any) -> None:
        """Send an event of the application's."""
        on_receipt: OnAcknowledged | None = message.pop(EXTENSION, None)
        await self.writable.wait()
        if on_receipt is None or self._is_ending():
            self._write_piece()
            await super().send(message)
            return
        data = message.get("bytes")
        if data is None:
            data = message["text"].encode()
            self.conn.send_text(data)
        else:
            self.conn.send_binary(data)
        self._on_receipt = on_receipt
        self._unasked += 1
        if self._unasked == _MOST_UNASKED:
            self._ask()
        if not self._bytes:
            self.loop.call_soon(self._write_piece)
        self._bytes += _HEAD_BYTES + len(data)
        if self._bytes >= _PIECE_BYTES:
            self._write_piece()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take in what had come before the connection was lost, and let go of it.

        It is there still where the loss was noticed by writing. Of an encrypted connection it
        cannot be had.
        """
        if not self.disconnected and self.transport.get_extra_info("ssl_object") is None:
            with suppress(OSError):
                data = os.read(self.transport.get_extra_info("socket").fileno(), _LAST_BYTES)
                self.transport.receive(data)
        super().connection_lost(exc)

    def keepalive_timeout(self) -> None:
        """Give up a client that does not answer, and does not read what it would be told."""
        was_open = not self._is_ending()
        super().keepalive_timeout()
        if was_open:
            self.disconnected = True
            self.transport.abort()

    def handle_pong(self, event: Frame) -> None:
        """Take in the answer to a ping, which stands for those before it as well."""
        number = _number.unpack(event.data)[0] if len(event.data) == _number.size else -1
        if not self._awaited or number < self._awaited[0][0]:
            super().handle_pong(event)
            return
        while self._awaited and self._awaited[0][0] <= number:
            _, on_receipt = self._awaited.popleft()
            on_receipt()

    def _ask(self) -> None:
        """Have the messages so far answered."""
        assert self._on_receipt is not None
        self._asked += 1
        self._awaited.append((self._asked, self._on_receipt))
        self._unasked = 0
        self.conn.send_ping(_number.pack(self._asked))

    def _write_piece(self) -> None:
        """Write what has been sent since this was done last."""
        if self._bytes and not self._is_ending():
            if self._unasked:
                self._ask()
            self._bytes = 0
            self.transport.write(b"".join(self.conn.data_to_send()))

    def _is_ending(self) -> bool:
        return self.disconnected or self.close_sent or self.transport.is_closing()
