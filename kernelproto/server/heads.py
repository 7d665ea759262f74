"""Heads: how long a client may take to say what it wants, for which uvicorn alone has no bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kernelproto.server.answers import SECURITY_HEADERS, error_response

HEAD_SECONDS = 30


class HeadDeadline(H11Protocol):
    """HTTP of uvicorn, with HEAD_SECONDS for the head of each request.

    They count from when the connection was made, and from the end of each response, and nothing
    that comes before the head is complete prolongs them: neither a part of it, nor the rest of a
    body that nobody waits for any more. Then the connection is closed, and a client that had begun
    a head is answered 408. What an application waits for, such as the body of the request that it
    answers, and how long it takes itself, is up to it; WebSockets have no head to come.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stop_waiting: Callable[[], None] = lambda: None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Handle what has come; it may be a head, also one that asks for a WebSocket."""
        super().handle_events()
        if self.conn.our_state in (h11.SEND_RESPONSE, h11.SEND_BODY):
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next head, which may have come already."""
        self._wait_for_head()
        super().on_response_complete()

    def _wait_for_head(self) -> None:
        self._stop_waiting()
        self._stop_waiting = self.loop.call_later(HEAD_SECONDS, self._give_up).cancel

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        begun, _ = self.conn.trailing_data
        if begun and self.conn.our_state is h11.IDLE:
            message = f"the head of a request has not come to its end within {HEAD_SECONDS} s"
            response = error_response(408, message)
            response.headers.update({**SECURITY_HEADERS, "Connection": "close"})
            head = h11.Response(status_code=408, headers=response.raw_headers)
            for part in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()
