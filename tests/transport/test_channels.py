# ruff: noqa: PT012 (whole blocks raise in these tests)
from __future__ import annotations

import threading

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.exceptions import ClientClosed, LocalProtocolError
from kernelproto.transport import channels as module
from kernelproto.transport import open_channels
from kernelproto.wire.connection import CHANNEL_NAMES, ConnectionInfo

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
SEND_BUFFER = 1000  # libzmq's default

# The frames of an output, after its topic.
OUTPUT = [b"<IDS|MSG>", b"signature", b"{}", b"{}", b"{}", b"{}"]

dealers = pytest.mark.parametrize("channel", ["shell", "stdin", "control"])


async def all_blocked() -> None:
    """Like anyio.wait_all_tasks_blocked, but without its nap on asyncio."""
    for _ in range(10):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


class Inbox:
    """The received messages, with their channels."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, list[bytes]]] = []
        self._news = anyio.Event()

    def deliver(self, channel: str, frames: list[bytes]) -> None:
        self.messages.append((channel, frames))
        self._news.set()

    async def has(self, count: int) -> None:
        """Wait until as many messages have arrived."""
        with anyio.fail_after(GUARD_SECONDS):
            while len(self.messages) < count:
                self._news = anyio.Event()
                await self._news.wait()


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def connect(info: ConnectionInfo, inbox: Inbox):
    """Give a function that opens the channels."""
    return lambda **options: open_channels(info, inbox.deliver, **{"identity": b"client"} | options)


async def fill(channels, channel: str) -> None:
    for number in range(SEND_BUFFER):
        await channels.send(channel, [b"%d" % number])


@dealers
async def test_requests_and_replies_pass_in_order(kernel, connect, inbox, channel) -> None:
    kernel.bind()
    async with connect() as channels:
        for number in range(100):
            await channels.send(channel, [b"request", b"%d" % number])
        for number in range(100):
            assert kernel.receive(channel) == [b"client", b"request", b"%d" % number]
            kernel.send(channel, [b"client", b"reply", b"%d" % number])
        await inbox.has(100)
    assert inbox.messages == [(channel, [b"reply", b"%d" % number]) for number in range(100)]


async def test_all_channels_at_once(kernel, connect, inbox) -> None:
    kernel.bind()
    two_way = [name for name in CHANNEL_NAMES if name not in ("iopub", "hb")]
    async with connect() as channels:
        assert kernel.receive("iopub") == [b"\x01"]
        for name in two_way:
            await channels.send(name, [name.encode()])
            assert kernel.receive(name) == [b"client", name.encode()]
            kernel.send(name, [b"client", name.encode()])
        kernel.send("iopub", [b"topic", b"iopub"])
        await channels.send("hb", [b"", b"hb"])
        kernel.send("hb", kernel.receive("hb"))
        await inbox.has(5)
    assert sorted(inbox.messages) == [
        ("control", [b"control"]),
        ("hb", [b"", b"hb"]),
        ("iopub", [b"topic", b"iopub"]),
        ("shell", [b"shell"]),
        ("stdin", [b"stdin"]),
    ]


async def test_shell_and_stdin_have_the_same_identity(kernel, connect) -> None:
    kernel.bind()
    async with connect(identity=b"who I am") as channels:
        for name in ("shell", "stdin"):
            await channels.send(name, [b"hello"])
            assert kernel.receive(name) == [b"who I am", b"hello"]


async def test_a_lost_echo_does_not_stop_the_heartbeat(kernel, connect, inbox) -> None:
    async with connect() as channels:
        for number in range(3):
            await channels.send("hb", [b"", b"%d" % number])
        kernel.bind()
        for _ in range(3):
            kernel.send("hb", kernel.receive("hb"))
        await inbox.has(3)
    assert inbox.messages == [("hb", [b"", b"%d" % number]) for number in range(3)]


async def test_iopub_brings_the_topics_that_were_asked_for(kernel, connect, inbox) -> None:
    kernel.bind()
    async with connect(topics=(b"mine", b"ours")):
        assert {kernel.receive("iopub")[0] for _ in range(2)} == {b"\x01mine", b"\x01ours"}
        for topic in (b"mine", b"theirs", b"ours.too"):
            kernel.send("iopub", [topic, *OUTPUT])
        await inbox.has(2)
    assert inbox.messages == [("iopub", [b"mine", *OUTPUT]), ("iopub", [b"ours.too", *OUTPUT])]


@pytest.mark.parametrize("channel", ["iopub", "shell"])
async def test_nothing_is_lost_while_the_event_loop_is_blocked(
    kernel, connect, inbox, channel
) -> None:
    kernel.bind()
    payload = bytes(1000)
    async with connect() as channels:
        if channel == "iopub":
            (address,) = kernel.receive("iopub")  # the subscription to everything
        else:
            await channels.send(channel, [b"hello"])
            address, _ = kernel.receive(channel)
        for number in range(20_000):  # more than all buffers hold: if one is full this blocks
            kernel.send(channel, [address, *OUTPUT, b"%d" % number, payload])
        await inbox.has(20_000)
    assert [int(frames[-2]) for _, frames in inbox.messages] == list(range(20_000))


@dealers
async def test_messages_to_a_kernel_that_binds_later_arrive(kernel, connect, channel) -> None:
    async with connect() as channels:
        await channels.send(channel, [b"early"])
        await all_blocked()
        kernel.bind()
        assert kernel.receive(channel) == [b"client", b"early"]


@dealers
async def test_blocked_senders_go_on_in_order_when_the_kernel_appears(
    kernel, connect, channel
) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with connect() as channels:
            await fill(channels, channel)
            async with anyio.create_task_group() as tasks:
                for number in range(SEND_BUFFER, SEND_BUFFER + 10):
                    tasks.start_soon(channels.send, channel, [b"%d" % number])
                    await all_blocked()
                kernel.bind()
            for number in range(SEND_BUFFER + 10):
                assert kernel.receive(channel) == [b"client", b"%d" % number]


async def test_a_full_channel_does_not_block_the_others(kernel, connect) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with connect() as channels, anyio.create_task_group() as tasks:
            await fill(channels, "shell")
            tasks.start_soon(channels.send, "shell", [b"blocked"])
            await all_blocked()
            await channels.send("control", [b"hello"])
            kernel.bind()
            assert kernel.receive("control") == [b"client", b"hello"]


async def test_cancelling_one_blocked_sender_leaves_the_others(kernel, connect) -> None:
    scope = anyio.CancelScope()

    async def give_up(channels) -> None:
        with scope:
            await channels.send("shell", [b"given up"])

    with anyio.fail_after(GUARD_SECONDS):
        async with connect() as channels:
            await fill(channels, "shell")
            async with anyio.create_task_group() as tasks:
                for send in (
                    lambda: channels.send("shell", [b"first"]),
                    lambda: give_up(channels),
                    lambda: channels.send("shell", [b"last"]),
                ):
                    tasks.start_soon(send)
                    await all_blocked()
                scope.cancel()
                await all_blocked()
                kernel.bind()
            for _ in range(SEND_BUFFER):
                kernel.receive("shell")
            assert kernel.receive("shell") == [b"client", b"first"]
            assert kernel.receive("shell") == [b"client", b"last"]
            assert kernel.nothing_more("shell")


class EndOfBlock(Exception):
    pass


@pytest.mark.parametrize("end", ["leaving", "an exception", "cancelling", "abandoning"])
async def test_blocked_sender_gets_client_closed_at_once_by(connect, end) -> None:
    async def send(channels, channel: str) -> None:
        with pytest.raises(ClientClosed):
            await channels.send(channel, [b"one too many"])

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            try:
                with anyio.CancelScope() as scope:
                    async with connect() as channels:
                        for channel in ("shell", "control"):
                            await fill(channels, channel)
                            for _ in range(3):
                                tasks.start_soon(send, channels, channel)
                        await all_blocked()
                        if end == "an exception":
                            raise EndOfBlock
                        if end == "cancelling":
                            scope.cancel()
                            await anyio.sleep_forever()
                        if end == "abandoning":
                            channels.abandon()
                            await all_blocked()
                            await send(channels, "stdin")
            except EndOfBlock:
                pass


async def test_nothing_can_be_sent_after_closing(connect) -> None:
    async with connect() as channels:
        pass
    with pytest.raises(ClientClosed, match="the channels to the kernel are closed"):
        await channels.send("shell", [b"late"])


async def test_cancelled_task_sends_nothing(kernel, connect) -> None:
    kernel.bind()
    async with connect() as channels:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await channels.send("shell", [b"cancelled"])
        await channels.send("shell", [b"wanted"])
        assert kernel.receive("shell") == [b"client", b"wanted"]


async def test_a_message_leaves_before_others_have_their_turn(kernel, connect) -> None:
    kernel.bind()
    async with connect() as channels:
        sending = channels.send("shell", [b"at once"])
        with pytest.raises(StopIteration):
            sending.send(None)
        assert kernel.receive("shell") == [b"client", b"at once"]


async def test_sending_in_a_loop_lets_other_tasks_run(connect) -> None:
    async with connect() as channels:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fill, channels, "shell")
            await checkpoint()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(GUARD_SECONDS):
            await channels.send("shell", [b"there is room"])


@dealers
async def test_messages_sent_just_before_an_orderly_close_arrive(
    kernel, connect, channel, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_LINGER_MS", GUARD_SECONDS * 1000)  # the machine may be slow
    leaving = threading.Event()
    arrived = []

    def serve() -> None:
        leaving.wait(GUARD_SECONDS)
        kernel.bind()
        arrived.extend(kernel.receive(channel) for _ in range(100))

    async with anyio.create_task_group() as tasks, connect() as channels:
        tasks.start_soon(anyio.to_thread.run_sync, serve)
        for number in range(100):
            await channels.send(channel, [b"%d" % number])
        leaving.set()
    assert arrived == [[b"client", b"%d" % number] for number in range(100)]


async def test_abandoned_channels_do_not_wait_for_a_kernel(connect, monkeypatch) -> None:
    monkeypatch.setattr(module, "_LINGER_MS", -1)  # for ever
    async with connect() as channels:
        await channels.send("shell", [b"nobody reads this"])
        channels.abandon()


@pytest.mark.parametrize(
    "error",
    [ValueError("mine"), ExceptionGroup("mine", [ValueError("mine")])],
    ids=lambda error: type(error).__name__,
)
async def test_an_exception_from_the_block_arrives_as_itself(connect, error) -> None:
    with pytest.raises(type(error)) as raised:
        async with connect():
            raise error
    assert raised.value is error


async def test_an_exception_in_deliver_ends_the_block(kernel, info) -> None:
    def deliver(channel: str, frames: list[bytes]) -> None:
        raise ValueError("in deliver")

    kernel.bind()
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(ValueError, match="in deliver"):
        async with open_channels(info, deliver, identity=b"client") as channels:
            await channels.send("hb", [b"", b""])
            kernel.send("hb", kernel.receive("hb"))
            await anyio.sleep_forever()


async def test_cancelling_the_block_leaves_nothing(kernel, connect) -> None:
    kernel.bind()
    before = set(anyio.get_running_tasks())
    with anyio.CancelScope() as scope:
        async with connect():
            assert len(set(anyio.get_running_tasks()) - before) == len(CHANNEL_NAMES)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert set(anyio.get_running_tasks()) == before


@pytest.mark.parametrize("address", ["no address", "*"])
async def test_an_impossible_address_is_refused(inbox, address) -> None:
    ports = {f"{name}_port": number for number, name in enumerate(CHANNEL_NAMES, 1)}
    info = ConnectionInfo(ip=address, **ports)
    with pytest.raises(LocalProtocolError, match=r"cannot connect: Invalid argument .*tcp://"):
        async with open_channels(info, inbox.deliver, identity=b"client"):
            raise AssertionError("it did connect")


async def test_several_clients_at_once(kernel, connect) -> None:
    kernel.bind()
    with anyio.fail_after(GUARD_SECONDS):
        async with connect(identity=b"one") as one, connect(identity=b"two") as two:
            await one.send("shell", [b"hello"])
            assert kernel.receive("shell") == [b"one", b"hello"]
            await two.send("shell", [b"hello"])
            assert kernel.receive("shell") == [b"two", b"hello"]
