"""Standard input and output as the transport of MCP: one message a line.

``mcp`` reads and writes them in threads, which a signal cannot stop. Here the event loop waits for
the descriptors, so the server can end at any time. During the block, descriptor 1 leads to standard
error, so other code that writes to standard output, even in a child process, does not disturb the
client.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
from anyio.lowlevel import checkpoint

from kernelproto.extras import importing

with importing("mcp"):
    from mcp.server.stdio import stdio_server

logger = logging.getLogger(__name__)

_STDIN, _STDOUT, _STDERR = range(3)

_READ_BYTES = 64 * 1024
# An uploaded file in base64, in JSON.
_LONGEST_LINE = 64 * 1024 * 1024


@asynccontextmanager
async def open_stdio() -> AsyncGenerator[tuple[Any, Any]]:
    """Give the streams of messages from and to the client, for ``Server.run``."""
    client = os.dup(_STDOUT)
    try:
        os.dup2(_STDERR, _STDOUT)
        with _Writer(client) as writer:
            async with stdio_server(
                cast("anyio.AsyncFile[str]", _Lines(_STDIN)),
                cast("anyio.AsyncFile[str]", writer),
            ) as streams:
                yield streams
    finally:
        os.dup2(client, _STDOUT)
        os.close(client)


class _Lines:
    """The lines of the client, until the end of the input or a line that is too long."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pollable = _pollable(descriptor)

    async def __aiter__(self) -> AsyncIterator[str]:
        rest = bytearray()
        while data := await self._read():
            *lines, last = data.split(b"\n")
            for line in lines:
                yield (rest + line).decode("utf-8", "replace")
                rest.clear()
            rest += last
            if len(rest) > _LONGEST_LINE:
                logger.error("the client sent a message of more than %d bytes", _LONGEST_LINE)
                return

    async def _read(self) -> bytes:
        if self._pollable:
            await anyio.wait_readable(self._descriptor)
        else:
            await checkpoint()
        return os.read(self._descriptor, _READ_BYTES)


class _Writer:
    """Writes to the client, without blocking the event loop."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # The mode of a terminal is kept: the shell has the terminal open as well.
        self._pollable = _pollable(descriptor) and not os.isatty(descriptor)

    def __enter__(self) -> _Writer:
        if self._pollable:
            os.set_blocking(self._descriptor, False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pollable:
            os.set_blocking(self._descriptor, True)

    async def write(self, text: str) -> None:
        """Write a whole message.

        Raises:
            ClosedResourceError: the client has closed its end of the pipe.
        """
        rest = memoryview(text.encode())
        try:
            while rest:
                if self._pollable:
                    await anyio.wait_writable(self._descriptor)
                try:
                    rest = rest[os.write(self._descriptor, rest) :]
                except BlockingIOError:
                    continue
        except BrokenPipeError:
            raise anyio.ClosedResourceError from None

    async def flush(self) -> None:
        """Do nothing: nothing is buffered."""


def _pollable(descriptor: int) -> bool:
    """Return whether an event loop can wait for a descriptor; others do not block."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)
