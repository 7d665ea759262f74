"""A ready kernel answers, and its iopub messages arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from kernelproto.client import readiness
from kernelproto.exceptions import ClientClosed, KernelDied, MalformedMessage
from kernelproto.testing import Exchange, FakeKernel
from kernelproto.wire.content import KernelInfoReply, KernelInfoRequest

pytestmark = pytest.mark.anyio


@pytest.fixture
async def fake() -> AsyncIterator[FakeKernel]:
    with anyio.fail_after(60):
        async with FakeKernel() as fake:
            yield fake


async def test_one_question_on_each_channel_is_enough(fake: FakeKernel) -> None:
    async with fake.connect() as client:
        info = await client.wait_for_ready()

    assert info == client.info
    assert info.implementation == "fake"
    assert sorted(channel for channel, _ in fake.received) == ["control", "shell"]


@pytest.mark.parametrize("channel", ["shell", "control"])
async def test_an_answer_on_either_channel_will_do(fake: FakeKernel, channel: str) -> None:
    fake.deaf.add("control" if channel == "shell" else "shell")
    async with fake.connect() as client:
        assert (await client.wait_for_ready()).implementation == "fake"


async def test_a_kernel_that_does_not_welcome_is_asked_until_something_is_published(
    fake: FakeKernel,
) -> None:
    fake.faults.drop("iopub_welcome")
    lost = fake.faults.drop("status")
    async with fake.connect() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.wait_for_ready)
        await fake.wait_for("kernel_info_request", count=4)
        assert client.awaited == "iopub messages"
        lost.remove()

    assert client.info is not None


async def test_a_lost_question_is_repeated(
    fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_ANSWER_SECONDS", (0.1, 60.0))
    lost = fake.faults.drop("kernel_info_reply")
    async with fake.connect() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.wait_for_ready)
        await fake.wait_for("kernel_info_request", count=3)
        assert client.awaited == "kernel_info_reply"
        lost.remove()

    assert client.info is not None
    assert len(fake.contents(KernelInfoRequest)) == 4


async def test_client_that_joins_a_busy_kernel_knows_that_it_is_busy(fake: FakeKernel) -> None:
    end = anyio.Event()

    async def run_until_the_end(exchange: Exchange) -> None:
        await end.wait()

    fake.on_execute("long", run_until_the_end)
    async with fake.connect() as first, first.execute("long") as running:
        await fake.wait_for("execute_request")
        async with fake.connect() as client:
            await client.wait_for_ready()
            assert client.busy
            end.set()
            await running
            await client.kernel_info()  # by then the kernel has come to the earlier question
            assert not client.busy


async def test_client_that_joins_an_idle_kernel_knows_that_it_is_idle(fake: FakeKernel) -> None:
    slow = fake.faults.hold(lambda message: message.msg_type == "kernel_info_reply", times=2)
    async with fake.connect() as client, anyio.create_task_group() as tasks:
        tasks.start_soon(client.wait_for_ready)
        await slow.wait()
        slow.remove()
    assert not client.busy


async def test_the_wait_ends_when_the_kernel_dies(fake: FakeKernel) -> None:
    fake.deaf.update(("shell", "control"))
    async with fake.connect() as client, anyio.create_task_group() as tasks:

        async def wait() -> None:
            with pytest.raises(KernelDied):
                await client.wait_for_ready()

        tasks.start_soon(wait)
        await fake.wait_for("kernel_info_request")
        fake.die()


async def test_the_wait_ends_when_the_client_is_closed(fake: FakeKernel) -> None:
    async with fake.connect() as client:
        client.close()
        with pytest.raises(ClientClosed):
            await client.wait_for_ready()


async def test_giving_up_forgets_every_question(fake: FakeKernel) -> None:
    fake.deaf.update(("shell", "control"))
    async with fake.connect() as client:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.wait_for_ready)
                await fake.wait_for("kernel_info_request", count=2)
                scope.cancel()

        assert len(client._dispatcher.conversation) == 0


@pytest.mark.parametrize("published", ["iopub_welcome", "status", "from_the_future"])
@pytest.mark.parametrize("first", ["the answer", "the message"])
async def test_an_answer_and_any_message_on_iopub_are_enough(
    kernel, client, start, published: str, first: str
) -> None:
    call = await start(client.wait_for_ready)
    request = await kernel.expect("kernel_info_request", "shell")
    await kernel.expect("kernel_info_request", "control")
    say = [lambda: kernel.reply(request), lambda: kernel.send("iopub", published, {})]
    for word in say if first == "the answer" else reversed(say):
        assert not call.ended
        word()
    assert await call.result() == KernelInfoReply()
    assert len(client._dispatcher.conversation) == 0


async def test_late_answers_to_other_questions_are_ignored(kernel, client, start) -> None:
    call = await start(client.wait_for_ready)
    first = await kernel.expect("kernel_info_request", "shell")
    second = await kernel.expect("kernel_info_request", "control")
    kernel.status("starting")
    kernel.reply(second, "control", implementation="on control")
    assert (await call.result()).implementation == "on control"
    kernel.reply(first, implementation="on shell")
    assert client.info.implementation == "on control"
    assert client.refused == {}


async def test_only_signed_messages_on_iopub_count(kernel, client, start, all_blocked) -> None:
    call = await start(client.wait_for_ready)
    kernel.reply(await kernel.expect("kernel_info_request"))
    kernel.transport.send("iopub", [b"garbage"])
    await all_blocked()
    assert not call.ended
    assert client.awaited == "iopub messages"


async def test_an_unreadable_answer_is_raised(kernel, client, start) -> None:
    call = await start(client.wait_for_ready)
    kernel.status("starting")
    kernel.reply(await kernel.expect("kernel_info_request"), language_info=42)
    assert isinstance(await call.failure(), MalformedMessage)
    assert len(client._dispatcher.conversation) == 0
