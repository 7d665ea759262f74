"""The channels to a kernel in the same process, for tests and for embedding."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from kernelproto.exceptions import ClientClosed
from kernelproto.interfaces import Channels, Deliver
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame

# As many as zmq buffers for a kernel that does not read.
_SEND_BUFFER_MESSAGES = 1000

_Outgoing = tuple[ChannelName, Sequence[Frame]]


class _MemoryChannels:
    """Implements Channels: the client's end."""

    def __init__(
        self,
        outbox: MemoryObjectSendStream[_Outgoing],
        inbox: MemoryObjectReceiveStream[_Outgoing],
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

    Messages from the kernel are delivered at once. Up to 1000 messages from the client wait until
    the kernel receives them; then the client waits.

    Attributes:
        identity: the client's routing identity, once the client is connected.
        topics: the client's iopub subscriptions.
        held: the messages for the client while the connection is cut; otherwise None.
    """

    def __init__(self) -> None:
        self.identity = b""
        self.topics: Sequence[bytes] = ()
        self.held: list[_Outgoing] | None = None
        self._connected = anyio.Event()
        self._inbox: MemoryObjectReceiveStream[_Outgoing] | None = None
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
        outbox, inbox = anyio.create_memory_object_stream[_Outgoing](_SEND_BUFFER_MESSAGES)
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
            ClientClosed: the client has closed the connection.
        """
        await self._connected.wait()
        assert self._inbox is not None
        try:
            return await self._inbox.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            raise ClientClosed("the client has closed its channels") from None

    def send(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        """Send a message to the client; without a client the message is lost, as on a network."""
        if self.held is not None:
            self.held.append((channel, frames))
        elif self._deliver is not None:
            self._deliver(channel, frames)

    def cut(self) -> None:
        """Hold the messages for the client until ``restore``."""
        self.held = self.held or []

    def restore(self) -> None:
        """Deliver the messages that were held, in order."""
        held, self.held = self.held or (), None
        for channel, frames in held:
            self.send(channel, frames)
