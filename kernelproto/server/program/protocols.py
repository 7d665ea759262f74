"""uvicorn's protocols for HTTP and WebSockets, extended with pacing and limits.

They override undocumented methods of uvicorn. ``compatibility`` checks at the start of the server
whether the installed uvicorn still has them.
"""

from __future__ import annotations

from typing import Any, cast

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from kernelproto.server.connections import Connections, refuse
from kernelproto.server.program.pacing import PacedTransport, Pacer

# Each fragment of a message below this size counts as a small frame, because a small frame costs as
# much parsing as a large one. Clients that fragment large messages use larger fragments.
_SMALL_BYTES = 1024

_POLICY_VIOLATION = 1008

_CLOSE = (b"connection", b"close")


class PacedHttp(H11Protocol):
    """HTTP with pacing and a limit of connections.

    If the application responds before the body of a request is complete, the connection is closed
    instead of parsing the rest of the body.

    Args:
        served: the connections of the server.
        pacer: the pacer of the server.
    """

    transport: PacedTransport  # type: ignore[assignment]

    def __init__(
        self,
        *args: Any,
        served: Connections | None = None,
        pacer: Pacer | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._served = served or Connections()
        self._pacer = pacer or Pacer()
        self._is_refused = False
        self._is_lost = False
        self._serve = self.app
        self.app = self._respond

    def connection_made(self, transport: Any) -> None:
        """Accept or refuse a new connection."""
        paced = PacedTransport(
            transport, self.loop, self._pacer, super().data_received, self._is_receiving
        )
        super().connection_made(paced)  # type: ignore[arg-type]
        if not self._served.admit(self):
            self._is_refused = True
            self._serve = refuse
            if not self._served.may_respond():
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse a request that arrived before the connection was lost."""
        self._is_lost = True
        self.transport.drain(1)
        self._served.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Buffer received data until the pacer passes it to the parser."""
        self.transport.receive(data)

    def handle_events(self) -> None:
        """Handle the parsed events, which may include a request."""
        super().handle_events()
        if self.conn.our_state is not h11.IDLE:
            self._served.begin_request(self)

    def on_response_complete(self) -> None:
        """Handle the next request, which may have arrived already."""
        self._served.wait_for_request(self)
        super().on_response_complete()

    def displace(self) -> None:
        """Close the connection, which has no request."""
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return not (self._is_refused or self._is_lost) and super()._should_upgrade()

    def _is_receiving(self) -> bool:
        """Return whether the client may be sending data that the server will not parse."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_or_close(message: Message) -> None:
            is_start = message["type"] == "http.response.start"
            if is_start and self.conn.their_state is h11.SEND_BODY:
                headers = [*message.get("headers", ())]
                if _CLOSE not in headers:
                    headers.append(_CLOSE)
                message = {**message, "headers": headers}
            await send(message)

        await self._serve(scope, receive, send_or_close)


class PacedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket with pacing and a limit of small frames.

    A client may send whole messages as fast as the application takes them. The client's pings,
    pongs and small fragments of messages are limited per second. At the limit the WebSocket is
    closed with code 1008.

    Args:
        served: the connections of the server.
    """

    transport: PacedTransport  # type: ignore[assignment]

    def __init__(self, *args: Any, served: Connections | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._served = served or Connections()
        self._budget = self._served.frame_budget()
        self._small_frames = 0
        self._has_failed = False

    def connection_made(self, transport: Any) -> None:
        """Take over the connection of a PacedHttp, or one of another HTTP protocol."""
        data_received = super().data_received
        if isinstance(transport, PacedTransport):
            transport.hand_over(data_received, self._is_receiving)
        else:
            self._served.open += 1
            transport = PacedTransport(
                transport, self.loop, Pacer(), data_received, self._is_receiving
            )
        super().connection_made(cast("Any", transport))

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse the data that arrived before the connection was lost."""
        self.transport.drain()
        self._served.open -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Buffer received data until the pacer passes it to the parser."""
        self.transport.receive(data)

    def handle_events(self) -> None:
        """Handle the parsed frames."""
        self._small_frames = 0
        super().handle_events()
        if self._small_frames and not self._budget.spend(self._small_frames, self.loop.time()):
            self._fail("too many pings, pongs or small fragments in a short time")

    def handle_text(self, event: Frame) -> None:
        """Handle a text message, or the first fragment of one."""
        self._count_fragment(event)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """Handle a binary message, or the first fragment of one."""
        self._count_fragment(event)
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        """Append a further fragment in place; uvicorn would keep an object for each."""
        self._count_fragment(event)
        frames = cast("list[Any]", self.frames)
        if frames and not isinstance(frames[0], bytearray):
            frames[0] = bytearray(frames[0])
        if frames:
            frames[0] += event.data
        if event.fin:
            self.frames = [bytes(part) for part in self.frames]
            self.send_receive_event_to_app()

    def handle_ping(self) -> None:
        """Answer a ping."""
        self._small_frames += 1
        super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Handle a pong, solicited or not."""
        self._small_frames += 1
        super().handle_pong(event)

    async def send(self, message: Any) -> None:
        """Send an event of the application.

        Raises:
            ClientDisconnected: the WebSocket is closed because of an error of the client, and the
                application has not received the disconnect yet.
        """
        if self.close_sent and self.initial_response is None:
            if message["type"] == "websocket.close":
                return
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            # Otherwise uvicorn logs an error, because the handshake seems unanswered.
            self.handshake_complete = True

    def _count_fragment(self, event: Frame) -> None:
        if not event.fin and len(event.data) < _SMALL_BYTES:
            self._small_frames += 1

    def _fail(self, reason: str) -> None:
        if self.close_sent or self.disconnected or not self.handshake_complete:
            return
        self._has_failed = True
        peer = self.client[0] if self.client else "an unknown address"
        self._served.warn(f"closed a WebSocket of {peer}: {reason} (frames_per_second)")
        self.conn.fail(_POLICY_VIOLATION, f"{reason} (frames_per_second)")
        self.handle_parser_exception()

    def _is_receiving(self) -> bool:
        """Return whether the client may be sending data that the server will not parse."""
        return self._has_failed or self.conn.parser_exc is not None
