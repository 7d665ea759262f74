# ruff: noqa: PT012, PT031 (whole blocks raise in these tests)
from __future__ import annotations

import gc
import itertools
import time
import warnings
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.client import execution as module
from kernelproto.client import open_client
from kernelproto.exceptions import (
    ClientClosed,
    KernelDied,
    LocalProtocolError,
    MalformedMessage,
    OutputOverflow,
)
from kernelproto.wire.content import ErrorOutput
from tests.client.conftest import (
    execution_result,
    nothing_is_tracked,
    outputs_of,
    outputs_until_failure,
    text,
)

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


# Its end: reply and idle come from different sockets.


@pytest.mark.parametrize(
    "order", list(itertools.permutations(["output", "reply", "idle"])), ids="-".join
)
async def test_it_ends_with_reply_and_idle_in_whichever_order(client, kernel, run, order) -> None:
    _, call, request = await run()
    say = {
        "output": lambda: kernel.stream(request, "hello"),
        "reply": lambda: kernel.reply(request, execution_count=3),
        "idle": lambda: kernel.status("idle", request),
    }
    kernel.status("busy", request)
    for number, word in enumerate(order):
        assert not call.ended or set(order[:number]) == {"reply", "idle"}
        say[word]()
        await checkpoint()
    result = await call.result()
    assert result.status == "ok"
    assert result.execution_count == 3
    assert result.outputs_complete
    # Output after the end is late; a background thread may write it.
    assert result.outputs == ([] if order[-1] == "output" else [text("hello")])
    assert nothing_is_tracked(client)
    assert not client.refused


async def test_outputs_do_not_wake_a_task_that_awaits_the_result(kernel, run) -> None:
    execution, call, request = await run()
    news = execution._news._next  # the awaiting task waits for it
    kernel.status("busy", request)
    kernel.stream(request, "a part")
    kernel.reply(request)
    assert not news.is_set()
    kernel.status("idle", request)
    assert news.is_set()
    assert (await call.result()).stdout == "a part"


async def test_one_task_awaits_the_result_and_another_one_iterates(kernel, run, start) -> None:
    execution, result, request = await run()
    outputs = await start(outputs_of, execution)
    for number in range(3):
        kernel.stream(request, f"{number}")
        await checkpoint()
    kernel.finish(request)
    assert await outputs.result() == [text("0"), text("1"), text("2")]
    assert (await result.result()).stdout == "012"


async def test_late_outputs_disturb_no_execution(client, kernel, run) -> None:
    _, call, request = await run()
    kernel.finish(request)
    assert (await call.result()).outputs == []
    _, call, next_request = await run()
    kernel.stream(request, "late")
    kernel.stream(next_request, "in time")
    kernel.finish(next_request)
    assert (await call.result()).outputs == [text("in time")]
    assert not client.refused


@pytest.mark.parametrize("status", ["aborted", "abort"])
@pytest.mark.parametrize("idle_first", [False, True], ids=["without idle", "idle first"])
async def test_an_aborted_one_ends_with_its_reply(client, kernel, run, status, idle_first) -> None:
    _, call, request = await run()
    if idle_first:
        kernel.status("idle", request)
    kernel.reply(request, status=status)
    assert (await call.result()).status == "aborted"
    assert nothing_is_tracked(client)


async def test_an_error_in_the_code_is_no_exception(kernel, run) -> None:
    _, call, request = await run()
    error = {"ename": "ValueError", "evalue": "bad", "traceback": ["line"]}
    kernel.send("iopub", "error", error, request)
    kernel.finish(request, status="error", **error)
    result = await call.result()
    assert result.status == "error"
    assert result.error == ErrorOutput(**error)
    assert result.outputs == [ErrorOutput(**error)]


@pytest.mark.parametrize(
    ("msg_type", "content"),
    [("execute_reply", {"execution_count": "many"}), ("inspect_reply", {"status": "ok"})],
    ids=["unreadable content", "another reply"],
)
async def test_a_malformed_reply_is_raised(client, kernel, run, msg_type, content) -> None:
    execution, call, request = await run()
    kernel.send("shell", msg_type, content, request)
    kernel.status("idle", request)
    assert isinstance(await call.failure(), MalformedMessage)
    with pytest.raises(MalformedMessage):
        await execution
    assert nothing_is_tracked(client)


async def test_a_malformed_output_is_refused_and_the_others_stay(client, kernel, run) -> None:
    _, call, request = await run()
    kernel.stream(request, "before")
    kernel.send("iopub", "stream", {"name": [], "text": {}}, request)
    kernel.stream(request, "after")
    kernel.finish(request)
    assert (await call.result()).stdout == "beforeafter"
    assert client.refused == {"MalformedMessage": 1}


# Its three ways of use.


async def test_it_is_sent_when_it_is_awaited(client, kernel, start, all_blocked) -> None:
    execution = client.execute("1 + 1")
    await all_blocked()
    assert execution.msg_id is None
    call = await start(execution_result, execution)
    request = await kernel.expect("execute_request")
    assert request.content.code == "1 + 1"
    assert execution.msg_id == request.msg_id
    result = {"data": {"text/plain": "2"}, "metadata": {}, "execution_count": 1}
    kernel.send("iopub", "execute_result", result, request)
    kernel.finish(request)
    assert (await call.result()).text == "2"


async def test_it_gives_outputs_as_they_come(kernel, client, start, all_blocked) -> None:
    execution = client.execute("code")
    read = []

    async def iterate() -> None:
        async for output in execution:
            read.append(output)

    call = await start(iterate)
    request = await kernel.expect("execute_request")
    for number in range(3):
        kernel.stream(request, f"{number}")
        await all_blocked()
        assert read[-1] == text(f"{number}")
    kernel.finish(request)
    await call.result()
    assert len(read) == 3


async def test_outputs_may_be_iterated_after_the_end(kernel, run) -> None:
    execution, call, request = await run()
    kernel.stream(request, "hello")
    kernel.finish(request)
    await call.result()
    assert await outputs_of(execution) == [text("hello")]
    assert await outputs_of(execution) == []


async def test_iterated_first_the_result_is_there_at_once(kernel, client, start) -> None:
    execution = client.execute("code")
    call = await start(outputs_of, execution)
    request = await kernel.expect("execute_request")
    kernel.stream(request, "hello")
    kernel.finish(request, execution_count=1)
    assert await call.result() == [text("hello")]
    result = await execution
    assert result.outputs == [text("hello")]
    assert result.outputs_complete


async def test_breaking_out_of_the_iteration_loses_nothing(kernel, client, start) -> None:
    execution = client.execute("code")

    async def first() -> object:
        async for output in execution:
            return output
        raise AssertionError("there was none")

    call = await start(first)
    request = await kernel.expect("execute_request")
    for number in range(3):
        kernel.stream(request, f"{number}")
    assert await call.result() == text("0")
    kernel.finish(request)
    assert await outputs_of(execution) == [text("1"), text("2")]
    assert (await execution).stdout == "012"


async def test_it_is_sent_when_it_is_entered(kernel, client) -> None:
    async with client.execute("code") as execution:
        request = await kernel.expect("execute_request")
        kernel.stream(request, "hello")
        kernel.finish(request)
        assert (await execution).stdout == "hello"
    assert (await execution).stdout == "hello"
    assert nothing_is_tracked(client)


async def test_leaving_its_block_early_gives_up_on_it(kernel, client, start) -> None:
    async with client.execute("code") as execution:
        request = await kernel.expect("execute_request")
        kernel.stream(request, "in time")
        call = await start(execution_result, execution)
    assert isinstance(await call.failure(), ClientClosed)
    assert nothing_is_tracked(client)
    kernel.stream(request, "late")
    kernel.finish(request)
    with pytest.raises(ClientClosed, match="the execution's block was left before its end"):
        await execution
    assert execution.outputs == [text("in time")]
    assert not client.refused


async def test_leaving_its_block_by_an_exception_gives_up_on_it(kernel, client) -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as raised:
        async with client.execute("code"):
            await kernel.expect("execute_request")
            raise error
    assert raised.value is error
    assert nothing_is_tracked(client)


async def test_leaving_its_block_does_not_interrupt_the_kernel(kernel, client, start) -> None:
    async with client.execute("code"):
        await kernel.expect("execute_request")
    call = await start(client.kernel_info)
    request = await kernel.expect("kernel_info_request")  # and nothing before
    kernel.reply(request)
    await call.result()


async def test_it_can_be_awaited_again(kernel, run) -> None:
    execution, call, request = await run()
    kernel.stream(request, "hello")
    kernel.finish(request)
    assert await call.result() == await execution == await execution


async def test_several_tasks_may_await_it(kernel, run, start) -> None:
    execution, first, request = await run()
    second = await start(execution_result, execution)
    kernel.stream(request, "hello")
    await checkpoint()
    kernel.finish(request)
    assert await first.result() == await second.result()
    assert (await first.result()).stdout == "hello"


async def test_several_tasks_may_iterate_and_each_output_comes_once(kernel, client, start) -> None:
    execution = client.execute("code")
    calls = [await start(outputs_of, execution) for _ in range(3)]
    request = await kernel.expect("execute_request")
    for number in range(10):
        kernel.stream(request, f"{number}")
        await checkpoint()
    kernel.finish(request)
    read = [output for call in calls for output in await call.result()]
    assert sorted(read, key=repr) == [text(f"{number}") for number in range(10)]


async def test_cancelled_it_can_be_awaited_again(kernel, run) -> None:
    execution, call, request = await run()
    await call.cancel()
    kernel.stream(request, "meanwhile")
    kernel.finish(request)
    assert (await execution).stdout == "meanwhile"


async def test_cancelling_one_waiting_task_leaves_the_others(kernel, run, start) -> None:
    execution, first, request = await run()
    second = await start(execution_result, execution)
    await first.cancel()
    kernel.finish(request)
    assert (await second.result()).status == "ok"


async def test_a_cancelled_task_sends_nothing(kernel, client, start) -> None:
    execution = client.execute("code")
    with anyio.CancelScope() as scope:
        scope.cancel()
        await execution
    assert nothing_is_tracked(client)
    call = await start(execution_result, execution)
    kernel.finish(await kernel.expect("execute_request"))  # the first one
    assert (await call.result()).status == "ok"


async def test_a_tight_loop_over_outputs_lets_others_run(kernel, run) -> None:
    execution, call, request = await run()
    for _ in range(5000):
        kernel.stream(request, "x")
    kernel.finish(request)
    await call.result()
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(count_turns)
        assert len(await outputs_of(execution)) == 5000
        tasks.cancel_scope.cancel()
    assert turns >= 10


async def test_a_tight_loop_over_outputs_can_be_cancelled(kernel, run) -> None:
    execution, call, request = await run()
    for _ in range(5000):
        kernel.stream(request, "x")
    kernel.finish(request)
    await call.result()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await outputs_of(execution)
    assert scope.cancelled_caught


# When it is not used, or cannot be sent.


async def test_dropped_unused_it_warns(client) -> None:
    execution = client.execute("6 * 7")
    with pytest.warns(RuntimeWarning) as warned:
        del execution
        gc.collect()
    assert [str(warning.message) for warning in warned] == [
        "the execution of '6 * 7' was never awaited"
    ]


@pytest.mark.parametrize("use", ["await", "async for", "async with"])
async def test_used_it_does_not_warn(kernel, client, use) -> None:
    async def use_it() -> None:
        execution = client.execute("code")
        if use == "await":
            await execution
        elif use == "async for":
            await outputs_of(execution)
        else:
            async with execution:
                await anyio.sleep_forever()

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with anyio.move_on_after(0):
            await use_it()
        gc.collect()
    assert warned == []


async def test_code_that_cannot_be_written_raises_each_time(client) -> None:
    execution = client.execute("code", user_expressions={"x": object()})
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="cannot be written as JSON"):
            await execution
    assert nothing_is_tracked(client)


async def test_sent_again_by_another_task_it_misses_nothing(kernel, start) -> None:
    """The sending task is cancelled, and the request of the next task is answered."""

    class Channels:
        sent = 0

        async def send(self, channel: str, frames: list[bytes]) -> None:
            self.sent += 1
            if self.sent == 1:
                await anyio.sleep_forever()
            kernel.finish(kernel.codec.decode(frames))
            await checkpoint()

        def abandon(self) -> None:
            pass

    @asynccontextmanager
    async def open_channels(*args, **options):
        async with kernel.transport.open_channels(*args, **options):
            yield Channels()

    async with open_client(kernel.info, open_channels=open_channels) as client:
        execution = client.execute("code")
        first, second = [await start(execution_result, execution) for _ in range(2)]
        await first.cancel()
        assert (await second.result()).status == "ok"


# Its state, and kernels that do not report "idle".


async def test_state_shows_the_progress(client, kernel, start) -> None:
    execution = client.execute("code")
    assert execution.state == "prepared"
    call = await start(execution_result, execution)
    request = await kernel.expect("execute_request")
    assert execution.state == "queued"
    kernel.status("busy", request)
    assert execution.state == "running"
    kernel.reply(request)
    assert execution.state == "running"
    kernel.status("idle", request)
    assert execution.state == "done"
    await call.result()


async def test_silence_after_the_reply_may_count_as_the_end(client, kernel, run) -> None:
    _, call, request = await run(idle_timeout=0)
    kernel.stream(request, "before")
    kernel.reply(request, execution_count=1)
    result = await call.result()
    assert result.execution_count == 1
    assert result.stdout == "before"
    assert not result.outputs_complete
    assert nothing_is_tracked(client)
    kernel.stream(request, "late")
    kernel.status("idle", request)
    assert not client.refused


async def test_idle_in_time_makes_the_result_complete(kernel, run) -> None:
    _, call, request = await run(idle_timeout=GUARD_SECONDS)
    kernel.reply(request)
    kernel.stream(request, "after the reply")
    kernel.status("idle", request)
    result = await call.result()
    assert result.stdout == "after the reply"
    assert result.outputs_complete


async def test_unread_messages_of_a_busy_application_are_not_silence(
    kernel, run, monkeypatch
) -> None:
    monkeypatch.setattr(module, "CATCHING_UP_SECONDS", GUARD_SECONDS)

    async def let_in() -> None:
        for _ in range(3):
            await checkpoint()
        kernel.stream(request, "here all the time")
        kernel.status("idle", request)

    _, call, request = await run(idle_timeout=0.05)
    async with anyio.create_task_group() as tasks:
        kernel.reply(request)
        tasks.start_soon(let_in)
        time.sleep(0.1)  # noqa: ASYNC251 (that is how applications are)
        result = await call.result()
    assert result.stdout == "here all the time"
    assert result.outputs_complete


# Kernels that send outputs after reply and idle.


async def test_outputs_that_trail_are_in_the_result(client, kernel, run, monkeypatch) -> None:
    monkeypatch.setattr(module, "CATCHING_UP_SECONDS", 0.05)
    client._dispatcher.conversation.trailing_seconds = 0.05
    _, call, request = await run()
    kernel.finish(request, execution_count=1)
    kernel.stream(request, "late")
    result = await call.result()
    assert (result.stdout, result.execution_count) == ("late", 1)
    assert result.outputs_complete
    assert nothing_is_tracked(client)


async def test_outputs_that_trail_are_iterated_over(client, kernel, start, monkeypatch) -> None:
    monkeypatch.setattr(module, "CATCHING_UP_SECONDS", 0.05)
    client._dispatcher.conversation.trailing_seconds = 0.05
    call = await start(outputs_of, client.execute("code"))
    request = await kernel.expect("execute_request")
    kernel.finish(request)
    kernel.stream(request, "late")
    assert await call.result() == [text("late")]


async def test_idle_timeout_does_not_end_trailing_outputs(client, kernel, run, all_blocked) -> None:
    client._dispatcher.conversation.trailing_seconds = GUARD_SECONDS
    execution, call, request = await run(idle_timeout=0)
    kernel.finish(request)
    await all_blocked()
    kernel.stream(request, "late")
    await all_blocked()
    assert not call.ended
    assert execution.outputs == [text("late")]


async def test_aborted_execution_has_no_trailing_outputs(client, kernel, run) -> None:
    client._dispatcher.conversation.trailing_seconds = GUARD_SECONDS
    _, call, request = await run()
    kernel.reply(request, status="aborted")
    assert (await call.result()).status == "aborted"


async def test_trailing_execution_is_not_interrupted(client, kernel, run, start) -> None:
    """Some kernels die of an interrupt when they run nothing."""
    client._dispatcher.conversation.trailing_seconds = GUARD_SECONDS
    _, call, request = await run(interrupt_on_cancel=True)
    kernel.finish(request)
    await call.cancel()
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()


# Too much output.


@pytest.fixture
def tight(kernel):
    """Give a client that keeps no more than three outputs of an execution unread."""
    size = sum(map(len, kernel.message("stream", {"name": "stdout", "text": "x"}).parts))
    return kernel.client(output_limit=4 * (size + 500 + 200) - 1)


async def test_unread_outputs_beyond_the_limit_end_the_waiting(kernel, tight, start) -> None:
    async with tight as client:
        execution = client.execute("code")
        call = await start(execution_result, execution)
        request = await kernel.expect("execute_request")
        for _ in range(100):
            kernel.stream(request, "x")
        error = await call.failure()  # long before its end
        assert isinstance(error, OutputOverflow)
        kept = len(execution.outputs)
        assert error.discarded_messages == 100 - kept
        assert 0 < kept < 10
        assert await outputs_until_failure(execution) == ([text("x")] * kept, OutputOverflow)
        kernel.finish(request)
        with pytest.raises(OutputOverflow):
            await execution
        assert nothing_is_tracked(client)


async def test_an_overflow_stalls_no_other_execution(kernel, tight, start) -> None:
    async with tight as client:
        slow, quick = client.execute("slow"), client.execute("quick")
        async with slow:
            slow_request = await kernel.expect("execute_request")
            call = await start(execution_result, quick)
            quick_request = await kernel.expect("execute_request")
            for _ in range(100):
                kernel.stream(slow_request, "x")
            kernel.stream(quick_request, "y")
            kernel.finish(quick_request)
            assert (await call.result()).stdout == "y"


async def test_read_outputs_beyond_the_limit_only_make_the_result_incomplete(
    kernel, tight, start
) -> None:
    async with tight as client:
        execution = client.execute("code")
        call = await start(outputs_of, execution)
        request = await kernel.expect("execute_request")
        for number in range(100):
            kernel.stream(request, f"{number % 10}")
            await checkpoint()
            await checkpoint()
        kernel.finish(request)
        assert len(await call.result()) == 100
        result = await execution
        assert not result.outputs_complete
        assert result.stdout in "0123456789" * 10
        assert len(result.stdout) < 10


# The end of the kernel, or of the client.


async def test_outputs_received_before_the_kernel_died_can_be_read(kernel, client) -> None:
    async with client.execute("code") as execution:
        request = await kernel.expect("execute_request")
        kernel.stream(request, "last words")
        client.fail(KernelDied("gone", returncode=-9))
        assert await outputs_until_failure(execution) == ([text("last words")], KernelDied)
        with pytest.raises(KernelDied, match="gone"):
            await execution
        assert execution.outputs == [text("last words")]


async def test_execution_that_ended_before_the_kernel_died_has_its_result(
    kernel, client, run
) -> None:
    execution, call, request = await run()
    kernel.finish(request)
    await call.result()
    client.fail(KernelDied("gone"))
    assert (await execution).status == "ok"


async def test_not_sent_before_the_kernel_died_it_fails_at_once(client) -> None:
    execution = client.execute("code")
    client.fail(KernelDied("gone"))
    for _ in range(2):
        with pytest.raises(KernelDied):
            await execution
