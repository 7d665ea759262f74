from __future__ import annotations

import logging
from contextlib import asynccontextmanager

import anyio
import msgspec
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.client import dispatcher as module
from kernelproto.client import open_client, reply
from kernelproto.exceptions import ClientClosed, KernelDied, MalformedMessage, UnsupportedRequest
from kernelproto.wire import tolerant_json
from kernelproto.wire.codec import Codec
from kernelproto.wire.content import Stream
from kernelproto.wire.refusals import RefusedOutput

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


async def kernel_still_answers(kernel, client, start) -> bool:
    call = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"), implementation="mine")
    return (await call.result()).implementation == "mine"


# Refused messages.


def forged(kernel, request) -> list[bytes]:
    reply = kernel.message("kernel_info_reply", {"implementation": "a forgery"}, request)
    return Codec(b"another key").encode(reply)


def unsigned(kernel, request) -> list[bytes]:
    delimiter, _, *parts = forged(kernel, request)
    return [delimiter, b"", *parts]


@pytest.mark.parametrize("forge", [forged, unsigned])
async def test_a_wrong_signature_is_refused(kernel, client, start, caplog, forge) -> None:
    call = await start(client.kernel_info)
    request = await kernel.expect("kernel_info_request")
    kernel.transport.send("shell", forge(kernel, request))
    await checkpoint()
    assert not call.ended
    assert client.refused == {"InvalidSignature": 1}
    assert caplog.record_tuples == [
        (
            "kernelproto.client.dispatcher",
            logging.WARNING,
            "refused a message on shell: the signature does not match: the sender does not have "
            "the connection's key",
        )
    ]
    kernel.reply(request, implementation="mine")
    assert (await call.result()).implementation == "mine"


async def test_a_replayed_message_is_refused(kernel, client, start, caplog) -> None:
    async with client.execute("code") as execution:
        request = await kernel.expect("execute_request")
        output = kernel.codec.encode(
            kernel.message("stream", {"name": "stdout", "text": "once"}, request)
        )
        for _ in range(3):
            kernel.transport.send("iopub", output)
        kernel.finish(request)
        assert (await execution).stdout == "once"
    assert client.refused == {"ReplayedMessage": 2}
    assert len(caplog.records) == 2
    assert await kernel_still_answers(kernel, client, start)


GARBAGE = {
    "nothing": [],
    "an empty frame": [b""],
    "noise": [b"\xff\x00noise"] * 7,
    "no delimiter": [b"topic", b"signature", b"{}", b"{}", b"{}", b"{}"],
    "the delimiter alone": [b"<IDS|MSG>"],
    "too few frames": [b"<IDS|MSG>", b"", b"{}", b"{}", b"{}"],
}


@pytest.mark.parametrize("channel", ["shell", "iopub", "stdin", "control"])
@pytest.mark.parametrize("frames", list(GARBAGE.values()), ids=list(GARBAGE))
async def test_garbage_is_refused(kernel, client, start, caplog, channel, frames) -> None:
    kernel.transport.send(channel, frames)
    assert client.refused == {"MalformedMessage": 1}
    (record,) = caplog.records
    assert record.getMessage().startswith(f"refused a message on {channel}: ")
    assert await kernel_still_answers(kernel, client, start)


@pytest.mark.parametrize("header", [b"", b"null", b"[]", b"{", b'{"msg_id": 1}', b"\xff"])
async def test_a_signed_message_with_a_bad_header_is_refused(kernel, client, start, header) -> None:
    message = kernel.message("stream", {})
    message.parts = [header, *message.parts[1:]]
    kernel.transport.send("iopub", kernel.codec.encode(message))
    assert client.refused == {"MalformedMessage": 1}
    assert await kernel_still_answers(kernel, client, start)


# The request that a refused message belongs to.


TOO_DEEP = b'{"a":' * 100_000
NO_TEXT = b'{"name":"stdout","text":[]}'


def broken(kernel, msg_type, request, **parts: bytes) -> list[bytes]:
    """Return the signed frames of a message of which some parts cannot be read."""
    message = kernel.message(msg_type, {"name": "stdout", "text": "lost"}, request)
    names = ("header", "parent_header", "metadata", "content")
    message.parts = tuple(
        parts.get(name, part) for name, part in zip(names, message.parts, strict=True)
    )
    return kernel.codec.encode(message)


def stream(text: str) -> Stream:
    return Stream("stdout", text)


@pytest.mark.parametrize(
    ("parts", "msg_type", "reason"),
    [
        ({"content": TOO_DEEP}, "stream", "cannot be read as Stream: "),
        ({"content": NO_TEXT}, "stream", "cannot be read as Stream: "),
        ({"content": b"[]"}, "display_data", "cannot be read as DisplayData: "),
        ({"metadata": TOO_DEEP}, "stream", "cannot be read as dict: "),
        ({"metadata": b"[]"}, "clear_output", "cannot be read as dict: "),
        ({"header": TOO_DEEP}, "", "cannot be read as Header: "),
    ],
)
async def test_a_refused_output_leaves_a_trace(kernel, client, parts, msg_type, reason) -> None:
    async with (
        client.messages() as messages,
        client.execute("code") as execution,
    ):
        request = await kernel.expect("execute_request")
        kernel.stream(request, "before")
        kernel.transport.send("iopub", broken(kernel, msg_type or "stream", request, **parts))
        kernel.stream(request, "after")
        kernel.finish(request)
        result = await execution
        observed = [await anext(messages) for _ in range(4)]
    before, refused, after = result.outputs
    assert (before, after) == (stream("before"), stream("after"))
    assert isinstance(refused, RefusedOutput)
    assert (refused.name, refused.msg_type) == ("stderr", msg_type)
    assert refused.reason.startswith(reason)
    assert refused.text.startswith("[an output is missing here: the kernel's ")
    assert len(refused.text) < 500
    assert not result.outputs_complete
    assert client.refused == {"MalformedMessage": 1}
    assert {message.parent_header for message, _ in observed} == {request.header}
    if "content" in parts:  # observers may know how to read it
        assert observed[1][0].raw_content == parts["content"]
    else:
        assert Stream("stderr", refused.text) == msgspec.json.decode(
            observed[1][0].raw_content, type=Stream
        )


@pytest.mark.parametrize(
    ("msg_type", "part"),
    [("status", "content"), ("status", "metadata"), ("comm_msg", "metadata")],
)
async def test_other_refused_messages_leave_no_output(kernel, client, msg_type, part) -> None:
    async with client.messages() as messages, client.execute("code") as execution:
        request = await kernel.expect("execute_request")
        kernel.transport.send("iopub", broken(kernel, msg_type, request, **{part: b"[]"}))
        kernel.finish(request)
        assert (await execution).outputs == []
        assert (await execution).outputs_complete
        first, _ = await anext(messages)
    assert client.refused == {"MalformedMessage": 1}
    assert (first.raw_content == b"[]") == (part == "content")


@pytest.mark.parametrize("parts", [{"header": b"{}"}, {"metadata": b"[]"}, {"content": b"[]"}])
async def test_a_refused_reply_ends_its_request(kernel, client, start, parts) -> None:
    asking = await start(client.complete, "code")
    executing = await start(execution_result, client.execute("code"))
    request = await kernel.expect("complete_request")
    execution = await kernel.expect("execute_request")
    kernel.transport.send("shell", broken(kernel, "complete_reply", request, **parts))
    assert isinstance(await asking.failure(), MalformedMessage)
    kernel.stream(execution, "printed")
    kernel.transport.send("shell", broken(kernel, "execute_reply", execution, **parts))
    kernel.status("idle", execution)
    assert isinstance(await executing.failure(), MalformedMessage)
    assert not client.waiting
    assert await kernel_still_answers(kernel, client, start)


async def execution_result(execution):
    return await execution


@pytest.mark.parametrize("parts", [{"header": b"{}"}, {"metadata": b"[]"}, {"content": b"[]"}])
async def test_a_refused_question_ends_its_execution(kernel, client, start, parts) -> None:
    executing = await start(execution_result, client.execute("code", on_input=lambda _: "text"))
    request = await kernel.expect("execute_request")
    kernel.transport.send("stdin", broken(kernel, "input_request", request, **parts))
    assert isinstance(await executing.failure(), MalformedMessage)


@pytest.mark.parametrize("channel", ["shell", "iopub", "stdin"])
async def test_a_forger_ends_no_request(kernel, client, start, channel) -> None:
    executing = await start(execution_result, client.execute("code"))
    request = await kernel.expect("execute_request")
    delimiter, _, *parts = broken(kernel, "execute_reply", request, metadata=b"[]")
    kernel.transport.send(channel, [delimiter, b"0" * 64, *parts])
    kernel.transport.send(channel, [delimiter, b"0" * 64, parts[0], parts[1]])
    kernel.finish(request)
    assert (await executing.result()).outputs == []
    assert (await executing.result()).outputs_complete


async def test_an_answer_to_a_fence_may_be_refused(kernel, client, start, monkeypatch) -> None:
    monkeypatch.setattr(reply, "_FENCE_SECONDS", 0.0)
    monkeypatch.setattr(reply, "_GRACE_SECONDS", 0.0)
    call = await start(client.request, "unheard_of_request", {})
    await kernel.expect("unheard_of_request")
    fence = await kernel.expect("kernel_info_request")
    kernel.transport.send("shell", broken(kernel, "kernel_info_reply", fence, metadata=b"[]"))
    assert isinstance(await call.failure(), UnsupportedRequest)


async def test_a_flood_of_refused_messages_writes_few_lines(kernel, client, caplog) -> None:
    frames = Codec(b"wrong").encode(kernel.message("stream", {}))
    for _ in range(10_000):
        kernel.transport.send("iopub", frames)
    kernel.transport.send("shell", [b"garbage"])
    assert client.refused == {"InvalidSignature": 10_000, "MalformedMessage": 1}
    first, *counts, other = caplog.messages
    assert first.endswith("the sender does not have the connection's key")
    assert len(counts) == 13
    assert counts[-1].endswith("(8192 times so far)")
    assert other.startswith("refused a message on shell: ")


async def test_refusals_are_counted_by_reason(kernel, client) -> None:
    for _ in range(3):
        kernel.transport.send("iopub", [b"garbage"])
    for _ in range(2):
        kernel.transport.send("shell", Codec(b"wrong").encode(kernel.message("x_reply", {})))
    assert client.refused == {"MalformedMessage": 3, "InvalidSignature": 2}


@pytest.mark.parametrize("channel", ["shell", "iopub", "stdin", "control"])
async def test_messages_of_unknown_types_are_not_refused(kernel, client, start, channel) -> None:
    kernel.send(channel, "from_the_future", {"x": 1})
    assert client.refused == {}
    assert await kernel_still_answers(kernel, client, start)


async def test_memory_is_as_good_as_bytes(kernel, client, start) -> None:
    call = await start(client.kernel_info)
    request = await kernel.expect("kernel_info_request")
    reply = kernel.message("kernel_info_reply", {"implementation": "mine"}, request)
    kernel.transport.send("shell", [memoryview(frame) for frame in kernel.codec.encode(reply)])
    assert (await call.result()).implementation == "mine"


# The heartbeat.


async def test_a_heartbeat_takes_the_time_of_its_echo(kernel, client, start) -> None:
    call = await start(client.heartbeat)
    frames = await kernel.beat()
    assert frames[0] == b""
    assert not call.ended
    kernel.transport.send("hb", frames)
    assert await call.result() > 0


async def test_heartbeats_may_overlap_and_get_lost(kernel, client, start) -> None:
    calls = [await start(client.heartbeat) for _ in range(3)]
    beats = [await kernel.beat() for _ in calls]
    kernel.transport.send("hb", beats[2])
    await calls[2].result()
    kernel.transport.send("hb", beats[0])
    await calls[0].result()
    assert not calls[1].ended


@pytest.mark.parametrize("frames", [[b""], [b"", b"no beat of ours"], [b"<IDS|MSG>"] * 9])
async def test_other_echoes_are_ignored(kernel, client, start, frames) -> None:
    call = await start(client.heartbeat)
    beat = await kernel.beat()
    kernel.transport.send("hb", frames)
    await checkpoint()
    assert not call.ended
    assert client.refused == {}
    kernel.transport.send("hb", beat)
    await call.result()


async def test_a_cancelled_heartbeat_leaves_nothing(kernel, client, start) -> None:
    call = await start(client.heartbeat)
    beat = await kernel.beat()
    await call.cancel()
    assert not client._dispatcher._echoes
    kernel.transport.send("hb", beat)


# The last words of a dead kernel.


async def test_settling_ends_when_nothing_more_arrives(client) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        await client.settle()


async def test_settling_ends_though_more_and_more_arrives(kernel, client, monkeypatch) -> None:
    monkeypatch.setattr(module, "_SETTLING_SECONDS", 0)

    async def chatter() -> None:
        while True:
            kernel.status("busy")
            await checkpoint()

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(chatter)
            await client.settle()
            tasks.cancel_scope.cancel()


async def test_after_the_end_nothing_is_taken_in(kernel, client) -> None:
    client.fail(KernelDied("gone"))
    kernel.status("busy")
    kernel.transport.send("iopub", [b"garbage"])
    assert not client.busy
    assert client.refused == {}


async def test_channels_that_close_by_themselves_raise_client_closed(kernel) -> None:
    class Closed:
        async def send(self, channel: str, frames: list[bytes]) -> None:
            raise ClientClosed("the tunnel has collapsed")

        def abandon(self) -> None:
            pass

    @asynccontextmanager
    async def open_channels(*args, **options):
        yield Closed()

    async with open_client(kernel.info, open_channels=open_channels) as client:
        for wait in (client.kernel_info, client.heartbeat):
            with pytest.raises(ClientClosed, match="the tunnel has collapsed"):
                await wait()
        client.fail(KernelDied("gone"))  # which knows better why
        for wait in (client.kernel_info, client.heartbeat):
            with pytest.raises(KernelDied):
                await wait()


# Large contents.

VALUES = {str(number): [number] for number in range(50_000)}


@pytest.fixture
async def watch(monkeypatch):
    """Give a function that starts another task, and returns the bytes decoded between its turns."""
    turns = [0]
    original = tolerant_json.decode

    def decode(data, kind):
        turns[-1] += len(data)
        return original(data, kind)

    async def take_turns() -> None:
        while True:
            await checkpoint()
            turns.append(0)

    async with anyio.create_task_group() as tasks:

        def watch():
            monkeypatch.setattr(tolerant_json, "decode", decode)
            tasks.start_soon(take_turns)
            return turns

        yield watch
        tasks.cancel_scope.cancel()


def is_bounded(turns: list[int]) -> bool:
    return max(turns) < 2**17


async def test_large_reply_and_outputs_let_other_tasks_run(kernel, run, watch) -> None:
    _, call, request = await run()
    turns = watch()
    kernel.send("iopub", "display_data", {"data": VALUES}, request)
    kernel.send("iopub", "display_data", {"data": {}, "metadata": {"a": VALUES}}, request)
    kernel.stream(request, "the last")
    kernel.finish(request, user_expressions=VALUES, payload=[VALUES])
    assert not call.ended
    result = await call.result()
    assert [output.to_dict() for output in result.outputs] == [
        {"output_type": "display_data", "data": VALUES, "metadata": {}},
        {"output_type": "display_data", "data": {}, "metadata": {"a": VALUES}},
        {"output_type": "stream", "name": "stdout", "text": "the last"},
    ]
    assert result.outputs_complete
    assert result.user_expressions == VALUES
    assert result.payload == [VALUES]
    assert is_bounded(turns)


@pytest.mark.parametrize(
    ("method", "arguments", "content"),
    [
        ("complete", ("x", 1), {"matches": list(VALUES)}),
        ("inspect", ("x", 1), {"found": True, "data": VALUES}),
        ("history", (), {"history": [[1, number, "x"] for number in range(50_000)]}),
        ("comm_info", (), {"comms": {key: {"target_name": "t"} for key in VALUES}}),
    ],
)
async def test_large_replies_let_other_tasks_run(
    kernel, client, start, watch, method, arguments, content
) -> None:
    call = await start(getattr(client, method), *arguments)
    _, request = await kernel.receive()
    turns = watch()
    kernel.reply(request, **content)
    reply = await call.result()
    name, value = list(content.items())[-1]
    assert len(getattr(reply, name)) == len(value)
    assert is_bounded(turns)


async def test_large_comm_message_lets_other_tasks_run(kernel, client, start, watch) -> None:
    comm = client.comms.attach("c", "target")
    turns = watch()
    kernel.send("iopub", "comm_msg", {"comm_id": "c", "data": VALUES})
    with anyio.fail_after(GUARD_SECONDS):
        message = await anext(comm)
    assert message.content.data == VALUES
    assert is_bounded(turns)


async def test_large_update_of_a_display_lets_other_tasks_run(kernel, run, watch) -> None:
    _, call, request = await run()
    turns = watch()
    transient = {"display_id": "d"}
    kernel.send("iopub", "display_data", {"data": {}, "transient": transient}, request)
    other = kernel.message("execute_request", {})
    update = {"data": VALUES, "transient": transient}
    kernel.send("iopub", "update_display_data", update, other)
    kernel.finish(request)
    assert (await call.result()).outputs[0].data == VALUES
    assert is_bounded(turns)


async def test_large_output_of_another_client_is_not_read(kernel, client) -> None:
    other = kernel.message("execute_request", {})
    async with client.messages() as messages:
        kernel.send("iopub", "display_data", {"data": VALUES}, other)
        with anyio.fail_after(GUARD_SECONDS):
            message, _ = await anext(messages)
    assert message._content is None


async def test_unreadable_large_output_leaves_a_refused_output(kernel, run) -> None:
    _, call, request = await run()
    kernel.send("iopub", "display_data", {"data": list(VALUES)}, request)
    kernel.finish(request)
    (output,) = (await call.result()).outputs
    assert isinstance(output, RefusedOutput)
    assert output.reason == "cannot be read as DisplayData: a list is in the place of a dict"


async def test_kernel_that_dies_loses_no_large_output(kernel, client, run) -> None:
    execution, call, request = await run()
    kernel.send("iopub", "display_data", {"data": VALUES}, request)
    kernel.stream(request, "the last")
    await client.settle()
    client.fail(KernelDied("gone"))
    assert isinstance(await call.failure(), KernelDied)
    assert len(execution.outputs) == 2


async def test_closed_client_reads_no_further(kernel, client, run) -> None:
    _, call, request = await run()
    kernel.send("iopub", "display_data", {"data": VALUES}, request)
    client.close()
    assert isinstance(await call.failure(), ClientClosed)
    assert not client._dispatcher.session.unread
    await client.settle()


async def test_deadlines_wait_for_the_unread_messages(kernel, client, start, monkeypatch) -> None:
    """All seconds are over, but the reply has arrived."""
    for name in ("_FENCE_SECONDS", "_GRACE_SECONDS", "CATCHING_UP_SECONDS"):
        monkeypatch.setattr(reply, name, 0.0)
    call = await start(client.complete, "x", 1)
    _, request = await kernel.receive()
    kernel.status("idle", request)
    kernel.reply(request, matches=list(VALUES) * 2)
    assert len((await call.result()).matches) == 100_000


async def test_code_that_has_ended_unread_is_not_interrupted(kernel, client, start) -> None:
    execution = client.execute("code")
    call = await start(execution_result, execution)
    request = await kernel.expect("execute_request")
    kernel.status("busy", request)
    kernel.stream(request, "runs")
    kernel.send("iopub", "display_data", {"data": VALUES}, request)
    kernel.finish(request)
    assert execution.state == "running"
    await execution.interrupt()
    assert (await call.result()).status == "ok"
    await start(client.kernel_info)
    await kernel.expect("kernel_info_request")  # and no interrupt_request before


async def test_too_much_unread_is_read_at_once(kernel, client, run, monkeypatch) -> None:
    monkeypatch.setattr(module, "_MOST_UNREAD_BYTES", 0)
    execution, call, request = await run()
    kernel.send("iopub", "display_data", {"data": VALUES}, request)
    assert execution.outputs[0].data == VALUES
    kernel.finish(request)
    await call.result()
