"""The five channels to a kernel, over the link to the host."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import ClientClosed, LocalProtocolError
from kernelproto.host.link import Link
from kernelproto.interfaces import Channels, Deliver
from kernelproto.launch.programs.host import zmtp
from kernelproto.launch.programs.host.frames import MESSAGE_BYTES
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Frame

logger = logging.getLogger(__name__)

_SENDS_BETWEEN_CHECKPOINTS = 32

# How long messages that were sent just before the end may take to leave.
_LINGER_SECONDS = 0.1


class LinkChannels:
    """Implements Channels.

    Args:
        link: the link to the host.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._sends = 0
        self._closed = False
        self._abandoned = False
        self._turn = anyio.Lock()

    async def send(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        self._sends += 1
        if self._sends % _SENDS_BETWEEN_CHECKPOINTS == 0:
            await checkpoint()
        else:
            await checkpoint_if_cancelled()
        message = zmtp.join(frames)
        if len(message) > MESSAGE_BYTES:
            raise LocalProtocolError(
                f"a message of {len(message)} bytes is too large for the host of the kernel, which "
                f"takes {MESSAGE_BYTES}: send the data in several messages, or by a file"
            )
        protocol = self._link.protocol
        if self._turn.locked() or not protocol.has_room(channel, len(message)):
            async with self._turn:  # messages must not overtake those that wait for room
                while not self._closed and not protocol.has_room(channel, len(message)):
                    await self._link.room.wait()
        if self._closed:
            raise ClientClosed("the channels to the kernel are closed")
        protocol.send(channel, message)
        self._link.flush()

    def abandon(self) -> None:
        self._abandoned = True
        self._link.protocol.discard()
        self.close()

    def close(self) -> None:
        """Refuse to send from now on."""
        self._closed = True
        self._link.room.ring()

    async def drain(self) -> None:
        """Wait a moment until everything was sent."""
        if not self._abandoned:
            with anyio.move_on_after(_LINGER_SECONDS, shield=True):
                await self._link.sent()


@asynccontextmanager
async def open_link_channels(
    link: Link, deliver: Deliver, topics: Sequence[bytes]
) -> AsyncGenerator[Channels]:
    """Open the channels over a link for the block.

    Args:
        link: the link.
        deliver: as for ``interfaces.OpenChannels``.
        topics: the iopub subscriptions.
    """
    channels = LinkChannels(link)
    async with background_tasks() as tasks:
        link.protocol.deliver_to(_filtered(deliver, topics))
        if link.protocol.is_stale:
            await link.reconnect()
        tasks.start_soon(link.drive, lambda: False, name="link to the host of a kernel")
        try:
            yield channels
        finally:
            channels.close()
            await channels.drain()
            link.protocol.deliver_to(None)


def _filtered(deliver: Deliver, topics: Sequence[bytes]) -> Deliver:
    """Return a function that delivers only messages with one of the topics."""
    if b"" in topics:
        return deliver

    def deliver_topics(channel: ChannelName, frames: Sequence[Frame]) -> None:
        if channel != "iopub" or bytes(frames[0]).startswith(tuple(topics)):
            deliver(channel, frames)

    return deliver_topics
