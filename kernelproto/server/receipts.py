"""Receipts: how a client's WebSocket says that it has received what was sent to it.

ASGI does not tell. A ping does: it follows a message at once, and the pong is sent by the client's
WebSocket itself, as RFC 6455 demands, whatever the client may be. A server that can do this has
``EXTENSION`` among the extensions of a WebSocket's scope. Then a function may stand under that name
in a ``websocket.send`` event, to be called when the message, and all before it, were received.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

EXTENSION = "kernelproto.receipt"

OnReceipt = Callable[[], None]

# Longer than the pings by which uvicorn sees whether a client is still there.
_number = struct.Struct("!Q")

# How many receipts a client may owe before the first ones are not waited for any more.
_MOST_AWAITED = 100_000


class ReceiptProtocol(WebSocketsSansIOProtocol):
    """A WebSocket of uvicorn that gets receipts."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._asked = 0
        # The oldest may go: a receipt stands for all before it.
        self._awaited: deque[tuple[int, OnReceipt]] = deque(maxlen=_MOST_AWAITED)

    def handle_connect(self, event: Request) -> None:
        """Let the application have this WebSocket, and ask for receipts."""
        super().handle_connect(event)
        if hasattr(self, "scope"):  # the handshake is in order; its task has not begun yet
            cast("dict[str, Any]", self.scope)["extensions"][EXTENSION] = {}

    async def send(self, message: Any) -> None:
        """Send an event of the application's."""
        on_receipt: OnReceipt | None = message.pop(EXTENSION, None)
        await self.writable.wait()
        if (
            on_receipt is None
            or self.disconnected
            or self.close_sent
            or self.transport.is_closing()
        ):
            await super().send(message)
            return
        # All in one piece: a client that leaves when it has the message has answered then.
        if message.get("bytes") is None:
            self.conn.send_text(message["text"].encode())
        else:
            self.conn.send_binary(message["bytes"])
        self._asked += 1
        self._awaited.append((self._asked, on_receipt))
        self.conn.send_ping(_number.pack(self._asked))
        self.transport.write(b"".join(self.conn.data_to_send()))

    def keepalive_timeout(self) -> None:
        """Give up a client that does not answer, and does not read what it would be told."""
        is_open = not (self.close_sent or self.transport.is_closing())
        super().keepalive_timeout()
        if is_open:
            self.disconnected = True
            self.transport.abort()

    def handle_pong(self, event: Frame) -> None:
        """Take in the answer to a ping, which stands for those before it as well."""
        if len(event.data) != _number.size:
            super().handle_pong(event)
            return
        (number,) = _number.unpack(event.data)
        while self._awaited and self._awaited[0][0] <= number:
            _, on_receipt = self._awaited.popleft()
            on_receipt()
