"""Clients that send the header of a request slowly, over a real network."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
import uvicorn
from anyio.abc import SocketStream
from websockets.asyncio.client import connect

from kernelproto.server.program.acknowledgements import AcknowledgementProtocol
from kernelproto.server.program.header_timeout import HeaderTimeout
from kernelproto.server.program.serve import _Server

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("no_leaks"),
    pytest.mark.parametrize(
        "anyio_backend",
        [
            pytest.param(("asyncio", {}), id="asyncio"),
            pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
        ],
    ),
]

GUARD_SECONDS = 60
GET = b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n"


@pytest.fixture(autouse=True)
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernelproto.server.program.header_timeout.HEADER_SECONDS", 0.5)


class Slow:
    """An application that responds when *may_respond* is set, and echoes on WebSockets."""

    def __init__(self) -> None:
        self.has_request = anyio.Event()
        self.may_respond = anyio.Event()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            event = await receive()
            await send({"type": "websocket.send", "text": event["text"]})
            await receive()
            return
        self.has_request.set()
        await self.may_respond.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": b"done"})


@asynccontextmanager
async def serving(app) -> AsyncGenerator[int]:
    with anyio.fail_after(GUARD_SECONDS), socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, lifespan="off", http=HeaderTimeout, ws=AcknowledgementProtocol, log_config=None
        )
        server = _Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(server.serve, sockets=[listener]))
            yield listener.getsockname()[1]
            server.should_exit = True


async def read_to_end(stream: SocketStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def wait_for_timeout_of_another_client(port: int) -> None:
    """Wait until a client that sends nothing is disconnected."""
    async with await anyio.connect_tcp("127.0.0.1", port) as silent:
        assert await read_to_end(silent) == b""


@pytest.mark.parametrize("before", [b"", GET])
async def test_incomplete_header_gets_a_response(before: bytes) -> None:
    app = Slow()
    app.may_respond.set()
    async with serving(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(before)
        if before:
            await client.receive()
        await client.send(b"GET / HTTP/1.1\r\nHost: ser")
        head, _, body = (await read_to_end(client)).rpartition(b"\r\n\r\n")
    assert b"HTTP/1.1 408" in head
    assert b"x-content-type-options: nosniff" in head.lower()
    assert body == (
        b'{"message":"the header of the request was not complete after 0.5 s",'
        b'"reason":"Request Timeout"}'
    )


@pytest.mark.parametrize(
    "begin",
    [
        b"GET / HTTP/1.1\r\nx: ",
        b"POST / HTTP/1.1\r\nHost: server.test\r\nContent-Length: 1000000000\r\n\r\n",
    ],
    ids=["header", "body"],
)
async def test_slow_bytes_do_not_keep_a_connection(begin: bytes) -> None:
    """Neither those of a header, nor those of a body that the application does not read."""
    app = Slow()
    app.may_respond.set()
    async with serving(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(begin)
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await send_bytes_slowly(client)


async def send_bytes_slowly(client: SocketStream) -> None:
    while True:
        await client.send(b"y")
        with anyio.move_on_after(0.001):
            await client.receive()


async def test_connection_is_kept_between_requests() -> None:
    """The time limit starts with the first byte of a header."""
    app = Slow()
    app.may_respond.set()
    async with serving(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        for _ in range(2):
            await client.send(GET)
            assert (await client.receive()).startswith(b"HTTP/1.1 200")
            await wait_for_timeout_of_another_client(port)
        await client.send(GET[:10])
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 408")


async def test_response_may_take_longer() -> None:
    app = Slow()
    async with serving(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(GET + GET)
        await app.has_request.wait()
        await wait_for_timeout_of_another_client(port)
        app.may_respond.set()
        received = b""
        while received.count(b"done") < 2:
            received += await client.receive()
    assert received.count(b"HTTP/1.1 200") == 2


async def test_websocket_has_no_header_timeout() -> None:
    async with (
        serving(Slow()) as port,
        connect(f"ws://127.0.0.1:{port}/", proxy=None, compression=None) as websocket,
    ):
        await wait_for_timeout_of_another_client(port)
        await websocket.send("still here")
        assert await websocket.recv() == "still here"
