"""Heads: how long a client may take to send a request, for which uvicorn alone has no bound."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11

from kernelproto.server.program.protocols import PacedHttp
from kernelproto.server.responses import SECURITY_HEADERS, error_response

HEADER_SECONDS = 30


class HeaderTimeout(PacedHttp):
    """HTTP with HEADER_SECONDS for the head of each request.

    They count from when the connection was made and, on a connection that has had a request, from
    the first byte of the next one. Nothing that comes before the head is complete prolongs them.
    Then the connection is closed, and a client that had begun a head is answered 408. Between two
    requests the keep-alive time of uvicorn counts. The body of a request, and the time for its
    answer, are up to the application; WebSockets have no head to come.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._stop_waiting: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        """Wait for the first head."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        super().connection_lost(exc)
        self._cancel()

    def handle_events(self) -> None:
        """Handle a part of a head, or a whole one, also that of a WebSocket."""
        super().handle_events()
        if self.conn.our_state is not h11.IDLE:
            self._cancel()
        elif self._stop_waiting is None and self.conn.trailing_data[0]:
            self._wait_for_head()

    def _wait_for_head(self) -> None:
        self._stop_waiting = self.loop.call_later(HEADER_SECONDS, self._give_up).cancel

    def _cancel(self) -> None:
        if self._stop_waiting is not None:
            self._stop_waiting()
            self._stop_waiting = None

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        begun, _ = self.conn.trailing_data
        if begun and self.conn.our_state is h11.IDLE:
            message = f"the head of a request has not come to its end within {HEADER_SECONDS} s"
            response = error_response(408, message)
            response.headers.update({**SECURITY_HEADERS, "Connection": "close"})
            head = h11.Response(status_code=408, headers=response.raw_headers)
            for part in (head, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()
