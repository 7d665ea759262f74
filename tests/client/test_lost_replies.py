from __future__ import annotations

import anyio
import pytest

from kernelproto.client import lost_replies as module
from kernelproto.client import reply
from kernelproto.exceptions import ClientClosed, ReplyLost, UnsupportedRequest
from kernelproto.wire import fences
from kernelproto.wire.content import ExecuteRequest, Stream
from tests.client.conftest import execution_result, nothing_is_tracked

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look often, so that a silence is short."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(module, "CATCHING_UP_SECONDS", 0.02)


@pytest.fixture
def impatient(monkeypatch):
    """Send a fence after a few looks; for tests with one execution."""
    monkeypatch.setattr(fences, "_PATIENCE_LOOKS", 4)


@pytest.fixture
def execute(client, kernel, start):
    """Give a function that has code executed; it returns execution, call and request."""

    async def execute(**options):
        execution = client.execute("code", **options)
        call = await start(execution_result, execution)
        return execution, call, await kernel.expect("execute_request")

    return execute


async def answer(kernel, msg_type, channel="shell"):
    """Wait for a request, and serve it as a kernel does that has nothing else to do."""
    request = await kernel.expect(msg_type, channel)
    kernel.status("busy", request)
    kernel.reply(request)
    kernel.status("idle", request)
    return request


async def forgotten(client) -> None:
    """Wait until the client waits for nothing any more."""
    with anyio.fail_after(GUARD_SECONDS):
        while not nothing_is_tracked(client):  # noqa: ASYNC110 (it forgets the fences by and by)
            await anyio.sleep(0.01)


# After its own "idle".


async def test_reply_that_never_comes_is_lost_once_a_fence_is_answered(
    client, kernel, execute
) -> None:
    execution, call, request = await execute()
    kernel.status("busy", request)
    kernel.stream(request, "printed")
    kernel.status("idle", request)
    await answer(kernel, "kernel_info_request")
    error = await call.failure()
    assert isinstance(error, ReplyLost)
    assert str(error) == (
        "the kernel executed the code and sent no reply: the outcome is unknown, the outputs "
        "were kept"
    )
    assert (error.result.status, error.result.stdout) == ("unknown", "printed")
    assert error.result.outputs_complete
    assert execution.outputs == [Stream("stdout", "printed")]
    assert execution.state == "done"
    assert nothing_is_tracked(client)


async def test_error_among_the_outputs_is_the_error_of_the_result(kernel, execute) -> None:
    _, call, request = await execute()
    content = {"ename": "KeyboardInterrupt", "evalue": "", "traceback": []}
    kernel.send("iopub", "error", content, request)
    kernel.status("idle", request)
    await answer(kernel, "kernel_info_request")
    error = await call.failure()
    assert (error.result.status, error.result.error.ename) == ("error", "KeyboardInterrupt")


async def test_outputs_can_be_iterated_over_before_the_error(client, kernel, start) -> None:
    seen = []

    async def iterate() -> None:
        async for output in client.execute("code"):
            seen.append(output.text)

    call = await start(iterate)
    request = await kernel.expect("execute_request")
    kernel.stream(request, "seen")
    kernel.status("idle", request)
    await answer(kernel, "kernel_info_request")
    assert isinstance(await call.failure(), ReplyLost)
    assert seen == ["seen"]


async def test_reply_that_is_only_late_is_taken(kernel, execute) -> None:
    _, call, request = await execute()
    kernel.status("idle", request)
    await kernel.expect("kernel_info_request")  # the kernel has not come to it yet
    kernel.reply(request)
    assert (await call.result()).status == "ok"


async def test_kernel_that_works_on_something_else_needs_no_fence(kernel, execute) -> None:
    _, call, request = await execute()
    kernel.status("busy", request)
    kernel.status("idle", request)
    kernel.status("busy", kernel.message("execute_request", {}))  # another client's
    assert isinstance(await call.failure(), ReplyLost)


async def test_later_reply_proves_the_loss_at_once(kernel, execute, monkeypatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", GUARD_SECONDS)
    _, lost, request = await execute()
    _, later, next_request = await execute()
    kernel.status("idle", request)
    kernel.status("busy", next_request)
    kernel.reply(next_request)
    assert isinstance(await lost.failure(), ReplyLost)
    kernel.status("idle", next_request)
    assert (await later.result()).status == "ok"


async def test_fence_goes_to_the_same_subshell(kernel, execute) -> None:
    _, call, request = await execute(subshell_id="a subshell")
    kernel.status("idle", request)
    fence = await answer(kernel, "kernel_info_request")
    assert fence.header.subshell_id == "a subshell"
    assert isinstance(await call.failure(), ReplyLost)


async def test_one_fence_is_enough_for_many(kernel, execute) -> None:
    calls = []
    for _ in range(5):
        _, call, request = await execute()
        kernel.status("idle", request)
        calls.append(call)
    await answer(kernel, "kernel_info_request")
    for call in calls:
        assert isinstance(await call.failure(), ReplyLost)


# Before "idle" and reply.


async def test_lost_reply_and_idle_are_found_by_two_fences(client, kernel, execute) -> None:
    _, call, request = await execute()
    kernel.status("busy", request)
    kernel.stream(request, "printed")
    await answer(kernel, "kernel_info_request")
    fence = await answer(kernel, "execute_request")
    assert fence.content == ExecuteRequest(
        code="", silent=True, store_history=False, allow_stdin=False, stop_on_error=False
    )
    error = await call.failure()
    assert isinstance(error, ReplyLost)
    assert "began to execute the code" in str(error)
    assert (error.result.stdout, error.result.outputs_complete) == ("printed", False)
    assert nothing_is_tracked(client)
    assert not client.busy


async def test_lost_request_is_found_by_two_fences(kernel, execute) -> None:
    _, call, _ = await execute()
    await answer(kernel, "kernel_info_request")
    await answer(kernel, "execute_request")
    error = await call.failure()
    assert isinstance(error, ReplyLost)
    assert "never reported that it executes the code" in str(error)


async def test_running_code_with_fences_after_it_is_not_interrupted(
    client, kernel, execute, impatient
) -> None:
    """Neither is answered before the code has ended."""
    _, call, request = await execute()
    kernel.status("busy", request)
    fences = [await kernel.expect("kernel_info_request") for _ in range(4)]
    assert not call.ended
    kernel.finish(request)
    assert (await call.result()).status == "ok"
    for fence in fences:
        kernel.reply(fence)
    await forgotten(client)


async def test_kernel_that_answers_beside_the_code_is_no_proof(kernel, execute) -> None:
    _, call, request = await execute()
    kernel.status("busy", request)
    await answer(kernel, "kernel_info_request")
    await kernel.expect("execute_request")  # which waits behind the code
    kernel.stream(request, "I run")
    kernel.finish(request)
    assert (await call.result()).stdout == "I run"


async def test_sign_of_life_saves_an_overtaken_execution(kernel, execute) -> None:
    _, slow, request = await execute()
    kernel.status("busy", request)
    _, quick, next_request = await execute()
    kernel.finish(next_request)
    await quick.result()
    kernel.stream(request, "I run")
    kernel.finish(request)
    assert (await slow.result()).stdout == "I run"


async def test_kernel_that_runs_executions_side_by_side_is_waited_for(
    client, kernel, execute, start
) -> None:
    client._dispatcher.conversation.side_by_side = True
    _, slow, request = await execute()
    kernel.status("busy", request)
    _, quick, next_request = await execute()
    kernel.finish(next_request)
    await quick.result()
    for _ in range(3 * fences._PATIENCE_LOOKS):
        await anyio.sleep(module.LOOK_SECONDS)  # in which a fence would be sent
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()
    assert not slow.ended
    kernel.finish(request)
    await slow.result()


async def test_aborted_fence_is_repeated(kernel, execute, impatient) -> None:
    _, call, _ = await execute()
    await answer(kernel, "kernel_info_request")
    kernel.reply(await kernel.expect("execute_request"), status="aborted")
    await answer(kernel, "kernel_info_request")
    await answer(kernel, "execute_request")
    assert isinstance(await call.failure(), ReplyLost)


async def test_interrupt_makes_the_fence_come_soon(kernel, client, execute, start, monkeypatch):
    monkeypatch.setattr(fences, "_PATIENCE_LOOKS", 10**9)
    _, call, request = await execute()
    kernel.status("busy", request)
    kernel.stream(request, "I run")
    interrupting = await start(client.interrupt)
    kernel.reply(await kernel.expect("interrupt_request", "control"), "control")
    await interrupting.result()
    while not call.ended:
        with anyio.move_on_after(0.1):
            message = (await kernel.receive())[1]
            kernel.status("busy", message)
            kernel.reply(message)
            kernel.status("idle", message)
    assert isinstance(await call.failure(), ReplyLost)


# After the reply.


async def test_lost_idle_is_found_by_a_later_execution(kernel, execute, monkeypatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", GUARD_SECONDS)
    _, first, request = await execute()
    kernel.status("busy", request)
    kernel.stream(request, "printed")
    kernel.reply(request, execution_count=1)
    _, later, next_request = await execute()
    kernel.status("busy", next_request)
    kernel.finish(next_request)
    await later.result()
    result = await first.result()
    assert (result.status, result.stdout) == ("ok", "printed")
    assert not result.outputs_complete


async def test_lost_idle_is_found_by_two_fences(kernel, execute) -> None:
    _, call, request = await execute()
    kernel.reply(request)
    await answer(kernel, "kernel_info_request")
    await answer(kernel, "execute_request")
    assert not (await call.result()).outputs_complete


# Around it.


async def test_closing_ends_the_watching(kernel, start) -> None:
    async with kernel.client() as client:
        call = await start(execution_result, client.execute("code"))
        await kernel.expect("execute_request")
        await kernel.expect("kernel_info_request")
    assert isinstance(await call.failure(), ClientClosed)


async def test_execution_that_was_given_up_has_no_fence_any_more(client, kernel, start) -> None:
    async with client.execute("code"):
        await kernel.expect("execute_request")
        await kernel.expect("kernel_info_request")
    await forgotten(client)


async def test_execute_request_that_is_sent_as_any_other_request_ends_too(
    client, kernel, start, monkeypatch
) -> None:
    monkeypatch.setattr(reply, "_FENCE_SECONDS", 0.05)
    call = await start(client.request, "execute_request", {"code": "code"})
    request = await kernel.expect("execute_request")
    kernel.status("busy", request)
    client._dispatcher.give_up(next(client._dispatcher.conversation.open_requests()))
    assert isinstance(await call.failure(), UnsupportedRequest)


async def test_execution_that_is_left_in_the_meantime_is_not_given_up(client, kernel) -> None:
    async with client.execute("code"):
        await kernel.expect("execute_request")
        (request,) = client._dispatcher.conversation.open_requests()
    client._dispatcher.give_up(request)
    assert nothing_is_tracked(client)
