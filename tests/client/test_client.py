from __future__ import annotations

from contextlib import AsyncExitStack

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.exceptions import ClientClosed, KernelDied, LocalProtocolError
from kernelproto.testing import FakeKernel
from kernelproto.wire import content
from kernelproto.wire.message import Header, Message

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


def nothing_is_tracked(client) -> bool:
    dispatcher = client._dispatcher
    return not (len(dispatcher.conversation) or dispatcher._pending or dispatcher._echoes)


async def await_execution(client) -> None:
    await client.execute("code")


async def iterate_execution(client) -> None:
    async for _ in client.execute("code"):
        pass


async def await_execution_in_its_block(client) -> None:
    async with client.execute("code") as execution:
        await execution


async def iterate_messages(client) -> None:
    async with client.messages() as messages:
        async for _ in messages:
            pass


WAITS = {
    "kernel_info": lambda client: client.kernel_info(),
    "complete": lambda client: client.complete("x"),
    "inspect": lambda client: client.inspect("x"),
    "is_complete": lambda client: client.is_complete("x"),
    "history": lambda client: client.history(),
    "comm_info": lambda client: client.comm_info(),
    "interrupt": lambda client: client.interrupt(),
    "shutdown": lambda client: client.shutdown(),
    "request": lambda client: client.request("custom_request", {}),
    "request on control": lambda client: client.request("custom_request", {}, "control"),
    "heartbeat": lambda client: client.heartbeat(),
    "wait_for_ready": lambda client: client.wait_for_ready(),
    "awaiting an execution": await_execution,
    "iterating over an execution": iterate_execution,
    "awaiting an execution in its block": await_execution_in_its_block,
    "iterating over messages": iterate_messages,
}

each_wait = pytest.mark.parametrize("wait", list(WAITS.values()), ids=list(WAITS))
each_end = pytest.mark.parametrize("end", ["the kernel dies", "the client closes", "leaving"])


class Ending:
    """A client that comes to its end in a way that is told."""

    def __init__(self, stack: AsyncExitStack, client) -> None:
        self.client = client
        self._stack = stack

    async def by(self, end: str) -> type[Exception]:
        if end == "the kernel dies":
            self.client.fail(KernelDied("gone", returncode=-9))
            return KernelDied
        if end == "the client closes":
            self.client.close()
        else:
            await self._stack.aclose()
        return ClientClosed


@pytest.fixture
async def ending(kernel, start):  # the calls outlive the client
    async with AsyncExitStack() as stack:
        yield Ending(stack, await stack.enter_async_context(kernel.client()))


@each_wait
@each_end
async def test_every_wait_ends_when(ending, start, wait, end) -> None:
    client = ending.client
    calls = [await start(wait, client) for _ in range(2)]
    assert not any(call.ended for call in calls)
    expected = await ending.by(end)
    errors = [await call.failure() for call in calls]
    assert [type(error) for error in errors] == [expected] * 2
    assert [getattr(error, "returncode", -9) for error in errors] == [-9] * 2
    assert errors[0] is not errors[1]
    assert nothing_is_tracked(client)


@each_wait
@each_end
async def test_no_call_waits_after(ending, wait, end) -> None:
    expected = await ending.by(end)
    with anyio.fail_after(GUARD_SECONDS):
        for _ in range(2):
            with pytest.raises(expected):
                await wait(ending.client)
    assert nothing_is_tracked(ending.client)


@pytest.mark.parametrize(
    "wait",
    [WAITS["kernel_info"], WAITS["heartbeat"], WAITS["awaiting an execution"]],
    ids=["request", "heartbeat", "execution"],
)
@pytest.mark.parametrize("end", ["the kernel dies", "leaving"])
async def test_blocked_senders_end_when(ending, start, wait, end) -> None:
    client = ending.client
    for _ in range(1000):
        await client.send_comm(content.CommClose(comm_id="filler"), None, ())
    calls = [await start(wait, client) for _ in range(2)]
    assert not any(call.ended for call in calls)
    expected = await ending.by(end)
    assert [type(await call.failure()) for call in calls] == [expected] * 2
    assert nothing_is_tracked(client)


async def test_only_the_first_failure_counts(client, start) -> None:
    call = await start(client.kernel_info)
    client.fail(KernelDied("first"))
    client.fail(KernelDied("second"))
    client.close()
    assert str(await call.failure()) == "first"
    with pytest.raises(KernelDied, match="first"):
        await client.kernel_info()


@pytest.mark.parametrize(
    "error",
    [ValueError("mine"), ExceptionGroup("mine", [ValueError("mine")]), KernelDied("mine")],
    ids=lambda error: type(error).__name__,
)
async def test_an_exception_from_the_block_arrives_as_itself(kernel, error) -> None:
    with pytest.raises(type(error)) as raised:
        async with kernel.client():
            raise error
    assert raised.value is error


async def test_each_client_has_a_session_and_a_topic_of_its_own(kernel) -> None:
    seen = set()
    for _ in range(3):
        async with kernel.client() as client:
            everything, own = kernel.transport.topics
            assert everything == b""
            assert own
            assert kernel.transport.identity == client.session.encode()
            seen |= {own, client.session}
    assert len(seen) == 6


# Requests.


async def test_any_request_can_be_sent(kernel, client, start) -> None:
    call = await start(
        lambda: client.request(
            "custom_request", {"x": 1}, "control", metadata={"m": 2}, buffers=[b"one", b"two"]
        )
    )
    request = await kernel.expect("custom_request", "control")
    assert request.content == {"x": 1}
    assert request.metadata == {"m": 2}
    assert list(request.buffers) == [b"one", b"two"]
    kernel.reply(request, "control", y=3)
    reply = await call.result()
    assert (reply.msg_type, reply.content) == ("custom_reply", {"status": "ok", "y": 3})
    assert nothing_is_tracked(client)


async def test_a_request_may_be_meant_for_a_subshell(kernel, client, start) -> None:
    await start(lambda: client.request("custom_request", {}, subshell_id="sub"))
    assert (await kernel.expect("custom_request")).header.subshell_id == "sub"


async def test_code_may_be_executed_as_a_plain_request(kernel, client, start) -> None:
    call = await start(client.request, "execute_request", content.ExecuteRequest(code="1"))
    request = await kernel.expect("execute_request")
    kernel.stream(request, "nobody reads this")
    kernel.reply(request, execution_count=1)
    assert (await call.result()).content.execution_count == 1
    assert nothing_is_tracked(client)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("comm_open", {}), "'comm_open' is not a request"),
        (("execute_reply", {}), "'execute_reply' is not a request"),
        (("custom_request", {}, "iopub"), "send requests on shell or control, not on iopub"),
        (("custom_request", {}, "stdin"), "send requests on shell or control, not on stdin"),
        (("custom_request", {}, "hb"), "send requests on shell or control, not on hb"),
        (("custom_request", {"x": object()}), "cannot be written as JSON"),
        (("custom_request", [1]), "expected a JSON object"),
    ],
    ids=["a message", "a reply", "on iopub", "on stdin", "on hb", "unwritable", "a list"],
)
async def test_invalid_request_is_not_sent(kernel, client, start, arguments, why) -> None:
    with pytest.raises(LocalProtocolError, match=why):
        await client.request(*arguments)
    assert nothing_is_tracked(client)
    await start(client.kernel_info)
    await kernel.expect("kernel_info_request")  # and nothing before


async def test_replies_find_their_requests(kernel, client, start) -> None:
    calls = [await start(client.complete, f"{number}") for number in range(5)]
    requests = [await kernel.expect("complete_request") for _ in calls]
    for request in reversed(requests):
        kernel.reply(request, matches=[request.content.code])
    assert [(await call.result()).matches for call in calls] == [[f"{n}"] for n in range(5)]


async def test_replies_to_others_are_ignored(kernel, client, start) -> None:
    call = await start(client.kernel_info)
    request = await kernel.expect("kernel_info_request")
    foreign = kernel.message("kernel_info_request", {})
    kernel.reply(foreign, implementation="not mine")
    kernel.send("shell", "kernel_info_reply", {"implementation": "nobody's"})
    await checkpoint()
    assert not call.ended
    kernel.reply(request, implementation="mine")
    assert (await call.result()).implementation == "mine"


async def test_only_the_first_reply_counts(kernel, client, start) -> None:
    call = await start(client.kernel_info)
    request = await kernel.expect("kernel_info_request")
    for name in ("first", "second"):
        kernel.reply(request, implementation=name)
    assert (await call.result()).implementation == "first"
    assert client.refused == {}


@each_wait
async def test_cancelled_call_leaves_nothing_tracked(kernel, client, start, wait) -> None:
    call = await start(wait, client)
    await call.cancel()
    if wait not in (await_execution, iterate_execution):  # which can be waited for again
        assert nothing_is_tracked(client)


async def test_a_late_reply_to_a_cancelled_request_is_no_garbage(kernel, client, start) -> None:
    call = await start(client.kernel_info)
    request = await kernel.expect("kernel_info_request")
    await call.cancel()
    kernel.reply(request)
    assert client.refused == {}


# The state of the kernel.


async def test_the_kernel_is_busy_as_long_as_it_says(kernel, client) -> None:
    ours, theirs = kernel.message("x_request", {}), kernel.message("y_request", {})
    assert not client.busy
    kernel.status("busy", ours)
    kernel.status("busy", theirs)
    kernel.status("idle", ours)
    assert client.busy
    kernel.status("idle", theirs)
    assert not client.busy


async def test_the_kernels_info_is_known_once_it_is_ready(kernel, client, start) -> None:
    assert client.info is None
    call = await start(client.wait_for_ready)
    kernel.reply(await kernel.expect("kernel_info_request"), implementation="mine")
    kernel.status("starting")
    assert await call.result() is client.info


# Displays, which other executions may update.


DISPLAY = {"data": {"text/plain": "old"}, "metadata": {}, "transient": {"display_id": "id"}}
UPDATE = DISPLAY | {"data": {"text/plain": "new"}}


@pytest.mark.parametrize("whose", ["another execution's", "another client's", "nobody's"])
@pytest.mark.parametrize("when", ["before the end", "after the end"])
async def test_a_display_is_updated_by_others(kernel, client, start, whose, when) -> None:
    execution = client.execute("display")
    call = await start(await_it, execution)
    request = await kernel.expect("execute_request")
    kernel.send("iopub", "display_data", DISPLAY, request)
    if when == "after the end":
        kernel.finish(request)
        await call.result()
    async with client.execute("update"):
        other = {
            "another execution's": await kernel.expect("execute_request"),
            "another client's": kernel.message("execute_request", {"code": "update"}),
            "nobody's": None,
        }[whose]
        kernel.send("iopub", "update_display_data", UPDATE, other)
    if when == "before the end":
        kernel.finish(request)
        await call.result()
    assert (await execution).outputs[0].data == {"text/plain": "new"}


async def test_an_update_of_its_own_is_among_its_outputs_once(kernel, client) -> None:
    async with client.execute("display") as execution:
        request = await kernel.expect("execute_request")
        kernel.send("iopub", "display_data", DISPLAY, request)
        kernel.send("iopub", "update_display_data", UPDATE, request)
        kernel.finish(request)
        assert len([output async for output in execution]) == 2
        assert [output.data for output in (await execution).outputs] == [UPDATE["data"]]


async def await_it(awaitable):
    return await awaitable


async def test_call_waits_until_it_has_the_answer_or_is_cancelled(kernel, client, start) -> None:
    assert not client.waiting
    call = await start(await_it, client.execute("code"))
    request = await kernel.expect("execute_request")
    assert client.waiting
    kernel.finish(request)
    await call.result()
    assert not client.waiting
    with anyio.CancelScope() as scope:
        async with client.execute("code"):
            await kernel.expect("execute_request")
            assert client.waiting
            scope.cancel()
            await checkpoint()
    assert not client.waiting


async def test_message_of_another_client_is_forwarded_unchanged() -> None:
    header = Header(msg_id="theirs", msg_type="kernel_info_request", session="their own")
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            FakeKernel() as fake,
            fake.connect() as client,
            client.messages(channels=("shell",)) as messages,
        ):
            message = Message.build(header, {"un": "known"}, buffers=[b"x"])
            await client.forward(message, "shell")
            reply, _ = await anext(messages)
            assert reply.parent_header == header
            assert tuple(map(bytes, fake.received[0].message.parts)) == message.parts
            assert nothing_is_tracked(client)
