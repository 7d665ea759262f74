from __future__ import annotations

import socket
from collections.abc import Iterator

import anyio
import pytest
from anyio.abc import ByteStream, UNIXSocketStream

from kernelproto import RemoteProtocolError
from kernelproto.host.inquiry import ask_host
from kernelproto.host.link import RequestRefused
from kernelproto.launch.programs.host import frames
from kernelproto.launch.programs.host.frames import FrameReader, pack, pack_json

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

HELLO = pack_json(frames.ANSWER, {"ok": {"version": frames.VERSION}})


class Host:
    """The other end of a connection."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()

    async def connect(self) -> ByteStream:
        return await UNIXSocketStream.from_socket(self.near)


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    with host.far:
        yield host
    host.near.close()


async def test_answer_of_a_host(host: Host) -> None:
    host.far.sendall(HELLO + pack_json(frames.ANSWER, {"ok": {"kernels": []}}, number=1))
    assert await ask_host(host.connect, "end", kernel="k") == {"kernels": []}
    (request,) = FrameReader(0).feed(host.far.recv(1000))
    assert (request.kind, request.number) == (frames.REQUEST, 1)
    assert request.json() == {"op": "end", "kernel": "k"}
    assert host.far.recv(1000) == b""


async def test_refusal_is_raised(host: Host) -> None:
    refusal = {"kind": "no_such_kernel", "reason": "this host has no such kernel"}
    host.far.sendall(HELLO + pack_json(frames.ANSWER, {"error": refusal}, number=1))
    with pytest.raises(RequestRefused, match="no such kernel") as caught:
        await ask_host(host.connect, "end", kernel="k")
    assert caught.value.kind == "no_such_kernel"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pack_json(frames.ANSWER, {"ok": {"version": 99}}) * 2, "version 99"),
        (pack_json(frames.ANSWER, {"ok": None}) * 2, "version None"),
        (b"HTTP/1.1 400 Bad Request", "broken"),
        (pack(frames.ANSWER, b"[]"), "not a JSON object"),
    ],
)
async def test_other_protocols_are_refused(host: Host, data: bytes, words: str) -> None:
    host.far.sendall(data)
    with pytest.raises(RemoteProtocolError, match=words):
        await ask_host(host.connect, "list")


async def test_lost_connection_is_raised(host: Host) -> None:
    host.far.sendall(HELLO[:5])
    host.far.shutdown(socket.SHUT_WR)
    with pytest.raises(anyio.EndOfStream):
        await ask_host(host.connect, "list")
