"""Arrivals: the WebSockets that other servers forward, with the acknowledgements of their clients.

See ``link`` for the acknowledgements, and ``asgi_extension`` for the extension of ASGI.
"""

from __future__ import annotations

from collections import deque

from starlette.types import Message, Receive, Scope, Send

from kernelproto.server.asgi_extension import EXTENSION, OnAcknowledged

# Messages without an acknowledgement that are remembered. A later acknowledgement covers the
# forgotten ones as well.
_MOST_PENDING = 10_000


class ArrivedSocket:
    """The events of a forwarded WebSocket for the application.

    Args:
        scope: the scope of the WebSocket.
        receive: receives the events of the other server.
        send: sends events to the other server.

    Attributes:
        scope: the scope for the application, with the extension for acknowledgements.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        extensions: dict[str, object] = scope.get("extensions") or {}
        self.scope: Scope = {**scope, "extensions": {**extensions, EXTENSION: {}}}
        self._acknowledges = EXTENSION in extensions
        self._receive = receive
        self._send = send
        self._sent = 0
        self._pending: deque[tuple[int, OnAcknowledged]] = deque(maxlen=_MOST_PENDING)

    async def receive(self) -> Message:
        """Return the next event of the client."""
        while True:
            event = await self._receive()
            text = event.get("text")
            if text is None or not text.isdigit():
                return event
            number = int(text)
            while self._pending and self._pending[0][0] <= number:
                self._pending.popleft()[1]()

    async def send(self, event: Message) -> None:
        """Send an event of the application."""
        if event["type"] == "websocket.send":
            on_acknowledged: OnAcknowledged | None = event.get(EXTENSION)
            event = {key: value for key, value in event.items() if key != EXTENSION}
            self._sent += 1
            if on_acknowledged is not None:
                self._pending.append((self._sent, on_acknowledged))
            if self._acknowledges:  # such a server sends several messages in one write
                event[EXTENSION] = _ignore
        await self._send(event)


def _ignore() -> None:
    """Ignore an acknowledgement of the other server: the client may not have the message yet."""
