"""A message socket over zmq.asyncio, drained synchronously."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import zmq
from anyio.lowlevel import checkpoint

from kernelproto.transport.raw import Context, RawSocket, drain, try_send
from kernelproto.wire.message import Frame


def usable() -> bool:
    """Return whether the calling task runs on an asyncio loop that can watch descriptors."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    if asyncio.current_task(loop) is None:  # Trio as a guest of an asyncio loop
        return False
    # The Proactor loop of Windows has no add_reader, and zmq.asyncio would ask for tornado.
    return type(loop).add_reader is not asyncio.AbstractEventLoop.add_reader


class AsyncioSocket:
    """Implements MessageSocket: zmq.asyncio does the waiting, the raw socket all the rest."""

    def __init__(self, context: Context, kind: int) -> None:
        # Imported here because it costs time that a program on Trio has no use for.
        from zmq.asyncio import Socket

        # pyzmq's annotations do not allow an asyncio socket in a plain context; pyzmq does.
        self._socket = cast("Any", Socket)(context, kind)
        self.raw: RawSocket = cast("Any", zmq.Socket).shadow(self._socket.underlying)

    async def receive(self) -> list[list[bytes]]:
        first: asyncio.Future[list[bytes]] = self._socket.recv_multipart()
        if first.done():
            # Awaiting it would not yield, and a busy channel would starve everything else.
            await checkpoint()
        return drain(self.raw, [await first])

    def try_send(self, frames: Sequence[Frame]) -> bool:
        sent = try_send(self.raw, frames)
        # Sending swallows the descriptor's edge. Reading EVENTS through the asyncio socket makes it
        # look again for what its receiver waits for.
        self._socket.get(zmq.EVENTS)
        return sent

    async def send(self, frames: Sequence[Frame]) -> None:
        await self._socket.send_multipart(frames)

    def close(self, linger_ms: int) -> None:
        self._socket.close(linger_ms)
