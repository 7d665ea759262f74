"""Streams and handlers: bounded, with a policy, and without delays for the client."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import pytest

from kernelproto.client import KernelClient
from kernelproto.client.observers import Observers
from kernelproto.exceptions import ClientClosed, KernelDied, OutputOverflow
from kernelproto.testing import FakeKernel
from kernelproto.wire.content import Stream
from kernelproto.wire.message import Message

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


async def test_a_stream_has_the_channels_and_types_that_were_asked_for(
    fake: FakeKernel, client: KernelClient
) -> None:
    async with client.messages(("iopub", "shell"), msg_types=("stream", "pong_reply")) as messages:
        fake.publish(Stream("stdout", "one"))
        fake.publish({"execution_state": "starting"}, "status")
        fake.on("ping_request", {"status": "ok"})
        fake.publish(Stream("stdout", "two"))
        seen = [await anext(messages) for _ in range(2)]

    assert [(message.content.text, channel) for message, channel in seen] == [
        ("one", "iopub"),
        ("two", "iopub"),
    ]


async def test_a_full_stream_raises_after_the_kept_messages(
    fake: FakeKernel, client: KernelClient
) -> None:
    async with client.messages(limit=3_000) as messages:
        for number in range(10):
            fake.publish(Stream("stdout", str(number)))
        kept = [(await anext(messages))[0].content.text for _ in range(2)]
        with pytest.raises(OutputOverflow, match='overflow="drop_oldest"') as caught:
            await anext(messages)

    assert kept == ["0", "1"]
    assert caught.value.discarded_messages == 8
    assert caught.value.discarded_bytes > 8_000


async def test_a_forgetful_stream_keeps_the_newest_and_counts_the_rest(
    fake: FakeKernel, client: KernelClient
) -> None:
    async with client.messages(limit=3_000, overflow="drop_oldest") as messages:
        for number in range(10):
            fake.publish(Stream("stdout", str(number)))
        latest = [(await anext(messages))[0].content.text for _ in range(2)]

    assert latest == ["8", "9"]
    assert messages.dropped == 8


async def test_a_stream_ends_with_the_kernel_after_the_received_messages(
    fake: FakeKernel, client: KernelClient
) -> None:
    async with client.messages(msg_types=("stream",)) as messages:
        fake.publish(Stream("stdout", "last words"))
        fake.die()

        assert (await anext(messages))[0].content.text == "last words"
        for _ in range(2):
            with pytest.raises(KernelDied):
                await anext(messages)


async def test_a_stream_ends_with_the_client(fake: FakeKernel) -> None:
    async with fake.connect() as client, client.messages() as messages:
        client.close()

        with pytest.raises(ClientClosed):
            async for _ in messages:
                pass


async def test_reading_buffered_messages_lets_other_tasks_run(
    fake: FakeKernel, client: KernelClient
) -> None:
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with client.messages() as messages, anyio.create_task_group() as tasks:
        for number in range(1_000):
            fake.publish(Stream("stdout", str(number)))
        tasks.start_soon(take_turns)
        for _ in range(1_000):
            await anext(messages)
        tasks.cancel_scope.cancel()

    assert turns > 1


async def test_handlers_plain_and_async_get_every_message_until_removed(
    fake: FakeKernel, client: KernelClient
) -> None:
    seen: list[str] = []
    enough = anyio.Event()

    def plain(message: Message, channel: str) -> None:
        seen.append(f"plain {message.content.text}")

    async def careful(message: Message, channel: str) -> None:
        await anyio.lowlevel.checkpoint()
        seen.append(f"async {message.content.text}")
        if len(seen) == 4:
            enough.set()

    client.add_handler(plain)
    client.add_handler(careful)
    for text in ("1", "2"):
        fake.publish(Stream("stdout", text))
    await enough.wait()
    client.remove_handler(plain)
    client.remove_handler(careful)
    client.remove_handler(careful)
    fake.publish(Stream("stdout", "3"))
    await client.kernel_info()

    assert sorted(seen) == ["async 1", "async 2", "plain 1", "plain 2"]


async def test_exception_of_a_handler_is_logged_and_the_handler_goes_on(
    fake: FakeKernel, client: KernelClient, caplog: pytest.LogCaptureFixture
) -> None:
    seen = anyio.Event()

    def fragile(message: Message, channel: str) -> None:
        if message.content.text == "1":
            raise ZeroDivisionError
        seen.set()

    client.add_handler(fragile)
    fake.publish(Stream("stdout", "1"))
    fake.publish(Stream("stdout", "2"))
    await seen.wait()

    assert "fragile" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_a_handler_that_always_fails_writes_few_lines(
    fake: FakeKernel, client: KernelClient, caplog: pytest.LogCaptureFixture
) -> None:
    last = anyio.Event()

    def fragile(message: Message, channel: str) -> None:
        if message.content.text == "99":
            last.set()
        raise ZeroDivisionError

    client.add_handler(fragile)
    for number in range(100):
        fake.publish(Stream("stdout", str(number)))
    await last.wait()

    assert len(caplog.records) == 7
    assert caplog.messages[-1].endswith("failed on a stream (64 times so far)")


async def test_a_slow_handler_is_logged(
    fake: FakeKernel,
    client: KernelClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kernelproto.client.observers.STREAM_LIMIT", 3_000)
    last = anyio.Event()

    def slow(message: Message, channel: str) -> None:
        if message.content.text == "9":
            last.set()

    client.add_handler(slow)
    for number in range(10):
        fake.publish(Stream("stdout", str(number)))
    with caplog.at_level(logging.WARNING):
        await last.wait()

    assert "it has missed 8 messages" in caplog.text


async def test_a_handler_may_remove_itself(fake: FakeKernel, client: KernelClient) -> None:
    seen: list[str] = []

    def once(message: Message, channel: str) -> None:
        seen.append(message.content.text)
        client.remove_handler(once)

    client.add_handler(once)
    fake.publish(Stream("stdout", "1"))
    fake.publish(Stream("stdout", "2"))
    await client.kernel_info()
    for _ in range(10):
        await anyio.lowlevel.checkpoint()

    assert seen == ["1"]


async def test_debug_events_are_an_iterator_of_their_contents(
    fake: FakeKernel, client: KernelClient
) -> None:
    async with client.debug_events() as events:
        fake.publish(Stream("stdout", "no event"))
        fake.publish({"event": "stopped", "body": {"threadId": 1}}, "debug_event")

        assert await anext(events) == {"event": "stopped", "body": {"threadId": 1}}


async def test_a_watcher_receives_every_message_at_once(
    fake: FakeKernel, client: KernelClient
) -> None:
    told: list[object] = []

    class Diary:
        def offer(self, message: Message, channel: str) -> None:
            told.append((message.msg_type, channel))

        def fail(self, error: Exception) -> None:
            told.append(error)

        def resume(self) -> None:
            told.append("resumed")

    async with client.messages() as messages:
        fake.publish(Stream("stdout", "one"))
        message, _ = await anext(messages)
    observers = Observers(client.start_task)
    assert not observers
    observers.watch(Diary())
    assert observers
    observers.offer(message, "iopub")
    error = ClientClosed("over")
    observers.fail(error)
    observers.resume()
    assert told == [("stream", "iopub"), error, "resumed"]


class Keeper:
    """A manager that keeps the messages of its kernel; implements KeepsMessages."""

    kernel_id = "process"
    lost = acknowledged = 0

    def __init__(self, last_number: int) -> None:
        self.last_number = last_number
        self.held = 0

    def hold(self) -> None:
        self.held += 1

    def confirm(self, number: int) -> None:
        pass


async def test_messages_have_the_numbers_of_their_source(
    fake: FakeKernel, client: KernelClient
) -> None:
    async with client.messages() as messages:
        fake.publish(Stream("stdout", "one"))
        message, _ = await anext(messages)
    observers = Observers(client.start_task)
    first, second = Keeper(7), Keeper(9)
    observers.begin(cast("Any", first))
    observers.offer(message, "iopub", unread=2)
    assert (observers.number, first.held) == (5, 0)
    observers.hold()
    observers.begin(cast("Any", second))  # after a restart of the kernel
    assert (observers.number, first.held, second.held) == (0, 1, 1)
    observers.begin(cast("Any", object()))
    observers.offer(message, "iopub")
    assert (observers.source, observers.number) == (None, 0)
