"""Comms: opened from either side, closed by either side, and gone with the client."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from kernelproto.client import Comm, KernelClient
from kernelproto.client import comms as module
from kernelproto.client.comms import Comms
from kernelproto.exceptions import KernelDied, LocalProtocolError, MalformedMessage
from kernelproto.testing import FakeKernel
from kernelproto.wire.content import CommClose, CommMessage, CommOpen
from kernelproto.wire.message import Header, Message

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fake() -> AsyncIterator[FakeKernel]:
    with anyio.fail_after(60):
        async with FakeKernel() as fake:
            yield fake


@pytest.fixture
async def client(fake: FakeKernel) -> AsyncIterator[KernelClient]:
    async with fake.connect() as client:
        await client.wait_for_ready()
        yield client


async def test_sent_messages_are_those_of_the_specification(
    fake: FakeKernel, client: KernelClient
) -> None:
    async with await client.comms.open("target", {"open": 1}) as comm:
        await comm.send({"n": 1}, metadata={"m": 2}, buffers=[b"binary", memoryview(b"more")])
    await fake.wait_for("comm_close")

    (opened,) = fake.contents(CommOpen)
    assert opened == CommOpen(comm_id=comm.comm_id, target_name="target", data={"open": 1})
    message = await fake.wait_for("comm_msg")
    assert message.content == CommMessage(comm_id=comm.comm_id, data={"n": 1})
    assert message.metadata == {"m": 2}
    assert [bytes(buffer) for buffer in message.buffers] == [b"binary", b"more"]
    assert fake.contents(CommClose) == [CommClose(comm_id=comm.comm_id)]


async def test_messages_are_iterated_until_the_kernel_closes(
    fake: FakeKernel, client: KernelClient
) -> None:
    comm = await client.comms.open("target")
    for number in (1, 2):
        fake.publish(CommMessage(comm_id=comm.comm_id, data={"n": number}))
    fake.publish(CommMessage(comm_id="of nobody", data={"n": 0}))
    fake.publish(CommClose(comm_id=comm.comm_id))

    assert [message.content.data["n"] async for message in comm] == [1, 2]
    assert [message async for message in comm] == []
    assert comm.closed
    with pytest.raises(LocalProtocolError, match="'target' is closed"):
        await comm.send({})
    await comm.close()
    assert fake.contents(CommClose) == []


async def test_the_kernel_opens_comms_to_registered_targets(
    fake: FakeKernel, client: KernelClient
) -> None:
    opened: list[tuple[str, object]] = []
    both = anyio.Event()

    async def on_open(comm: Comm, message: Message) -> None:
        async for from_kernel in comm:
            opened.append((comm.comm_id, from_kernel.content.data))
        both.set()

    def plain(comm: Comm, message: Message) -> None:
        opened.append((comm.comm_id, message.content.data))

    client.comms.register_target("async", on_open)
    client.comms.register_target("plain", plain)
    client.comms.register_target("gone", plain)
    client.comms.unregister_target("gone")
    for target in ("plain", "async", "gone", "of another client"):
        fake.publish(CommOpen(comm_id=target, target_name=target, data={"a": 1}))
    fake.publish(CommOpen(comm_id="async", target_name="async"))  # once is enough
    fake.publish(CommMessage(comm_id="async", data={"b": 2}))
    fake.publish(CommClose(comm_id="async"))
    await both.wait()

    assert sorted(opened) == [("async", {"b": 2}), ("plain", {"a": 1})]


async def test_exception_of_a_target_is_logged(
    fake: FakeKernel, client: KernelClient, caplog: pytest.LogCaptureFixture
) -> None:
    called = anyio.Event()

    async def fragile(comm: Comm, message: Message) -> None:
        called.set()
        raise ZeroDivisionError

    client.comms.register_target("fragile", fragile)
    fake.publish(CommOpen(comm_id="c", target_name="fragile"))
    await called.wait()
    await client.kernel_info()

    assert "ZeroDivisionError" in caplog.text


async def test_a_target_that_always_fails_writes_few_lines(
    fake: FakeKernel, client: KernelClient, caplog: pytest.LogCaptureFixture
) -> None:
    def fragile(comm: Comm, message: Message) -> None:
        raise ZeroDivisionError

    client.comms.register_target("fragile", fragile)
    for number in range(100):
        fake.publish(CommOpen(comm_id=str(number), target_name="fragile"))
    await client.kernel_info()
    await anyio.wait_all_tasks_blocked()

    assert len(caplog.records) == 7
    assert caplog.messages[-1].endswith("failed on a comm (64 times so far)")


async def test_comms_above_the_limit_are_ignored_with_a_warning(
    fake: FakeKernel,
    client: KernelClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(module, "MOST_COMMS", 2)
    client.comms.register_target("t", lambda comm, message: opened.append(comm.comm_id))
    for name in "abc":
        fake.publish(CommOpen(comm_id=name, target_name="t"))
    fake.publish(CommClose(comm_id="a"))
    fake.publish(CommOpen(comm_id="d", target_name="t"))
    await client.kernel_info()
    await anyio.wait_all_tasks_blocked()

    assert sorted(opened) == ["a", "b", "d"]  # each in a task of its own
    assert caplog.messages == [
        "ignored a comm that the kernel opened: 2 comms are open, the maximum; close some"
    ]


async def test_attaching_takes_part_in_a_comm_that_is_open_already(
    fake: FakeKernel, client: KernelClient
) -> None:
    comm = client.comms.attach("known", "jupyter.widget")
    fake.publish(CommMessage(comm_id="known", data={"state": 1}))

    assert client.comms.attach("known", "jupyter.widget") is comm
    assert (await anext(comm)).content.data == {"state": 1}


async def test_a_comm_ends_with_the_kernel(fake: FakeKernel, client: KernelClient) -> None:
    comm = await client.comms.open("target")
    fake.die()

    with pytest.raises(KernelDied):
        await anext(comm)
    assert comm.closed
    async with comm:  # leaving it closes nothing twice, and raises nothing
        pass


async def test_a_comm_that_cannot_be_opened_leaves_nothing(
    fake: FakeKernel, client: KernelClient
) -> None:
    fake.die()
    await fake.wait()
    with pytest.raises(KernelDied):
        await client.comms.open("target")


async def test_leaving_the_block_of_a_comm_whose_kernel_is_dead_raises_nothing(
    fake: FakeKernel, client: KernelClient
) -> None:
    async with await client.comms.open("target"):
        fake.die()


async def test_an_unreadable_comm_message_is_refused(
    fake: FakeKernel, client: KernelClient
) -> None:
    comm = await client.comms.open("target")
    fake.publish({"no": "comm_id"}, "comm_msg")
    fake.publish(CommMessage(comm_id=comm.comm_id, data={"n": 1}))

    assert (await anext(comm)).content.data == {"n": 1}
    assert client.refused == {"MalformedMessage": 1}


async def test_without_comms_their_messages_are_not_decoded(
    client: KernelClient,
) -> None:
    message = Message(Header(msg_id="1", msg_type="comm_msg"), None, (b"{}", b"{}", b"{}", b"?"))
    Comms(client, {}).receive(message)
    with pytest.raises(MalformedMessage):
        Comms(client, {"target": print}).receive(message)
