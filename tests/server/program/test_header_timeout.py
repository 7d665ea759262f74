"""Clients that take their time to say what they want, over a real network."""

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
    """An application that answers when it is told to; its WebSockets say what they are told."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.may_answer = anyio.Event()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            event = await receive()
            await send({"type": "websocket.send", "text": event["text"]})
            await receive()
            return
        self.asked.set()
        await self.may_answer.wait()
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


async def until_others_are_given_up(port: int) -> None:
    """Wait for as long as a client that says nothing is waited for."""
    async with await anyio.connect_tcp("127.0.0.1", port) as silent:
        assert await read_to_end(silent) == b""


@pytest.mark.parametrize("before", [b"", GET])
async def test_head_that_does_not_end_is_answered(before: bytes) -> None:
    app = Slow()
    app.may_answer.set()
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
    ids=["head", "body"],
)
async def test_no_trickle_keeps_a_connection(begin: bytes) -> None:
    """Nor does one of a body that nobody reads."""
    app = Slow()
    app.may_answer.set()
    async with serving(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(begin)
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):
            await send_for_ever(client)


async def send_for_ever(client: SocketStream) -> None:
    while True:
        await client.send(b"y")
        with anyio.move_on_after(0.001):
            await client.receive()


async def test_connection_is_kept_between_requests() -> None:
    """The time for a head counts from its first byte."""
    app = Slow()
    app.may_answer.set()
    async with serving(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        for _ in range(2):
            await client.send(GET)
            assert (await client.receive()).startswith(b"HTTP/1.1 200")
            await until_others_are_given_up(port)
        await client.send(GET[:10])
        assert (await read_to_end(client)).startswith(b"HTTP/1.1 408")


async def test_answer_may_take_longer() -> None:
    app = Slow()
    async with serving(app) as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(GET + GET)
        await app.asked.wait()
        await until_others_are_given_up(port)
        app.may_answer.set()
        received = b""
        while received.count(b"done") < 2:
            received += await client.receive()
    assert received.count(b"HTTP/1.1 200") == 2


async def test_websocket_has_no_head_to_come() -> None:
    async with (
        serving(Slow()) as port,
        connect(f"ws://127.0.0.1:{port}/", proxy=None, compression=None) as websocket,
    ):
        await until_others_are_given_up(port)
        await websocket.send("still here")
        assert await websocket.recv() == "still here"
