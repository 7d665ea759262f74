"""uvicorn's protocols with pacing and limits, over a real network."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import uvicorn
from anyio.abc import SocketStream
from anyio.lowlevel import checkpoint
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kernelproto.server.connections import Connections
from kernelproto.server.program.compatibility import choose_protocols
from kernelproto.server.program.pacing import SLICE_BYTES
from kernelproto.server.program.serve import _Server

pytestmark = pytest.mark.usefixtures("no_leaks")

on_uvicorn = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    ],
)

GUARD_SECONDS = 60
GET = b"GET / HTTP/1.1\r\nHost: server.test\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: server.test\r\nTransfer-Encoding: chunked\r\n\r\n"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Respond at once, on /read with the size of the body; on a WebSocket with message sizes."""
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] == "/refuse":
            await send({"type": "websocket.http.response.start", "status": 404, "headers": []})
            await send({"type": "websocket.http.response.body", "body": b"no"})
            return
        await send({"type": "websocket.accept"})
        while (event := await receive())["type"] != "websocket.disconnect":
            size = len(event.get("text") or event["bytes"])
            await send({"type": "websocket.send", "text": str(size)})
        await send({"type": "websocket.close"})
        await send({"type": "websocket.send", "text": "too late"})
        return
    size, more = 0, scope["path"] == "/read"
    while more:
        event = await receive()
        size += len(event["body"])
        more = event["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % size})


@asynccontextmanager
async def serving(connections: Connections | None = None) -> AsyncGenerator[int]:
    connections = connections or Connections()
    with anyio.fail_after(GUARD_SECONDS), socket.create_server(("127.0.0.1", 0)) as listener:
        http, ws = choose_protocols(connections)
        config = uvicorn.Config(
            app,
            lifespan="off",
            http=http,
            ws=ws,
            ws_ping_interval=None,
            log_config=None,
        )
        server = _Server(config)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(server.serve, sockets=[listener]))
            yield listener.getsockname()[1]
            server.should_exit = True


async def wait_until_all_are_closed(connections: Connections) -> None:
    while connections.open:
        await checkpoint()


async def read_to_end(stream: SocketStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes([fin << 7 | opcode]) + length + bytes(4) + payload


CONTINUATION, TEXT, PING, PONG = 0, 1, 9, 10


@on_uvicorn
@pytest.mark.anyio
@pytest.mark.parametrize("size", [1, SLICE_BYTES, 300_000])
async def test_body_is_complete(size: int) -> None:
    head = b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
    async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        for _ in range(3):
            await client.send(head + bytes(size))
            answer = b""
            while not answer.endswith(b"\r\n0\r\n\r\n"):
                answer += await client.receive()
            assert b"%d" % size in answer
            assert b"connection: close" not in answer


@on_uvicorn
@pytest.mark.anyio
async def test_response_before_the_end_of_the_body_closes_the_connection() -> None:
    """The client gets the response although it keeps sending."""
    async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(CHUNKED + b"1\r\nx\r\n" * 200_000)
        answer = await read_to_end(client)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in answer
    assert answer.endswith(b"0\r\n\r\n")


@on_uvicorn
@pytest.mark.anyio
async def test_pipelined_requests_are_all_answered() -> None:
    async with serving() as port, await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(GET * 500)
        answer = b""
        while answer.count(b"HTTP/1.1 200") < 500:
            answer += await client.receive()
    assert b"connection: close" not in answer


@on_uvicorn
@pytest.mark.anyio
@pytest.mark.parametrize(
    "frames",
    [
        frame(PING) * 20_000,
        frame(PONG) * 20_000,
        frame(PONG, bytes(8)) * 20_000,
        frame(PING, b"x" * 125) * 20_000,
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, fin=False) * 20_000,
        frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x" * 100, fin=False) * 20_000,
    ],
    ids=["pings", "pongs", "numbered pongs", "large pings", "continuations", "small fragments"],
)
async def test_too_many_small_frames_close_a_websocket(frames: bytes) -> None:
    connections = Connections(frames_per_second=100)
    async with serving(connections) as port:
        async with connect(f"ws://127.0.0.1:{port}/", proxy=None) as client:
            client.transport.write(frames)
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008
        assert "too many pings, pongs or small fragments" in caught.value.rcvd.reason
        await wait_until_all_are_closed(connections)


@on_uvicorn
@pytest.mark.anyio
async def test_whole_messages_and_large_fragments_are_not_limited() -> None:
    async with (
        serving(Connections(frames_per_second=1)) as port,
        connect(f"ws://127.0.0.1:{port}/", proxy=None, compression=None) as client,
    ):
        for _ in range(20):
            for _ in range(50):
                await client.send("x")
            for _ in range(50):
                assert await client.recv() == "1"
        await client.send(["x" * 4096] * 500)
        assert await client.recv() == str(4096 * 500)
        await client.send([b"x" * 4096, b"y"])
        assert await client.recv() == "4097"
        await client.send("x" * 1_000_000)
        assert await client.recv() == "1000000"
        await (await client.ping())


@on_uvicorn
@pytest.mark.anyio
async def test_sending_after_a_broken_frame_logs_no_error(caplog) -> None:
    connections = Connections()
    async with serving(connections) as port:
        async with connect(f"ws://127.0.0.1:{port}/", proxy=None) as client:
            client.transport.write(frame(PING, b"x", fin=False))
            with pytest.raises(ConnectionClosed) as caught:
                await client.recv()
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1002
        await wait_until_all_are_closed(connections)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@on_uvicorn
@pytest.mark.anyio
async def test_refused_handshake_logs_no_error(caplog) -> None:
    async with serving() as port:
        with pytest.raises(InvalidStatus) as caught:
            await connect(f"ws://127.0.0.1:{port}/refuse", proxy=None).__aenter__()
        assert caught.value.response.status_code == 404
        assert caught.value.response.body == b"no"
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@on_uvicorn
@pytest.mark.anyio
async def test_idle_connections_do_not_lock_out_clients() -> None:
    connections = Connections(most=5)
    async with serving(connections) as port, anyio.create_task_group() as tasks:
        begun = b"GET / HTTP/1.1\r\nx: "
        for number in range(40):
            silent = await anyio.connect_tcp("127.0.0.1", port)
            tasks.start_soon(wait_until_closed, silent)
            if number % 2:
                await silent.send(begun)
            async with await anyio.connect_tcp("127.0.0.1", port) as client:
                await client.send(GET)
                assert (await client.receive()).startswith(b"HTTP/1.1 200")
        tasks.cancel_scope.cancel()
    assert connections.displaced >= 35
    assert connections.refused == 0


async def wait_until_closed(stream: SocketStream) -> None:
    async with stream:
        with anyio.CancelScope(), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await stream.receive()


@on_uvicorn
@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/", "/websocket"])
async def test_connection_above_the_limit_gets_a_response(caplog, path: str) -> None:
    connections = Connections(most=2)
    async with serving(connections) as port:
        url = f"ws://127.0.0.1:{port}/"
        async with connect(url, proxy=None) as first, connect(url, proxy=None) as second:
            await second.ping()
            if path == "/websocket":
                with pytest.raises(InvalidStatus) as caught:
                    await connect(url, proxy=None).__aenter__()
                assert caught.value.response.status_code == 503
            async with await anyio.connect_tcp("127.0.0.1", port) as client:
                await client.send(GET)
                answer = await read_to_end(client)
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"retry-after: 5" in answer
            assert b'"reason":"Service Unavailable"' in answer
            await first.send("x")
            assert await first.recv() == "1"
        await wait_until_all_are_closed(connections)
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(GET)
            assert (await client.receive()).startswith(b"HTTP/1.1 200")
    assert connections.refused == 1 + (path == "/websocket")
    warnings = [record for record in caplog.records if "max_connections" in record.getMessage()]
    assert len(warnings) == 1
