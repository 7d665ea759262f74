"""Every test here runs on every event loop, and on asyncio's with the FD socket as well."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from kernelproto.transport import asyncio_socket
from kernelproto.wire.connection import CHANNEL_NAMES, ChannelName, ConnectionInfo

GUARD_MS = 60_000  # a blocking call on the kernel's side fails then

needs_uvloop = pytest.mark.skipif(
    importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
)


@pytest.fixture(
    params=[
        pytest.param(("asyncio", {}, True), id="asyncio"),
        pytest.param(("asyncio", {"use_uvloop": True}, True), id="uvloop", marks=needs_uvloop),
        pytest.param(("trio", {}, False), id="trio"),
        pytest.param(("asyncio", {}, False), id="asyncio-fd"),
        pytest.param(("asyncio", {"use_uvloop": True}, False), id="uvloop-fd", marks=needs_uvloop),
    ]
)
def anyio_backend(request, monkeypatch) -> tuple[str, dict[str, object]]:
    name, options, may_use_asyncio_socket = request.param
    if not may_use_asyncio_socket:
        monkeypatch.setattr(asyncio_socket, "usable", lambda: False)
    return name, options


class HandMadeKernel:
    """The kernel's five sockets, plain and blocking: libzmq's own thread serves them meanwhile."""

    def __init__(self, info: ConnectionInfo) -> None:
        self.info = info
        self._open = ExitStack()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}

    def bind(self) -> None:
        """Listen."""
        context = self._open.enter_context(zmq.Context())
        for name in CHANNEL_NAMES:
            kind = {"iopub": zmq.XPUB, "hb": zmq.REP}.get(name, zmq.ROUTER)
            raw = self._open.enter_context(context.socket(kind))
            raw.set(zmq.LINGER, 0)
            if self.info.encrypted:
                raw.set(zmq.CURVE_SERVER, 1)
                raw.set(zmq.CURVE_PUBLICKEY, self.info.curve_publickey.encode())
                raw.set(zmq.CURVE_SECRETKEY, self.info.curve_secretkey.encode())
            raw.set(zmq.RCVTIMEO, GUARD_MS)
            raw.set(zmq.SNDTIMEO, GUARD_MS)
            # A real kernel discards messages when its buffer is full; this one waits.
            if kind == zmq.XPUB:
                raw.set(zmq.XPUB_NODROP, 1)
            elif kind == zmq.ROUTER:
                raw.set(zmq.ROUTER_MANDATORY, 1)
            raw.bind(self.info.endpoint(name))
            self._sockets[name] = raw

    def receive(self, channel: ChannelName) -> list[bytes]:
        return self._sockets[channel].recv_multipart()

    def send(self, channel: ChannelName, frames: list[bytes]) -> None:
        self._sockets[channel].send_multipart(frames)

    def nothing_more(self, channel: ChannelName) -> bool:
        """Whether nothing has arrived that was not received yet."""
        return not self._sockets[channel].poll(0)

    def close(self) -> None:
        self._open.close()


def free_ports(count: int) -> list[int]:
    """Return different ports that the system does not assign by itself.

    A client that tries to connect again and again would in the end be given the very port that it
    connects to, and talk to itself.
    """
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randrange(20_000, 30_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return list(ports)


@pytest.fixture(params=["tcp", "ipc"])
def info(request, runtime_dir: Path) -> ConnectionInfo:
    """Tell where a kernel will listen, but none does yet."""
    numbers = free_ports(len(CHANNEL_NAMES))
    ports = {f"{name}_port": number for name, number in zip(CHANNEL_NAMES, numbers, strict=True)}
    # libzmq leaves the files of ipc sockets, and they are no leak of ours.
    ip = "127.0.0.1" if request.param == "tcp" else str(runtime_dir.parent / "kernel")
    return ConnectionInfo(transport=request.param, ip=ip, **ports)


@pytest.fixture
def kernel(info: ConnectionInfo) -> Iterator[HandMadeKernel]:
    """Give a kernel that does not listen yet."""
    kernel = HandMadeKernel(info)
    yield kernel
    kernel.close()
