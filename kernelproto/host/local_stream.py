"""A stream over a unix socket that makes fewer system calls than that of anyio."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream
from anyio.lowlevel import checkpoint_if_cancelled

# Memory for a larger call is mapped and unmapped, which pays only if much data waits.
_RECEIVE_BYTES = 64 * 1024


async def connect_local(path: str) -> ByteStream:
    """Connect to a unix socket.

    Raises:
        OSError: nothing listens there.
    """
    return _LocalStream(await anyio.connect_unix(path))


class _LocalStream(ByteStream):
    """A stream that waits first and then receives.

    anyio's stream lets other tasks run, tries to receive, waits, and receives. The wait comes first
    here, and lets other tasks run as well.
    """

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._socket: socket.socket = stream.extra(SocketAttribute.raw_socket)
        self._is_full = False  # whether the last call has received as much as it could

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        return self._stream.extra_attributes  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    async def receive(self, max_bytes: int = _RECEIVE_BYTES) -> bytes:
        while True:
            if self._socket.fileno() < 0:
                raise anyio.ClosedResourceError
            await anyio.wait_readable(self._socket)
            try:
                size = max_bytes if self._is_full else min(max_bytes, _RECEIVE_BYTES)
                data = self._socket.recv(size)
            except BlockingIOError:
                continue
            except OSError as error:
                raise anyio.BrokenResourceError from error
            if not data:
                raise anyio.EndOfStream
            self._is_full = len(data) == size
            return data

    async def send(self, item: bytes) -> None:
        await checkpoint_if_cancelled()
        with memoryview(item) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += self._socket.send(view[sent:])
                except BlockingIOError:
                    await anyio.wait_writable(self._socket)
                except OSError as error:
                    raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
        await self._stream.aclose()
