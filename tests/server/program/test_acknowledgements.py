"""Acknowledgements of clients that answer pings in time, late or never."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import Any

import anyio
import pytest
import uvicorn
from anyio.abc import SocketStream
from uvicorn.protocols.utils import ClientDisconnected
from websockets.asyncio.client import connect

from kernelproto.server.asgi_extension import EXTENSION, SEND_AT_ONCE
from kernelproto.server.program.acknowledgements import AcknowledgementProtocol

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60
HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PONG = b"\x8a\x88" + bytes(4)
TEXT, BINARY, CLOSE, PING = 0x1, 0x2, 0x8, 0x9

Send = Callable[[Any], Awaitable[None]]
Use = Callable[[Send, Callable[[], Awaitable[Any]], Any], Awaitable[None]]


@pytest.fixture(params=[{}, {"use_uvloop": True}], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """uvicorn runs on asyncio only."""
    return "asyncio", request.param


class Server(uvicorn.Server):
    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()


@asynccontextmanager
async def serving(use: Use, **options: Any) -> AsyncGenerator[int]:
    """Serve an application that calls *use* on each WebSocket; yield the port."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await use(send, receive, scope)

    config = uvicorn.Config(
        app, lifespan="off", ws=AcknowledgementProtocol, log_config=None, http="h11", **options
    )
    server = Server(config)
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            listener = socket.create_server(("127.0.0.1", 0))
            tasks.start_soon(server.serve, [listener])
            yield listener.getsockname()[1]
            server.should_exit = True


@asynccontextmanager
async def connected(use: Use, **options: Any) -> AsyncGenerator[SocketStream]:
    """Serve such an application; yield the connection of a client."""
    async with (
        serving(use, **options) as port,
        await anyio.connect_tcp("127.0.0.1", port) as client,
    ):
        await client.send(HANDSHAKE)
        yield client


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Return the opcodes and payloads of a server's frames, all of them short."""
    found: list[tuple[int, bytes]] = []
    while data:
        end = 2 + data[1]
        found.append((data[0] & 0xF, data[2:end]))
        data = data[end:]
    return found


async def read_until(client: SocketStream, last: bytes) -> bytes:
    """Return the frames of a server, without the handshake, up to those that end with *last*."""
    data = b""
    while not data.endswith(last):
        data += await client.receive()
    return data.rpartition(b"\r\n\r\n")[2]


async def test_one_ping_follows_the_messages_of_one_turn() -> None:
    received: list[int] = []
    done = anyio.Event()

    async def use(send: Send, receive: Callable[[], Awaitable[Any]], scope: Any) -> None:
        for number in range(20):
            on_acknowledged = partial(received.append, number)
            await send({"type": "websocket.send", "text": "", EXTENSION: on_acknowledged})
        await receive()
        await send({"type": "websocket.send", "text": "", EXTENSION: partial(received.append, 20)})
        await send({"type": "websocket.close", "code": 1000})
        done.set()

    async with connected(use) as client:
        pings = [struct.pack("!Q", number) for number in (1, 2, 3)]
        first = [*[(TEXT, b"")] * 16, (PING, pings[0]), *[(TEXT, b"")] * 4, (PING, pings[1])]
        assert frames(await read_until(client, pings[1])) == first
        await client.send(PONG + pings[1] + b"\x81\x81" + bytes(4) + b"x")
        close_code = (1000).to_bytes(2, "big")
        last = frames(await read_until(client, close_code))
        assert last == [(TEXT, b""), (PING, pings[2]), (CLOSE, close_code)]
        await done.wait()
    assert received == [15, 19]


async def test_pong_acknowledges_all_messages_before_its_ping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kernelproto.server.program.acknowledgements._MESSAGES_PER_PING", 1)
    monkeypatch.setattr("kernelproto.server.program.acknowledgements._MAX_PENDING", 3)
    received: list[int] = []
    done = anyio.Event()

    async def use(send: Send, receive: Callable[[], Awaitable[Any]], scope: Any) -> None:
        for number in range(1, 11):
            on_acknowledged = partial(received.append, number)
            await send(
                {"type": "websocket.send", "text": f"<{number}>", EXTENSION: on_acknowledged}
            )
        await receive()  # a message behind the pongs
        done.set()

    async with connected(use) as client:
        data = b""
        while b"<10>" not in data:
            data += await client.receive()
        await client.send(PONG + struct.pack("!Q", 9))
        await client.send(b"\x81\x81" + bytes(4) + b"x")
        await done.wait()
    assert received == [8, 9]


async def test_ping_waits_for_the_message_that_follows_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latest = "kernelproto.server.program.acknowledgements.LATEST_SECONDS"
    monkeypatch.setattr(latest, GUARD_SECONDS)
    received: list[int] = []
    done = anyio.Event()

    async def use(send: Send, receive: Callable[[], Awaitable[Any]], scope: Any) -> None:
        at_once = scope["extensions"][EXTENSION][SEND_AT_ONCE]
        for number in range(1, 4):
            assert at_once(f"<{number}>", partial(received.append, number), number != 3)
            await receive()
        monkeypatch.setattr(latest, 0)
        assert at_once("<4>", partial(received.append, 4), True)
        await receive()
        done.set()

    reply = b"\x81\x81" + bytes(4) + b"x"
    pings = [struct.pack("!Q", 1), struct.pack("!Q", 2)]
    async with connected(use) as client:
        seen: list[tuple[int, bytes]] = []
        for last in (b"<1>", b"<2>"):
            seen += frames(await read_until(client, last))
            await client.send(reply)
        for ping in pings:
            seen += frames(await read_until(client, ping))
            await client.send(PONG + ping + reply)
        await done.wait()
    texts = [(TEXT, b"<%d>" % number) for number in range(1, 5)]
    assert seen == [*texts[:3], (PING, pings[0]), texts[3], (PING, pings[1])]
    assert received == [3, 4]


async def test_late_ping_precedes_the_pong_for_a_ping_of_the_client(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So a client that leaves when it gets the pong has acknowledged all messages before."""
    monkeypatch.setattr("kernelproto.server.program.acknowledgements.LATEST_SECONDS", GUARD_SECONDS)
    acknowledged = anyio.Event()

    async def use(send: Send, receive: Callable[[], Awaitable[Any]], scope: Any) -> None:
        assert scope["extensions"][EXTENSION][SEND_AT_ONCE]("x", acknowledged.set, True)
        await receive()

    async with connected(use) as client:
        seen = frames(await read_until(client, b"x"))
        await client.send(b"\x89\x84" + bytes(4) + b"ping")
        seen += frames(await read_until(client, b"ping"))
        ping = struct.pack("!Q", 1)
        await client.send(PONG + ping)
        await acknowledged.wait()
        await client.send(b"\x81\x81" + bytes(4) + b"x")
    assert seen == [(TEXT, b"x"), (PING, ping), (0xA, b"ping")]


@pytest.mark.parametrize("is_written", [False, True])
async def test_late_ping_precedes_the_close_frame(
    is_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelproto.server.program.acknowledgements.LATEST_SECONDS", GUARD_SECONDS)

    async def use(send: Send, receive: Callable[[], Awaitable[Any]], scope: Any) -> None:
        assert scope["extensions"][EXTENSION][SEND_AT_ONCE]("x", list, True)
        if is_written:
            await receive()
        await send({"type": "websocket.close", "code": 1000})

    close_code = (1000).to_bytes(2, "big")
    async with connected(use) as client:
        seen: list[tuple[int, bytes]] = []
        if is_written:
            seen += frames(await read_until(client, b"x"))
            await client.send(b"\x81\x81" + bytes(4) + b"x")
        seen += frames(await read_until(client, close_code))
    assert seen == [(TEXT, b"x"), (PING, struct.pack("!Q", 1)), (CLOSE, close_code)]


async def test_messages_that_are_sent_at_once_keep_their_order() -> None:
    """The application must wait while the buffer is full, and after the end."""
    received: list[int] = []
    done = anyio.Event()

    async def use(send: Send, receive: Callable[[], Awaitable[Any]], scope: Any) -> None:
        at_once = scope["extensions"][EXTENSION][SEND_AT_ONCE]
        assert at_once("<1>", partial(received.append, 1), False)
        await send({"type": "websocket.send", "text": "<2>", EXTENSION: list})
        assert at_once(b"<3>", partial(received.append, 3), False)
        await receive()
        count = 4
        while at_once("x" * 100_000, partial(received.append, count), False):
            count += 1
        await send({"type": "websocket.send", "text": "<4>", EXTENSION: list})
        await send({"type": "websocket.close", "code": 1000})
        assert not at_once("<5>", list, False)
        done.set()

    async with connected(use) as client:
        ping = struct.pack("!Q", 1)
        first = frames(await read_until(client, ping))
        assert first == [(TEXT, b"<1>"), (TEXT, b"<2>"), (BINARY, b"<3>"), (PING, ping)]
        await client.send(PONG + ping + b"\x81\x81" + bytes(4) + b"x")
        data = await read_until(client, (1000).to_bytes(2, "big"))
        assert data.index(b"<4>") > data.rindex(b"xx")
        await done.wait()
    assert received == [3]


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("kind", [str, bytes])
async def test_client_reads_messages_of_any_size(
    kind: type[str | bytes], size: int, compression: str | None
) -> None:
    message = kind("x" * size, "ascii") if kind is bytes else "x" * size

    async def use(send: Send, receive: Callable[[], Awaitable[Any]], scope: Any) -> None:
        key = "bytes" if isinstance(message, bytes) else "text"
        await send({"type": "websocket.send", key: message, EXTENSION: list})
        await receive()

    async with serving(use) as port:
        url = f"ws://127.0.0.1:{port}"
        async with connect(url, compression=compression, proxy=None) as client:
            assert (compression is None) == (not client.protocol.extensions)
            assert await client.recv() == message


async def test_client_that_answers_no_ping_is_disconnected() -> None:
    """uvicorn alone would keep the connection until the client has read everything."""
    done = anyio.Event()

    async def use(send: Send, receive: Callable[[], Awaitable[Any]], scope: Any) -> None:
        message = {"type": "websocket.send", "text": "x" * 20_000}
        with suppress(ClientDisconnected):
            while True:
                await send({**message, EXTENSION: list})
        assert (await receive())["type"] == "websocket.disconnect"
        with pytest.raises(ClientDisconnected):
            await send({**message, EXTENSION: list})
        done.set()

    async with connected(use, ws_ping_interval=0.05, ws_ping_timeout=0.05):
        await done.wait()


async def test_pong_before_a_disconnect_counts() -> None:
    """A server that writes before it reads notices the disconnect first."""
    received: list[int] = []
    done = anyio.Event()
    client = socket.socket()
    number = struct.pack("!Q", 1)

    async def use(send: Send, receive: Callable[[], Awaitable[Any]], scope: Any) -> None:
        message = {"type": "websocket.send", "text": "x"}
        await send({**message, EXTENSION: partial(received.append, 1)})
        await anyio.wait_readable(client)
        while not client.recv(1000).endswith(number):
            await anyio.wait_readable(client)
        client.send(PONG + number + b"\x81\x81" + bytes(4) + b"x")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await send({**message, "text": "x" * 100_000, EXTENSION: partial(received.append, 2)})
        assert await receive() == {"type": "websocket.receive", "text": "x"}
        assert (await receive())["type"] == "websocket.disconnect"
        done.set()

    async with serving(use) as port:
        client.connect(("127.0.0.1", port))
        client.send(HANDSHAKE)
        await done.wait()
    assert received == [1]
