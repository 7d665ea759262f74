"""A scripted kernel that speaks version 4 of the specification, and a client that need not know."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

import anyio
import pytest

from kernelproto.client import KernelClient, open_client
from kernelproto.exceptions import ClientClosed
from kernelproto.transport.memory import MemoryTransport
from kernelproto.wire import ChannelName, Codec, ConnectionInfo, Message, MessageFactory

pytestmark = pytest.mark.anyio

INFO = ConnectionInfo(
    shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5, key="secret"
)


class KernelV4:
    """Answers as IPython 2 did; records the names and contents of the requests."""

    def __init__(self) -> None:
        self.transport = MemoryTransport()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._codec = Codec(INFO.key.encode())
        numbers = iter(range(1000))
        self._factory = MessageFactory(
            session="kernel", username="k", new_id=lambda: f"k{next(numbers)}", now=lambda: ""
        )

    def send(
        self, channel: ChannelName, msg_type: str, content: Mapping[str, Any], parent: Message
    ) -> None:
        message = self._factory.message(msg_type, content, parent=parent)
        self.transport.send(channel, self._codec.encode(message))

    async def run(self) -> None:
        while True:
            try:
                channel, frames = await self.transport.receive()
            except ClientClosed:
                return
            request = self._codec.decode(frames)
            content = json.loads(bytes(request.raw_content))
            self.asked.append((request.msg_type, content))
            self.send("iopub", "status", {"execution_state": "busy"}, request)
            self.answer(channel, request)
            self.send("iopub", "status", {"execution_state": "idle"}, request)

    def answer(self, channel: ChannelName, request: Message) -> None:
        match request.msg_type:
            case "kernel_info_request":
                reply: dict[str, Any] = {"protocol_version": [4, 1], "language": "python"}
                self.send(channel, "kernel_info_reply", reply, request)
            case "execute_request":
                self.send("iopub", "stream", {"name": "stdout", "data": "hello"}, request)
                output = {"data": {"text/plain": "42"}, "metadata": {}, "execution_count": 1}
                self.send("iopub", "pyout", output, request)
                reply = {
                    "status": "ok",
                    "execution_count": 1,
                    "user_variables": {},
                    "user_expressions": {},
                    "payload": [],
                }
                self.send(channel, "execute_reply", reply, request)
            case "complete_request":
                reply = {"status": "ok", "matches": ["print"], "matched_text": "pri"}
                self.send(channel, "complete_reply", reply, request)
            case "object_info_request":
                reply = {"found": True, "docstring": "says things", "name": "print"}
                self.send(channel, "object_info_reply", reply, request)
            case _:
                raise AssertionError(request.msg_type)


@pytest.fixture
async def kernel() -> AsyncIterator[KernelV4]:
    kernel = KernelV4()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kernel.run)
            yield kernel
            tasks.cancel_scope.cancel()


@pytest.fixture
async def client(kernel: KernelV4) -> AsyncIterator[KernelClient]:
    async with open_client(INFO, open_channels=kernel.transport.open_channels) as client:
        await client.wait_for_ready()
        yield client


async def test_the_version_is_negotiated_from_kernel_info(client: KernelClient) -> None:
    assert client.info is not None
    assert client.info.protocol_version == "4.1"
    assert client.info.language_info.name == "python"


async def test_outputs_arrive_under_their_names_of_today(client: KernelClient) -> None:
    result = await client.execute("print('hello'); 6 * 7")

    assert (result.stdout, result.text, result.status) == ("hello", "42", "ok")


async def test_requests_arrive_under_their_names_of_then(
    kernel: KernelV4, client: KernelClient
) -> None:
    completion = await client.complete("1 + pri")
    inspection = await client.inspect("print")

    assert (completion.cursor_start, completion.cursor_end) == (4, 7)
    assert "says things" in inspection.data["text/plain"]
    names = [name for name, _ in kernel.asked]
    assert names[-2:] == ["complete_request", "object_info_request"]
    assert kernel.asked[-1][1]["oname"] == "print"
