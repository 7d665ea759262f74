"""Forward WebSockets to another server, on asyncio and Trio.

Theory of operation
-------------------
Each WebSocket of a client has a WebSocket to the server with the kernel. In both directions, a
message waits until the receiver has taken the previous one. So at most one message is held here,
and a slow client slows down the other server, which keeps the messages of the kernel and
disconnects the client if necessary.

The other server must not count a message as received before the client has the message. So the link
also carries acknowledgements: a text of digits is the number of messages that the client has
received. No client sends such a text, which is no message. The other server offers them to its
application as ``asgi_extension`` describes; see ``arrivals``.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, NoReturn, cast

import anyio
from anyio.abc import ByteStream
from starlette.types import Receive, Scope, Send
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import Event
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.server.asgi_extension import EXTENSION
from kernelproto.server.drain import SHUTTING_DOWN, Drain
from kernelproto.server.nodes.http import ForwardedRequest, open_connection

_READ_BYTES = 65_536

# The longest time to close a link and the WebSocket of its client.
_CLOSING_SECONDS = 5

# How long another server may take to accept a WebSocket: the kernel may be starting.
_ACCEPT_SECONDS = 120

_MOST_REFUSAL_BYTES = 65_536

NO_CODE = 1005
_ABNORMAL = 1006
_UNUSABLE = 1007
_SERVICE_RESTART = 1012


class Refused(Exception):
    """The other server has refused a WebSocket.

    Attributes:
        status: the HTTP status.
        body: the body of the response.
    """

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.body = body


class LinkLost(Exception):
    """The connection to the other server has ended without a close frame."""


class _Closed(Exception):
    """The WebSocket of the client must be closed."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class _Message(NamedTuple):
    is_text: bool
    data: bytes


class Link:
    """A WebSocket to another server.

    Args:
        stream: the connection.
        request: the request of the handshake.
        subprotocols: the subprotocols that the client offers.
    """

    def __init__(
        self, stream: ByteStream, request: ForwardedRequest, subprotocols: list[str]
    ) -> None:
        scheme = "wss" if request.address.tls else "ws"
        host = next(value for name, value in request.address.headers if name == "Host")
        self._stream = stream
        self._request = request
        self._protocol = ClientProtocol(
            parse_uri(f"{scheme}://{host}{request.target}"),
            subprotocols=[Subprotocol(each) for each in subprotocols] or None,
            max_size=None,  # the other server limits messages
        )
        self._lock = anyio.Lock()
        self._events: deque[Event] = deque()
        self._parts: list[bytes] = []
        self._is_text = False
        self.close_code = _ABNORMAL
        self.close_reason = ""

    async def open(self) -> str | None:
        """Perform the handshake; return the chosen subprotocol.

        Raises:
            Refused: the other server refuses the WebSocket.
            LinkLost: the other server has ended, or is none.
        """
        head = self._protocol.connect()
        for name, value in self._request.headers:
            head.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._protocol.send_request(head)
        await self._flush()
        with anyio.move_on_after(_ACCEPT_SECONDS):
            while not self._events and self._protocol.handshake_exc is None:
                await self._read()
            failure = self._protocol.handshake_exc
            if isinstance(failure, InvalidStatus):
                body = bytes(failure.response.body or b"")[:_MOST_REFUSAL_BYTES]
                raise Refused(failure.response.status_code, body)
            if failure is not None:
                raise LinkLost(str(failure)) from failure
            self._events.popleft()  # the response, perhaps followed by messages
            return self._protocol.subprotocol
        raise LinkLost(f"the other server did not answer within {_ACCEPT_SECONDS} s")

    async def send(self, data: bytes | str) -> None:
        """Send a message.

        Raises:
            LinkLost: the other server has ended.
        """
        if self._protocol.state.name != "OPEN":
            await anyio.sleep_forever()  # the task that receives learns why, and ends all others
        if isinstance(data, str):
            self._protocol.send_text(data.encode())
        else:
            self._protocol.send_binary(data)
        await self._flush()

    async def receive(self) -> _Message | None:
        """Return the next message; None means that the other server has closed the link.

        Raises:
            LinkLost: the connection has ended without a close frame.
        """
        while True:
            while self._events:
                frame = cast(Frame, self._events.popleft())
                if frame.opcode is Opcode.CLOSE:
                    self.close_code = self._protocol.close_code or NO_CODE
                    self.close_reason = self._protocol.close_reason or ""
                    return None
                if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    continue  # the protocol answers pings
                if frame.opcode is not Opcode.CONT:
                    self._is_text = frame.opcode is Opcode.TEXT
                self._parts.append(bytes(frame.data))
                if frame.fin:
                    parts, self._parts = self._parts, []
                    return _Message(self._is_text, b"".join(parts))
            await self._read()
            await self._flush()

    async def close(self, code: int, reason: str = "") -> None:
        """Send a close frame, without waiting for the answer."""
        if self._protocol.state.name == "OPEN":
            self._protocol.send_close(None if code in (NO_CODE, _ABNORMAL) else code, reason)
            await self._flush()

    async def _read(self) -> None:
        try:
            self._protocol.receive_data(await self._stream.receive(_READ_BYTES))
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError) as error:
            self._protocol.receive_eof()  # which may be the end of a refusal
            self._events += self._protocol.events_received()
            if not self._events:
                raise LinkLost("the connection has ended") from error
        self._events += self._protocol.events_received()

    async def _flush(self) -> None:
        try:
            async with self._lock:
                for data in self._protocol.data_to_send():
                    if data:
                        await self._stream.send(data)
        except (anyio.BrokenResourceError, OSError) as error:
            raise LinkLost("the connection has ended") from error


async def forward_websocket(
    request: ForwardedRequest, scope: Scope, receive: Receive, send: Send, drain: Drain
) -> None:
    """Forward the WebSocket of a client; return after its end.

    Args:
        request: the request of the handshake.
        scope: the scope of the WebSocket, whose ``websocket.connect`` was received.
        receive: receives the events of the client.
        send: sends events to the client.
        drain: announces the end of this server.

    Raises:
        Refused: the other server has refused the WebSocket, which is not accepted.
        LinkLost, Exception: as Refused, but the server was lost; or one of ``http.LOST``.
    """
    async with await open_connection(request.address) as stream:
        link = Link(stream, request, scope["subprotocols"])
        subprotocol = await link.open()
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": []})
        with drain.connection():
            await _Relay(link, scope, receive, send, drain).run()


class _Relay:
    """Passes messages between a client and another server."""

    def __init__(
        self, link: Link, scope: Scope, receive: Receive, send: Send, drain: Drain
    ) -> None:
        self._link = link
        self._receive = receive
        self._send = send
        self._drain = drain
        self._has_acknowledgements = EXTENSION in scope.get("extensions", {})
        self._acknowledged = 0
        self._reported = 0
        self._news = Bell()

    async def run(self) -> None:
        """Pass messages until either side has ended."""
        try:
            async with background_tasks() as tasks:
                tasks.start_soon(self._pass_to_client)
                tasks.start_soon(self._report)
                tasks.start_soon(self._end_with_server)
                code = await self._pass_to_server()
                # The client has left: its last acknowledgements go first.
                with anyio.move_on_after(_CLOSING_SECONDS):
                    await self._report_now()
                    await self._link.close(code)
        except LinkLost:
            await self._close_client(
                _SERVICE_RESTART, "the server of this kernel was lost: connect again"
            )
        except _Closed as closed:
            await self._close_client(closed.code, closed.reason)
            with anyio.move_on_after(_CLOSING_SECONDS):
                await self._report_now()
                await self._link.close(closed.code, closed.reason)

    async def _pass_to_server(self) -> int:
        """Pass the messages of the client on; return the close code."""
        while (event := await self._receive())["type"] == "websocket.receive":
            data: bytes | str | None = event.get("text")
            if data is None:
                data = cast(bytes, event["bytes"])
            elif data.isdigit():
                raise _Closed(_UNUSABLE, "a message must be a JSON object")
            await self._link.send(data)
        return cast(int, event.get("code", NO_CODE))

    async def _pass_to_client(self) -> NoReturn:
        number = 0
        while (message := await self._link.receive()) is not None:
            number += 1
            event: dict[str, Any] = {"type": "websocket.send"}
            event |= {"text": message.data.decode()} if message.is_text else {"bytes": message.data}
            if self._has_acknowledgements:
                event[EXTENSION] = partial(self._note, number)
            try:
                await self._send(event)
            except OSError:  # the client is gone, and the other task receives its disconnect
                await anyio.sleep_forever()
            if not self._has_acknowledgements:
                self._note(number)
        raise _Closed(self._link.close_code, self._link.close_reason)

    async def _end_with_server(self) -> NoReturn:
        await self._drain.closing.wait()
        raise _Closed(_SERVICE_RESTART, SHUTTING_DOWN)

    def _note(self, number: int) -> None:
        """Note that the client has received messages up to a number."""
        self._acknowledged = max(self._acknowledged, number)
        self._news.ring()

    async def _report(self) -> NoReturn:
        while True:
            while self._acknowledged == self._reported:
                await self._news.wait()
            await self._report_now()

    async def _report_now(self) -> None:
        """Tell the other server how many messages the client has received."""
        if self._acknowledged > self._reported:
            self._reported = self._acknowledged
            await self._link.send(str(self._reported))

    async def _close_client(self, code: int, reason: str) -> None:
        code = _SERVICE_RESTART if code in (NO_CODE, _ABNORMAL) else code
        with anyio.move_on_after(_CLOSING_SECONDS), suppress(OSError):  # the client may be gone
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
