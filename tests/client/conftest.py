"""A kernel that sends the messages of the test, and calls that run beside the test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from kernelproto.client import KernelClient, open_client, stopping
from kernelproto.transport.memory import MemoryTransport
from kernelproto.wire.codec import Codec
from kernelproto.wire.connection import CHANNEL_NAMES, ChannelName, ConnectionInfo
from kernelproto.wire.content import Stream
from kernelproto.wire.message import Frame, Message, MessageFactory

GUARD_SECONDS = 60


@pytest.fixture(autouse=True)
def must_not_block(no_blocking: None) -> None:
    """Apply ``no_blocking`` to every test here."""


class ScriptedKernel:
    """The kernel's end of the wire; its messages are delivered before the call returns."""

    def __init__(self) -> None:
        self.info = ConnectionInfo(
            key="secret", **{f"{name}_port": number for number, name in enumerate(CHANNEL_NAMES, 1)}
        )
        self.transport = MemoryTransport()
        self.codec = Codec(b"secret")
        count = itertools.count(1)
        self._factory = MessageFactory(
            session="kernel",
            username="kernel",
            new_id=lambda: f"kernel_{next(count)}",
            now=lambda: "2026-01-01T00:00:00+00:00",
        )

    def client(self, **options: Any) -> AbstractAsyncContextManager[KernelClient]:
        return open_client(self.info, open_channels=self.transport.open_channels, **options)

    async def receive(self) -> tuple[ChannelName, Message]:
        """Wait for the client's next message."""
        with anyio.fail_after(GUARD_SECONDS):
            channel, frames = await self.transport.receive()
        return channel, self.codec.decode(frames)

    async def expect(self, msg_type: str, channel: ChannelName = "shell") -> Message:
        """Wait for the client's next message, which is this one."""
        actual, message = await self.receive()
        assert (actual, message.msg_type) == (channel, msg_type)
        return message

    async def beat(self) -> Sequence[Frame]:
        """Wait for the client's next message, which is a heartbeat."""
        with anyio.fail_after(GUARD_SECONDS):
            channel, frames = await self.transport.receive()
        assert channel == "hb"
        return frames

    def message(
        self, msg_type: str, content: Mapping[str, Any], parent: Message | None = None
    ) -> Message:
        """Return a message that is not sent."""
        return self._factory.message(msg_type, content, parent=parent)

    def send(
        self,
        channel: ChannelName,
        msg_type: str,
        content: Mapping[str, Any],
        parent: Message | None = None,
    ) -> Message:
        message = self.message(msg_type, content, parent)
        self.transport.send(channel, self.codec.encode(message))
        return message

    def reply(self, request: Message, channel: ChannelName = "shell", /, **content: Any) -> None:
        msg_type = request.msg_type.removesuffix("request") + "reply"
        self.send(channel, msg_type, {"status": "ok"} | content, request)

    def status(self, state: str, parent: Message | None = None) -> None:
        self.send("iopub", "status", {"execution_state": state}, parent)

    def stream(self, request: Message, text: str) -> None:
        self.send("iopub", "stream", {"name": "stdout", "text": text}, request)

    def ask(self, request: Message, prompt: str = "? ") -> Message:
        return self.send("stdin", "input_request", {"prompt": prompt, "password": False}, request)

    def finish(self, request: Message, **content: Any) -> None:
        """End an execution."""
        self.reply(request, **content)
        self.status("idle", request)


@pytest.fixture
def kernel() -> ScriptedKernel:
    return ScriptedKernel()


@pytest.fixture
async def client(kernel: ScriptedKernel) -> AsyncIterator[KernelClient]:
    async with kernel.client() as client:
        yield client


class Call:
    """A call that runs beside the test."""

    def __init__(self, tasks: TaskGroup, call: Callable[[], Awaitable[Any]]) -> None:
        self.scope = anyio.CancelScope()
        self.ended = False
        self.error: Exception | None = None
        self._call = call
        self._value: Any = None
        self._end = anyio.Event()
        tasks.start_soon(self._run)

    async def _run(self) -> None:
        try:
            with self.scope:
                self._value = await self._call()
        except Exception as error:
            self.error = error
        finally:
            self.ended = True
            self._end.set()

    async def result(self) -> Any:
        """Wait for the return value; raises the exception of the call."""
        with anyio.fail_after(GUARD_SECONDS):
            await self._end.wait()
        if self.error is not None:
            raise self.error
        return self._value

    async def failure(self) -> Exception:
        """Wait for the exception of the call and return it."""
        with anyio.fail_after(GUARD_SECONDS):
            await self._end.wait()
        assert self.error is not None, f"it returned {self._value!r}"
        return self.error

    async def cancel(self) -> None:
        self.scope.cancel()
        with anyio.fail_after(GUARD_SECONDS):
            await self._end.wait()


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Awaitable[Call]]]:
    """Give a function that starts a call, and returns it when it waits for something, or ended."""
    async with anyio.create_task_group() as tasks:

        async def start(function: Callable[..., Awaitable[Any]], *args: object) -> Call:
            call = Call(tasks, lambda: function(*args))
            await all_blocked()
            return call

        yield start
        tasks.cancel_scope.cancel()


async def all_blocked() -> None:
    """Like anyio.wait_all_tasks_blocked, but without its nap on asyncio."""
    for _ in range(10):
        await checkpoint()
    await anyio.wait_all_tasks_blocked()


@pytest.fixture(name="all_blocked")
def _all_blocked() -> Callable[[], Awaitable[None]]:
    return all_blocked


def text(text: str) -> Stream:
    return Stream("stdout", text)


@pytest.fixture
def run(client, kernel, start):
    """Give a function that has code executed: the execution, the task that awaits it, the request.

    The code does not matter: the test sends the kernel's messages.
    """

    async def run(**options):
        execution = client.execute("code", **options)
        call = await start(execution_result, execution)
        return execution, call, await kernel.expect("execute_request")

    return run


async def execution_result(execution):
    return await execution


async def outputs_of(execution) -> list[object]:
    return [output async for output in execution]


def nothing_is_tracked(client) -> bool:
    return not len(client._dispatcher.conversation) and not client._dispatcher._pending


async def outputs_until_failure(execution) -> tuple[list[object], type[Exception]]:
    outputs = []
    try:
        async for output in execution:
            outputs.append(output)
    except Exception as error:
        return outputs, type(error)
    raise AssertionError("it did not fail")


@pytest.fixture
def quick(monkeypatch):
    """Let interrupts follow each other quickly, and the code begin at once."""
    monkeypatch.setattr(stopping, "_FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(stopping, "_SIGN_SECONDS", 0.02)
    monkeypatch.setattr(stopping, "_HEAD_START_SECONDS", 0.0)
    monkeypatch.setattr(stopping, "CATCHING_UP_SECONDS", 0.02)


async def next_interrupt(kernel) -> None:
    """Wait for an interrupt, and reply to it."""
    while True:
        channel, message = await kernel.receive()
        if message.msg_type == "interrupt_request":
            return kernel.reply(message, channel)
        assert message.msg_type == "kernel_info_request"  # it wakes the kernel
