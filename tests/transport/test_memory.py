from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.exceptions import ClientClosed
from kernelproto.transport.memory import MemoryTransport
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


async def all_blocked() -> None:
    """Like anyio.wait_all_tasks_blocked, but without its nap on asyncio."""
    for _ in range(10):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


@pytest.fixture
def info() -> ConnectionInfo:
    """Give an address, which is not used."""
    return ConnectionInfo(**{f"{name}_port": 1 for name in CHANNEL_NAMES})


@pytest.fixture
def delivered() -> list[tuple[str, list[bytes]]]:
    return []


@pytest.fixture
def transport() -> MemoryTransport:
    return MemoryTransport()


@pytest.fixture
def open_channels(transport, delivered, info: ConnectionInfo):
    """Give a function that opens the client's end; *delivered* has its messages."""

    def deliver(channel: str, frames: list[bytes]) -> None:
        delivered.append((channel, frames))

    return lambda **options: transport.open_channels(
        info, deliver, **{"identity": b"client"} | options
    )


async def test_the_kernel_sees_the_identity_of_the_client(transport, open_channels) -> None:
    async with open_channels(identity=b"me", topics=(b"", b"nonce")):
        assert transport.identity == b"me"
        assert transport.topics == (b"", b"nonce")


async def test_messages_from_the_kernel_are_delivered_at_once(
    transport, open_channels, delivered
) -> None:
    sent = [(channel, [b"one", b"two"]) for channel in CHANNEL_NAMES]
    async with open_channels():
        for channel, frames in sent:
            transport.send(channel, frames)
        assert delivered == sent


async def test_messages_from_the_client_arrive_in_order(transport, open_channels) -> None:
    sent = [(channel, [b"%d" % number]) for number in range(10) for channel in CHANNEL_NAMES]
    with anyio.fail_after(GUARD_SECONDS):
        async with open_channels() as channels:
            for channel, frames in sent:
                await channels.send(channel, frames)
            assert [await transport.receive() for _ in sent] == sent


async def test_the_kernel_may_wait_for_the_client(transport, open_channels) -> None:
    received = []

    async def receive() -> None:
        received.append(await transport.receive())

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await all_blocked()
            async with open_channels() as channels:
                await all_blocked()
                await channels.send("shell", [b"hello"])
                await all_blocked()
    assert received == [("shell", [b"hello"])]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_messages_from_the_kernel_are_lost_without_a_client(
    transport, open_channels, delivered, when
) -> None:
    if when == "after":
        async with open_channels():
            pass
    transport.send("iopub", [b"lost"])
    if when == "before":
        async with open_channels():
            pass
    assert delivered == []


async def test_the_kernel_gets_client_closed_after_the_client_has_left(
    transport, open_channels
) -> None:
    async def receive() -> None:
        with pytest.raises(ClientClosed, match="client has closed"):
            await transport.receive()

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks, open_channels():
            tasks.start_soon(receive)
            await all_blocked()
        await receive()


async def test_nothing_can_be_sent_after_closing(open_channels) -> None:
    async with open_channels() as channels:
        pass
    with pytest.raises(ClientClosed, match="channels to the kernel are closed"):
        await channels.send("shell", [b"late"])


async def test_the_client_waits_for_a_kernel_that_does_not_receive(
    transport, open_channels
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with open_channels() as channels, anyio.create_task_group() as tasks:
            for number in range(1000):
                await channels.send("shell", [b"%d" % number])
            for number in range(1000, 1003):
                tasks.start_soon(channels.send, "shell", [b"%d" % number])
                await all_blocked()
            arrived = [(await transport.receive())[1] for _ in range(1003)]
    assert arrived == [[b"%d" % number] for number in range(1003)]


@pytest.mark.parametrize("end", ["closing", "abandoning"])
async def test_blocked_sender_is_released_by(open_channels, end) -> None:
    async def send(channels) -> None:
        with pytest.raises(ClientClosed, match="channels to the kernel are closed"):
            await channels.send("shell", [b"one too many"])

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks, open_channels() as channels:
            for _ in range(1000):
                await channels.send("shell", [b"filler"])
            for _ in range(3):
                tasks.start_soon(send, channels)
            await all_blocked()
            if end == "abandoning":
                channels.abandon()
                await all_blocked()
                await send(channels)


async def test_cancelled_task_sends_nothing(transport, open_channels) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with open_channels() as channels:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await channels.send("shell", [b"cancelled"])
            await channels.send("shell", [b"wanted"])
            assert await transport.receive() == ("shell", [b"wanted"])


async def test_an_exception_from_the_block_arrives_as_itself(open_channels) -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as raised:
        async with open_channels():
            raise error
    assert raised.value is error
