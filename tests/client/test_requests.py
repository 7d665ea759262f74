"""Requests are exactly those of the specification, and replies are typed."""

from __future__ import annotations

from datetime import datetime

import msgspec
import pytest

from kernelproto.exceptions import (
    LocalProtocolError,
    MalformedMessage,
    RemoteProtocolError,
    UnsupportedRequest,
)
from kernelproto.wire import content

pytestmark = pytest.mark.anyio


async def answer(question: content.InputRequest) -> str:
    return "answer"


HISTORY = {"output": False, "raw": True, "unique": False}

# The call, the message type, and the content on the wire.
REQUESTS = {
    "kernel_info": (lambda kernel: kernel.kernel_info(), "kernel_info", {}),
    "complete at the end": (
        lambda kernel: kernel.complete("prin"),
        "complete",
        {"code": "prin", "cursor_pos": 4},
    ),
    "complete at the beginning": (
        lambda kernel: kernel.complete("x = 1", 0),
        "complete",
        {"code": "x = 1", "cursor_pos": 0},
    ),
    "positions count characters": (
        lambda kernel: kernel.complete("'😀'."),
        "complete",
        {"code": "'😀'.", "cursor_pos": 4},
    ),
    "inspect at the end": (
        lambda kernel: kernel.inspect("print"),
        "inspect",
        {"code": "print", "cursor_pos": 5, "detail_level": 0},
    ),
    "inspect": (
        lambda kernel: kernel.inspect("print", 0, 1),
        "inspect",
        {"code": "print", "cursor_pos": 0, "detail_level": 1},
    ),
    "is_complete": (lambda kernel: kernel.is_complete("if x:"), "is_complete", {"code": "if x:"}),
    "history": (
        lambda kernel: kernel.history(),
        "history",
        HISTORY | {"hist_access_type": "tail", "n": 10},
    ),
    "history tail": (
        lambda kernel: kernel.history("tail", n=3, output=True, raw=False),
        "history",
        HISTORY | {"hist_access_type": "tail", "n": 3, "output": True, "raw": False},
    ),
    "history range": (
        lambda kernel: kernel.history("range", n=None, session=0, start=1, stop=5),
        "history",
        HISTORY | {"hist_access_type": "range", "session": 0, "start": 1, "stop": 5},
    ),
    "history search": (
        lambda kernel: kernel.history("search", n=1, pattern="import*", unique=True),
        "history",
        HISTORY | {"hist_access_type": "search", "n": 1, "pattern": "import*", "unique": True},
    ),
    "comm_info": (lambda kernel: kernel.comm_info(), "comm_info", {}),
    "comm_info of a target": (
        lambda kernel: kernel.comm_info("jupyter.widget"),
        "comm_info",
        {"target_name": "jupyter.widget"},
    ),
    "interrupt": (lambda kernel: kernel.interrupt(), "interrupt", {}),
    "shutdown": (lambda kernel: kernel.shutdown(), "shutdown", {"restart": False}),
    "restart": (lambda kernel: kernel.shutdown(restart=True), "shutdown", {"restart": True}),
    "create_subshell": (lambda kernel: kernel.create_subshell(), "create_subshell", {}),
    "delete_subshell": (
        lambda kernel: kernel.delete_subshell("sub"),
        "delete_subshell",
        {"subshell_id": "sub"},
    ),
    "list_subshells": (lambda kernel: kernel.list_subshells(), "list_subshell", {}),
    "usage": (lambda kernel: kernel.usage(), "usage", {}),
}
ON_CONTROL = {
    "interrupt",
    "shutdown",
    "create_subshell",
    "delete_subshell",
    "list_subshell",
    "usage",
}


@pytest.mark.parametrize(("call", "name", "expected"), list(REQUESTS.values()), ids=list(REQUESTS))
async def test_a_request(kernel, client, start, call, name, expected) -> None:
    channel = "control" if name in ON_CONTROL else "shell"
    running = await start(call, client)
    request = await kernel.expect(f"{name}_request", channel)
    assert msgspec.json.decode(request.raw_content) == expected
    assert (request.raw_parent_header, request.raw_metadata, request.buffers) == (b"{}", b"{}", ())
    kernel.reply(request, channel)
    reply = await running.result()
    assert type(reply) is content.content_type(f"{name}_reply")
    assert reply.status == "ok"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, {}, id="nothing else"),
        pytest.param({"silent": True}, {"silent": True, "store_history": False}, id="silent"),
        pytest.param(
            {"silent": True, "store_history": True},
            {"silent": True, "store_history": False},
            id="silent has no history",
        ),
        pytest.param({"store_history": False}, {"store_history": False}, id="without history"),
        pytest.param(
            {"user_expressions": {"x": "1 + 1"}},
            {"user_expressions": {"x": "1 + 1"}},
            id="user expressions",
        ),
        pytest.param({"stop_on_error": False}, {"stop_on_error": False}, id="go on after errors"),
        pytest.param({"on_input": answer}, {"allow_stdin": True}, id="with input"),
        pytest.param(
            {"on_input": answer, "allow_stdin": False}, {"allow_stdin": False}, id="without input"
        ),
        pytest.param({"allow_stdin": False}, {"allow_stdin": False}, id="no on_input"),
    ],
)
async def test_an_execute_request(kernel, client, options, expected) -> None:
    async with client.execute("6 * 7", **options):
        request = await kernel.expect("execute_request")
    assert (
        msgspec.json.decode(request.raw_content)
        == {
            "code": "6 * 7",
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        | expected
    )


async def test_allow_stdin_needs_on_input(client) -> None:
    with pytest.raises(LocalProtocolError, match="allow_stdin=True needs an on_input"):
        client.execute("input()", allow_stdin=True)


async def test_every_header_is_the_specifications(kernel, client) -> None:
    headers = []
    for _ in range(3):
        async with client.execute("code", subshell_id="sub"):
            request = await kernel.expect("execute_request")
        headers.append(msgspec.json.decode(request.raw_header))
    for header in headers:
        assert header.keys() == {
            "msg_id",
            "msg_type",
            "session",
            "username",
            "date",
            "version",
            "subshell_id",
        }
        assert header["msg_type"] == "execute_request"
        assert header["session"] == client.session
        assert header["username"]
        assert header["version"].startswith("5.")
        assert header["subshell_id"] == "sub"
        assert datetime.fromisoformat(header["date"]).tzinfo is not None
    assert len({header["msg_id"] for header in headers}) == 3


async def test_a_debug_request_is_numbered(kernel, client, start) -> None:
    numbers = []
    for command, arguments in [("initialize", None), ("setBreakpoints", {"lines": [1]})]:
        call = await start(client.debug, command, arguments)
        request = await kernel.expect("debug_request", "control")
        numbers.append(request.content.pop("seq"))
        assert request.content == {
            "type": "request",
            "command": command,
            "arguments": arguments or {},
        }
        kernel.send("control", "debug_reply", {"success": True, "body": {}}, request)
        assert await call.result() == {"success": True, "body": {}}
    assert numbers[1] == numbers[0] + 1


async def test_the_reply_has_the_content_of_the_kernel(kernel, client, start) -> None:
    call = await start(client.complete, "pr")
    request = await kernel.expect("complete_request")
    kernel.reply(request, matches=["print"], cursor_start=0, cursor_end=2, metadata={"x": 1})
    assert await call.result() == content.CompleteReply(
        matches=["print"], cursor_start=0, cursor_end=2, metadata={"x": 1}
    )


@pytest.mark.parametrize("status", ["error", "aborted"])
async def test_an_error_is_in_the_reply(kernel, client, start, status) -> None:
    call = await start(client.inspect, "x")
    request = await kernel.expect("inspect_request")
    kernel.reply(request, status=status, ename="ValueError", evalue="bad")
    reply = await call.result()
    assert (reply.status, reply.ename, reply.evalue) == (status, "ValueError", "bad")
    assert reply.aborted == (status == "aborted")
    assert not reply.found


async def test_an_unreadable_reply_is_raised(kernel, client, start) -> None:
    call = await start(client.complete, "x")
    kernel.reply(await kernel.expect("complete_request"), matches=42)
    assert isinstance(await call.failure(), MalformedMessage)


async def test_a_reply_to_something_else_is_raised(kernel, client, start) -> None:
    call = await start(client.complete, "x")
    kernel.send("shell", "inspect_reply", {}, await kernel.expect("complete_request"))
    error = await call.failure()
    assert type(error) is RemoteProtocolError
    assert str(error) == "expected a complete_reply, received a inspect_reply"


SUBSHELLS = [
    pytest.param(lambda kernel: kernel.create_subshell(), id="create_subshell"),
    pytest.param(lambda kernel: kernel.delete_subshell("sub"), id="delete_subshell"),
    pytest.param(lambda kernel: kernel.list_subshells(), id="list_subshells"),
    pytest.param(lambda kernel: kernel.execute("code", subshell_id="sub"), id="execute"),
]
DEBUGGER = [pytest.param(lambda kernel: kernel.debug("initialize"), id="debug")]


@pytest.fixture
def be_ready(kernel, client, start):
    """Give a function that tells the client the kernel's features."""

    async def be_ready(**info):
        call = await start(client.wait_for_ready)
        kernel.reply(await kernel.expect("kernel_info_request"), implementation="mine", **info)
        await kernel.expect("kernel_info_request", "control")
        kernel.status("starting")
        await call.result()

    return be_ready


@pytest.mark.parametrize("call", [*SUBSHELLS, *DEBUGGER])
async def test_missing_features_are_not_requested(client, be_ready, call) -> None:
    await be_ready(supported_features=["something else"])
    with pytest.raises(UnsupportedRequest, match=r"mine has no .*: its supported_features are"):
        await call(client)


@pytest.mark.parametrize(
    ("info", "calls"),
    [
        ({"supported_features": ["kernel subshells"]}, SUBSHELLS),
        ({"supported_features": ["debugger"]}, DEBUGGER),
        ({"debugger": True}, DEBUGGER),
    ],
    ids=["subshells", "debugger", "debugger, said the old way"],
)
async def test_supported_features_are_requested(
    kernel, client, start, be_ready, info, calls
) -> None:
    await be_ready(**info)
    for call in calls:
        running = await start(wait_for, call.values[0], client)
        await kernel.receive()
        await running.cancel()


async def wait_for(call, client):
    return await call(client)
