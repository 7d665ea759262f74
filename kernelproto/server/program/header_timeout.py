"""HeaderTimeout: limit the time in which a client sends the header of a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import h11

from kernelproto.server.program.protocols import PacedHttp
from kernelproto.server.responses import SECURITY_HEADERS, error_response

HEADER_SECONDS = 30


class HeaderTimeout(PacedHttp):
    """HTTP with a time limit of HEADER_SECONDS for the header of each request.

    The time starts when the connection is made and, for later requests on the connection, at their
    first byte. Receiving a part of the header does not extend it. At the timeout the server closes
    the connection; a client that has sent a part of the header gets a 408 response first.

    uvicorn has no such limit. Its keep-alive timeout applies between two requests. The application
    limits the time for the body and for its response. A WebSocket has no further headers.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._cancel_timer: Callable[[], None] | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the timer for the first header."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        self._stop_timer()

    def handle_events(self) -> None:
        """Stop the timer if a header is complete; start it if one has begun."""
        super().handle_events()
        if self.conn.our_state is not h11.IDLE:
            self._stop_timer()
        elif self._cancel_timer is None and self.conn.trailing_data[0]:
            self._start_timer()

    def _start_timer(self) -> None:
        self._cancel_timer = self.loop.call_later(HEADER_SECONDS, self._time_out).cancel

    def _stop_timer(self) -> None:
        if self._cancel_timer is not None:
            self._cancel_timer()
            self._cancel_timer = None

    def _time_out(self) -> None:
        if self.transport.is_closing():
            return
        received, _ = self.conn.trailing_data
        if received and self.conn.our_state is h11.IDLE:
            message = f"the header of the request was not complete after {HEADER_SECONDS} s"
            response = error_response(408, message)
            response.headers.update({**SECURITY_HEADERS, "Connection": "close"})
            header = h11.Response(status_code=408, headers=response.raw_headers)
            for part in (header, h11.Data(data=bytes(response.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()
