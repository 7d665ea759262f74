"""A check of managers and providers that keep the messages of their kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from kernelproto import KernelFinder
from kernelproto.client import open_client
from kernelproto.host.launch import adopt
from kernelproto.host.link import Link
from kernelproto.interfaces import KernelManager
from kernelproto.kept_messages import KeepsMessages
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame


async def check_messages_are_kept(
    finder: KernelFinder, info: ConnectionInfo, first: KernelManager, link: Link
) -> None:
    """Check that the next owner gets the messages that the first one has not confirmed.

    Args:
        finder: adopts the kernel.
        info: the connection of an ipykernel that was just launched; it has ended afterwards.
        first: its manager.
        link: the link of the manager; it is closed, as if the program had been killed.
    """
    manager: Any = first
    assert isinstance(first, KeepsMessages)
    first.hold()
    async with open_client(info, open_channels=manager.open_channels) as client:
        await client.wait_for_ready()
        assert (await client.execute("print('kept')")).stdout == "kept\n"
        sent = first.last_number
    assert sent > first.acknowledged == 0
    handle = manager.handle()
    await link.aclose()

    replayed = b""
    info, second = await adopt(finder, handle, replays=True)
    assert isinstance(second, KeepsMessages)

    def take(channel: ChannelName, frames: Sequence[Frame]) -> None:
        nonlocal replayed
        replayed += b"".join(frames)

    manager = second
    async with manager.open_channels(info, take, identity=b"replayed"):
        while second.last_number < sent:  # noqa: ASYNC110 - no event tells
            await anyio.sleep(0.01)
    assert b"kept\\n" in replayed
    assert (second.acknowledged, second.lost) == (0, 0)
    second.confirm(second.last_number)
    await second.detach()

    info, third = await adopt(finder, handle, replays=False)
    assert isinstance(third, KeepsMessages)
    assert third.acknowledged >= sent
    await third.cleanup()
