from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import anyio.lowlevel
import pytest

from kernelproto import Stream
from kernelproto.client import open_client
from kernelproto.testing import FakeKernel
from kernelproto.wire import Codec

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

NORMAL = ["busy", "execute_input", "stream", "execute_reply", "idle"]


@asynccontextmanager
async def connected():
    """Give a kernel that prints a line for any code, a client, and its received messages."""
    arrived: list[str] = []
    async with FakeKernel() as fake:
        fake.on_execute(lambda code: True, stdout="line\n")
        codec = Codec(signer=fake.connection_info.signer())

        @asynccontextmanager
        async def open_channels(info, deliver, **options) -> AsyncIterator[object]:
            def note_and_deliver(channel, frames) -> None:
                message = codec.decode(frames)
                arrived.append(getattr(message.content, "execution_state", message.msg_type))
                deliver(channel, frames)

            async with fake.open_channels(info, note_and_deliver, **options) as channels:
                yield channels

        async with open_client(fake.connection_info, open_channels=open_channels) as client:
            await client.wait_for_ready()
            # The kernel was asked on two channels, and its last word is not waited for.
            while arrived.count("idle") < 2:
                await anyio.lowlevel.checkpoint()
            arrived.clear()
            yield fake, client, arrived


async def finish(execution) -> None:
    await execution


@contextmanager
def in_vain() -> Iterator[None]:
    """Expect that the block waits for something that does not come."""
    with anyio.move_on_after(0.05) as waiting:
        yield
    assert waiting.cancelled_caught


async def test_without_faults() -> None:
    async with connected() as (_, client, arrived):
        assert (await client.execute("x")).stdout == "line\n"
    assert arrived == NORMAL


@pytest.mark.parametrize(
    ("what", "until", "order"),
    [
        ("stream", "execute_reply", ["busy", "execute_input", "execute_reply", "stream", "idle"]),
        ("execute_reply", "idle", ["busy", "execute_input", "stream", "idle", "execute_reply"]),
        ("busy", "execute_input", ["execute_input", "busy", "stream", "execute_reply", "idle"]),
    ],
)
async def test_messages_overtake_each_other(what, until, order) -> None:
    async with connected() as (fake, client, arrived):
        fake.faults.hold(what, until=until)
        for _ in range(2):
            assert (await client.execute("x")).stdout == "line\n"
    assert arrived == order * 2


async def test_late_outputs() -> None:
    async with connected() as (fake, client, arrived):
        late = fake.faults.hold("stream", until="idle")
        assert (await client.execute("x")).outputs == []
        assert arrived == ["busy", "execute_input", "execute_reply", "idle", "stream"]
        assert [message.content for message in late.caught] == [Stream("stdout", "line\n")]


async def test_holds_may_wait_for_each_other() -> None:
    async with connected() as (fake, client, arrived):
        fake.faults.hold("stream", until="execute_reply")
        fake.faults.hold("execute_reply", until="idle")
        await client.execute("x")
    assert arrived == ["busy", "execute_input", "idle", "execute_reply", "stream"]


async def test_only_messages_with_the_same_parent_are_overtaken() -> None:
    async with connected() as (fake, client, arrived):
        reply = fake.faults.hold("execute_reply", until="kernel_info_reply")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(finish, client.execute("x"))
            await reply.wait()
            await client.request("kernel_info_request", {}, "control")  # which proves no loss
            assert "execute_reply" not in arrived
            reply.remove()


async def test_held_reply_is_sent_on_remove() -> None:
    async with connected() as (fake, client, _):
        reply = fake.faults.hold("execute_reply")
        results = []

        async def execute() -> None:
            results.append(await client.execute("x"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute)
            assert (await reply.wait()).msg_type == "execute_reply"
            await client.request("kernel_info_request", {}, "control")  # which proves no loss
            assert results == []
            reply.remove()
        assert results[0].stdout == "line\n"
        assert (await client.execute("y")).status == "ok"


@pytest.mark.parametrize("lost", ["execute_reply", "idle"])
async def test_dropped_messages_are_missing(lost) -> None:
    async with connected() as (fake, client, arrived):
        fault = fake.faults.drop(lost, times=1)
        with in_vain():
            await client.execute("x")
        assert arrived == [name for name in NORMAL if name != lost]
        assert (await client.execute("y")).status == "ok"
        assert len(fault.caught) == 1


async def test_removed_fault_applies_to_no_message() -> None:
    async with connected() as (fake, client, _):
        fault = fake.faults.drop("stream")
        assert (await client.execute("x")).outputs == []
        fault.remove()
        assert (await client.execute("y")).stdout == "line\n"


async def test_predicate_selects_messages() -> None:
    async with connected() as (fake, client, arrived):
        fake.faults.drop(lambda message: message.msg_type.startswith("execute_input"))
        await client.execute("x")
    assert "execute_input" not in arrived


@pytest.mark.parametrize(
    ("arrange", "refusal"),
    [
        ("duplicate", "ReplayedMessage"),
        ("forge", "InvalidSignature"),
        ("garble", "MalformedMessage"),
    ],
)
async def test_client_refuses_invalid_messages(arrange, refusal) -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("x", stdout="line\n")
        getattr(fake.faults, arrange)("stream")
        result = await client.execute("x")
        assert result.stdout == ("line\n" if arrange == "duplicate" else "")
        assert client.refused == {refusal: 1}


async def test_messages_are_changed() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.on_execute("x", stdout="line\n")
        fake.faults.change("stream", lambda frames: [frames[:-1], frames])
        assert (await client.execute("x")).stdout == "line\n"
        assert client.refused == {"MalformedMessage": 1}


async def test_older_of_two_faults_is_applied() -> None:
    async with connected() as (fake, client, _):
        first, second = fake.faults.drop("stream", times=1), fake.faults.drop("stream")
        await client.execute("x")
        assert (len(first.caught), len(second.caught)) == (1, 0)
        await client.execute("y")
        assert (len(first.caught), len(second.caught)) == (1, 1)


@pytest.mark.parametrize("lost", ["kernel_info_reply", "status"])
async def test_kernel_that_does_not_become_ready(lost) -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.faults.drop("iopub_welcome")
        fake.faults.drop(lost)
        with in_vain():
            await client.wait_for_ready()
        assert client.awaited == {"kernel_info_reply": lost, "status": "iopub messages"}[lost]


async def test_kernel_without_welcome_becomes_ready() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        welcome = fake.faults.drop("iopub_welcome")
        await client.wait_for_ready()
        assert len(welcome.caught) == 2


async def test_kernel_without_control_channel_becomes_ready() -> None:
    async with FakeKernel() as fake, fake.connect() as client:
        fake.deaf.add("control")
        await client.wait_for_ready()
        with in_vain():
            await client.interrupt()
