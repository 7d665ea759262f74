"""The channels to a kernel that lives in the same process, for tests and for embedding."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from kernelproto.exceptions import ClientClosed
from kernelproto.interfaces import Channels, Deliver
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame

# As many as zmq holds for a kernel that does not read.
_SEND_BUFFER_MESSAGES = 1000

_Letter = tuple[ChannelName, Sequence[Frame]]


class _MemoryChannels:
    """Implements Channels: the client's end."""

    def __init__(
        self,
        outbox: MemoryObjectSendStream[_Letter],
        inbox: MemoryObjectReceiveStream[_Letter],
    ) -> None:
        self._outbox = outbox
        self._inbox = inbox

    async def send(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        try:
            await self._outbox.send((channel, frames))
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise ClientClosed("the channels to the kernel are closed") from None

    def abandon(self) -> None:
        self._inbox.close()


class MemoryTransport:
    """Both ends of one client's channels: ``open_channels`` is the client's, the rest the kernel's.

    What the kernel sends is delivered at once. What the client sends waits until the kernel
    receives it, up to 1000 messages; after that the client waits.

    Attributes:
        identity: the routing identity of the client, once it is there.
        topics: its iopub subscriptions.
    """

    def __init__(self) -> None:
        self.identity = b""
        self.topics: Sequence[bytes] = ()
        self._connected = anyio.Event()
        self._inbox: MemoryObjectReceiveStream[_Letter] | None = None
        self._deliver: Deliver | None = None

    @asynccontextmanager
    async def open_channels(
        self,
        info: ConnectionInfo,
        deliver: Deliver,
        *,
        identity: bytes,
        topics: Sequence[bytes] = (b"",),
    ) -> AsyncGenerator[Channels]:
        """Open the client's end, once; arguments as in ``interfaces.OpenChannels``."""
        outbox, inbox = anyio.create_memory_object_stream[_Letter](_SEND_BUFFER_MESSAGES)
        self.identity, self.topics = identity, topics
        self._inbox, self._deliver = inbox, deliver
        self._connected.set()
        with outbox, inbox:
            try:
                yield _MemoryChannels(outbox, inbox)
            finally:
                self._deliver = None

    async def receive(self) -> tuple[ChannelName, Sequence[Frame]]:
        """Wait for the next message from the client.

        Raises:
            ClientClosed: the client has closed its end.
        """
        await self._connected.wait()
        assert self._inbox is not None
        try:
            return await self._inbox.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            raise ClientClosed("the client has closed its channels") from None

    def send(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        """Send a message to the client; without one it is lost, as it would be on a network."""
        if self._deliver is not None:
            self._deliver(channel, frames)
