"""uvicorn's protocols, with bounded work in each turn of the event loop.

They override methods of uvicorn that are not documented, so ``shape_faults`` tells at the start
of the server whether this uvicorn still has them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import h11
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from kernelproto.server.connections import Connections, refuse
from kernelproto.server.program.pacing import PacedTransport

# A piece of a message that is smaller than this counts as a small frame: each costs as much as a
# large one. Clients that send large messages in pieces make larger pieces.
_SMALL_BYTES = 1024

_POLICY_VIOLATION = 1008

_CLOSE = (b"connection", b"close")


class PacedHttp(H11Protocol):
    """HTTP of uvicorn, paced; see ``pacing``.

    A request that is answered before its body has ended closes the connection: the rest of the
    body, which no part of the server wants, is not parsed.

    Args:
        connections: those of this server.
    """

    transport: PacedTransport  # type: ignore[assignment]

    def __init__(self, *args: Any, served: Connections | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._served = served or Connections()
        self._is_refused = False
        self._is_lost = False
        self._serve = self.app
        self.app = self._answer

    def connection_made(self, transport: Any) -> None:
        """Take a new connection, or refuse it."""
        paced = PacedTransport(
            transport, self.loop, self._served.pacer, super().data_received, self._is_receiving
        )
        super().connection_made(paced)  # type: ignore[arg-type]
        if not self._served.admit(self):
            self._is_refused = True
            self._serve = refuse
            if not self._served.may_be_told():
                transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse a request that arrived before the connection was lost."""
        self._is_lost = True
        self.transport.drain(1)
        self._served.remove(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in received data, to be parsed soon."""
        self.transport.receive(data)

    def handle_events(self) -> None:
        """Handle the parsed events, which may include a request."""
        super().handle_events()
        if self.conn.our_state is not h11.IDLE:
            self._served.begin_request(self)

    def on_response_complete(self) -> None:
        """Handle the next request, which may have come already."""
        self._served.wait_for_request(self)
        super().on_response_complete()

    def give_way(self) -> None:
        """Close the connection, on which no request is being answered."""
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return not (self._is_refused or self._is_lost) and super()._should_upgrade()

    def _is_receiving(self) -> bool:
        """Return whether the client may still be sending data that is not parsed any more."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
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
    """A WebSocket of uvicorn, paced; see ``pacing``.

    A client may send whole messages as fast as the application takes them. Of frames that bring the
    application nothing (pings, pongs and small pieces of messages) it may send so many in a
    second; then the WebSocket is closed with 1008.

    Args:
        connections: those of this server.
    """

    transport: PacedTransport  # type: ignore[assignment]

    def __init__(self, *args: Any, served: Connections | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._served = served or Connections()
        self._budget = self._served.frame_budget()
        self._small_frames = 0
        self._has_failed = False

    def connection_made(self, transport: Any) -> None:
        """Take over a connection that was one of HTTP."""
        broadcast = super().data_received
        if isinstance(transport, PacedTransport):
            transport.hand_over(broadcast, self._is_receiving)
        else:
            self._served.open += 1
            transport = PacedTransport(
                transport, self.loop, self._served.pacer, broadcast, self._is_receiving
            )
        super().connection_made(cast("Any", transport))

    def connection_lost(self, exc: Exception | None) -> None:
        """Parse the data that arrived before the connection was lost."""
        self.transport.drain()
        self._served.open -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take in received data, to be parsed soon."""
        self.transport.receive(data)

    def handle_events(self) -> None:
        """Handle the frames that were parsed."""
        self._small_frames = 0
        super().handle_events()
        if self._small_frames and not self._budget.spend(self._small_frames, self.loop.time()):
            self._fail("too many pings, pongs or small pieces of messages in a short time")

    def handle_text(self, event: Frame) -> None:
        """Handle a message, or the first piece of one."""
        self._count_piece(event)
        super().handle_text(event)

    def handle_bytes(self, event: Frame) -> None:
        """Handle a message, or the first piece of one."""
        self._count_piece(event)
        super().handle_bytes(event)

    def handle_cont(self, event: Frame) -> None:
        """Handle a further piece of a message; all together take the room of one."""
        self._count_piece(event)
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
        """Handle the answer to a ping, or a pong for its own sake."""
        self._small_frames += 1
        super().handle_pong(event)

    async def send(self, message: Any) -> None:
        """Send an event of the application's."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            # uvicorn takes a handshake that was answered like this for one without an answer, and
            # logs an error.
            self.handshake_complete = True

    def _count_piece(self, event: Frame) -> None:
        if not event.fin and len(event.data) < _SMALL_BYTES:
            self._small_frames += 1

    def _fail(self, reason: str) -> None:
        if self.close_sent or self.disconnected or not self.handshake_complete:
            return
        self._has_failed = True
        peer = self.client[0] if self.client else "an unknown address"
        self._served.warn(f"a WebSocket of {peer} is closed: {reason} (frames_per_second)")
        self.conn.fail(_POLICY_VIOLATION, f"{reason} (frames_per_second)")
        self.handle_parser_exception()

    def _is_receiving(self) -> bool:
        return self._has_failed or self.conn.parser_exc is not None


# What is overridden or called, with the parameters.
_SHAPES: Mapping[type, Mapping[str, tuple[str, ...]]] = {
    H11Protocol: {
        "__init__": ("config", "server_state", "app_state", "_loop"),
        "connection_made": ("transport",),
        "connection_lost": ("exc",),
        "data_received": ("data",),
        "handle_events": (),
        "on_response_complete": (),
        "_should_upgrade": (),
    },
    WebSocketsSansIOProtocol: {
        "__init__": ("config", "server_state", "app_state", "_loop"),
        "connection_made": ("transport",),
        "connection_lost": ("exc",),
        "data_received": ("data",),
        "handle_connect": ("event",),
        "handle_events": (),
        "handle_text": ("event",),
        "handle_bytes": ("event",),
        "handle_cont": ("event",),
        "handle_ping": (),
        "handle_pong": ("event",),
        "handle_parser_exception": (),
        "send_receive_event_to_app": (),
        "keepalive_timeout": (),
        "send": ("message",),
    },
}

# Attributes that every object has.
_ATTRIBUTES: Mapping[type, tuple[str, ...]] = {
    H11Protocol: ("app", "conn", "loop", "transport"),
    WebSocketsSansIOProtocol: (
        "client",
        "close_sent",
        "conn",
        "disconnected",
        "frames",
        "handshake_complete",
        "loop",
        "transport",
        "writable",
    ),
}


def shape_faults(protocol: type) -> list[str]:
    """Return the methods and attributes of uvicorn that differ from those the subclasses need.

    Args:
        protocol: H11Protocol or WebSocketsSansIOProtocol.
    """
    faults: list[str] = []
    for name, parameters in _SHAPES[protocol].items():
        method = getattr(protocol, name, None)
        found = tuple(inspect.signature(method).parameters)[1:] if callable(method) else None
        if found != parameters:
            faults.append(f"{protocol.__name__}.{name}")
    assigned = vars(protocol)["__init__"].__code__.co_names
    faults += [
        f"{protocol.__name__}.{name}" for name in _ATTRIBUTES[protocol] if name not in assigned
    ]
    return faults
