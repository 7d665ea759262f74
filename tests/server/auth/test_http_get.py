"""GET requests over a real network, to servers that respond well, badly or not at all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from kernelproto.server.auth.http_get import FAILURES, get, read_address

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


class Server:
    """Sends the same bytes to every client, then closes the connection."""

    def __init__(self, port: int, response: bytes) -> None:
        self.url = f"http://127.0.0.1:{port}/user"
        self.requests: list[bytes] = []
        self._response = response

    async def handle(self, stream: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            async with stream:
                request = await stream.receive()
                while request.startswith(b"GET ") and not request.endswith(b"\r\n\r\n"):
                    request += await stream.receive()
                self.requests.append(request)
                await stream.send(self._response)


@asynccontextmanager
async def responding(response: bytes) -> AsyncGenerator[Server]:
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            server = Server(listener.extra(SocketAttribute.local_port), response)
            tasks.start_soon(listener.serve, server.handle)
            yield server
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", (200, b"hi")),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", (200, b"until the end")),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1\r\n!\r\n0\r\n\r\n",
            (200, b"hi!"),
        ),
        (
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            (404, b""),
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            (302, b""),
        ),
    ],
    ids=["length", "until closed", "chunked", "informational", "redirect"],
)
async def test_returns_status_and_body(response: bytes, expected: tuple[int, bytes]) -> None:
    async with responding(response) as server:
        assert await get(read_address(server.url), ("Authorization", "token x")) == expected
    (request,) = server.requests
    assert request.startswith(b"GET /user HTTP/1.1\r\n")
    assert b"Host: " + server.url.split("/")[2].encode() in request
    assert b"Authorization: token x\r\n" in request


@pytest.mark.parametrize(
    "response",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhi",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * (2**20 + 1), id="too long"),
    ],
)
async def test_invalid_response_raises_one_of_the_failures(response: bytes) -> None:
    async with responding(response) as server:
        with pytest.raises(FAILURES):
            await get(read_address(server.url))


async def test_unreachable_server_raises_one_of_the_failures(free_tcp_port: int) -> None:
    with pytest.raises(FAILURES):
        await get(read_address(f"http://127.0.0.1:{free_tcp_port}/"))


async def test_https_sends_nothing_in_plain_text() -> None:
    async with responding(b"plain\r\n\r\n") as server:
        url = server.url.replace("http:", "https:")
        with pytest.raises(FAILURES):
            await get(read_address(url), ("Authorization", "token secret"))
    assert server.requests
    assert not any(b"secret" in request for request in server.requests)


@pytest.mark.parametrize(
    ("url", "host", "port", "target"),
    [
        ("http://hub", "hub", 80, "/"),
        ("https://hub/hub/api", "hub", 443, "/hub/api"),
        ("http://[::1]:8081/x", "::1", 8081, "/x"),
    ],
)
def test_address(url: str, host: str, port: int, target: str) -> None:
    address = read_address(url)
    assert (address.host, address.port, address.target) == (host, port, target)
    assert address.tls is url.startswith("https:")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hub",
        "ftp://hub/",
        "http:///x",
        "http://hub:x/",
        "http://user:secret@hub/",
        "http://hub/?x=y",
        "http://hub/a b",
    ],
)
def test_invalid_address(url: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_address(url)
    assert "secret" not in str(caught.value)
