"""Forward HTTP requests to another server, on asyncio and Trio.

Each request has a connection of its own. Bodies are passed on part by part in both directions: a
slow receiver slows down the sender, and no body is held as a whole.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

import anyio
import h11
from anyio.abc import ByteStream, SocketAttribute
from starlette.types import Receive, Send

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.server.auth.http_get import FAILURES, Address, connect
from kernelproto.server.nodes.requests import Headers, forwarded_headers

# The status of a server that does not have the kernel of a forwarded request.
NOT_HERE = 421

_CONNECT_SECONDS = 3
_READ_BYTES = 65_536

# The system ends a connection to a machine that has not answered for so many seconds.
_SILENT_SECONDS = 15

# The errors of a server that cannot be reached, or has ended.
LOST = (*FAILURES, TimeoutError, anyio.EndOfStream, anyio.ClosedResourceError)


class ForwardedRequest(NamedTuple):
    """A request to another server.

    Attributes:
        address: the server.
        method: the method.
        target: the path and the query.
        headers: the headers, without Host.
    """

    address: Address
    method: str
    target: str
    headers: Headers


async def open_connection(address: Address) -> ByteStream:
    """Connect to another server, whose machine may vanish without closing the connection.

    Raises:
        OSError: the server cannot be reached.
        TimeoutError: the server did not answer in time.
    """
    with anyio.fail_after(_CONNECT_SECONDS):
        stream = await connect(address)
    raw = stream.extra(SocketAttribute.raw_socket)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    third = _SILENT_SECONDS // 3
    for name, value in (
        ("TCP_KEEPIDLE", third),
        ("TCP_KEEPINTVL", third),
        ("TCP_KEEPCNT", 2),
        ("TCP_USER_TIMEOUT", _SILENT_SECONDS * 1000),
    ):
        if hasattr(socket, name):
            raw.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return stream


async def fetch(request: ForwardedRequest, *, limit: int) -> tuple[int, bytes]:
    """Return the status and the body of the response to a request without a body.

    Args:
        request: the request.
        limit: the largest body, in bytes.

    Raises:
        Exception: one of LOST.
    """
    exchange = _Exchange(request)
    body = bytearray()
    status = 0
    async with await open_connection(request.address) as exchange.stream:
        await exchange.begin()
        await exchange.send(h11.EndOfMessage())
        while not isinstance(event := await exchange.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > limit:
                    raise ValueError(f"the response is longer than {limit} bytes")
    return status, bytes(body)


async def forward(request: ForwardedRequest, receive: Receive, send: Send) -> bool:
    """Forward a request and its response.

    Args:
        request: the request.
        receive: returns the events of the client's request.
        send: sends the events of the response.

    Returns:
        False if the other server does not have the kernel, and the request can be sent again.

    Raises:
        Exception: one of LOST, or an error of *send*.
    """
    exchange = _Exchange(request)
    async with await open_connection(request.address) as exchange.stream:
        await exchange.begin()
        async with background_tasks() as tasks:
            tasks.start_soon(exchange.pass_body, receive, tasks.cancel_scope)
            return await exchange.pass_response(send)
    return True  # the client has disconnected


class _Exchange:
    """A request and its response on a connection."""

    stream: ByteStream

    def __init__(self, request: ForwardedRequest) -> None:
        self._request = request
        self._http = h11.Connection(h11.CLIENT)
        self._has_body = any(
            name.lower() in (b"content-length", b"transfer-encoding") and value != b"0"
            for name, value in request.headers
        )

    async def begin(self) -> None:
        """Send the head of the request."""
        host = next(value for name, value in self._request.address.headers if name == "Host")
        headers = [
            (b"Host", host.encode()),
            (b"Connection", b"close"),
            *self._request.headers,
        ]
        method, target = self._request.method, self._request.target
        await self.send(h11.Request(method=method, target=target, headers=headers))

    async def send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        """Send an event of the request."""
        data = self._http.send(event)
        if data:
            await self.stream.send(data)

    async def next_event(self) -> h11.Event:
        """Return the next event of the response."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            try:
                self._http.receive_data(await self.stream.receive(_READ_BYTES))
            except anyio.EndOfStream:
                self._http.receive_data(b"")
        if isinstance(event, (h11.Response, h11.InformationalResponse, h11.Data, h11.EndOfMessage)):
            return event
        raise OSError("the server closed the connection before the end of its response")

    async def pass_body(self, receive: Receive, scope: anyio.CancelScope) -> None:
        """Send the body of a client's request; cancel the scope when the client disconnects."""
        is_complete = False
        while (event := await receive())["type"] == "http.request":
            try:
                if event.get("body"):
                    await self.send(h11.Data(data=event["body"]))
                if not event.get("more_body") and not is_complete:
                    is_complete = True
                    await self.send(h11.EndOfMessage())
            except (OSError, anyio.BrokenResourceError, h11.LocalProtocolError):
                break  # the response has the reason, or the connection is lost, too
        else:
            scope.cancel()

    async def pass_response(self, send: Send) -> bool:
        """Pass the response on; return False if it is NOT_HERE and nothing was lost."""
        while not isinstance(event := await self.next_event(), h11.Response):
            pass
        if event.status_code == NOT_HERE:
            if self._has_body:
                raise OSError("the kernel has moved, and the body of the request is gone")
            return False
        headers = forwarded_headers(event.headers.raw_items())
        status = event.status_code
        await send({"type": "http.response.start", "status": status, "headers": headers})
        while isinstance(part := await self.next_event(), h11.Data):
            body = bytes(part.data)
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return True
