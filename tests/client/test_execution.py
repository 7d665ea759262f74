# ruff: noqa: PT012, PT031 (what whole blocks raise is the subject here)
from __future__ import annotations

import functools
import gc
import itertools
import threading
import time
import warnings
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.client import execution as module
from kernelproto.client import open_client, stopping
from kernelproto.exceptions import (
    ClientClosed,
    ExecutionTimeout,
    KernelDied,
    KernelUnresponsive,
    LocalProtocolError,
    MalformedMessage,
    OutputOverflow,
)
from kernelproto.timeouts import Timeouts
from kernelproto.wire.content import ErrorOutput, InputRequest, Stream

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


def text(text: str) -> Stream:
    return Stream("stdout", text)


@pytest.fixture
def run(client, kernel, start):
    """Give a function that has code executed: the execution, the task that awaits it, the request.

    The code is of no interest, because the kernel does what it is told.
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
    # What is written after the end is late: a background thread's, say.
    assert result.outputs == ([] if order[-1] == "output" else [text("hello")])
    assert nothing_is_tracked(client)
    assert not client.refused


async def test_who_awaits_the_result_is_woken_by_nothing_but_the_end(kernel, run) -> None:
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


async def test_late_outputs_disturb_nobody(client, kernel, run) -> None:
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


async def test_cancelling_one_who_waits_leaves_the_others(kernel, run, start) -> None:
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


async def test_code_that_cannot_be_written_is_told_each_time(client) -> None:
    execution = client.execute("code", user_expressions={"x": object()})
    for _ in range(2):
        with pytest.raises(LocalProtocolError, match="cannot be written as JSON"):
            await execution
    assert nothing_is_tracked(client)


async def test_sent_again_by_another_task_it_misses_nothing(kernel, start) -> None:
    """The task that sends is cancelled, and what the next one sends is answered meanwhile."""

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


# Input.


@pytest.fixture
def ask_for_input(run, kernel, all_blocked):
    """Give a function that has code executed which asks for input, like ``run``."""

    async def ask_for_input(on_input, prompt: str = "? "):
        execution, call, request = await run(on_input=on_input)
        kernel.ask(request, prompt)
        await all_blocked()
        return execution, call, request

    return ask_for_input


class Person:
    """Answers when the test wants it, and remembers the questions."""

    def __init__(self) -> None:
        self.asked: list[InputRequest] = []
        self.given_up = 0
        self.answer = "answer"
        self.ready = anyio.Event()

    async def ask(self, question: InputRequest) -> str:
        self.asked.append(question)
        try:
            await self.ready.wait()
        except anyio.get_cancelled_exc_class():
            self.given_up += 1
            raise
        return self.answer


@pytest.fixture
def person() -> Person:
    return Person()


async def answer(question: InputRequest) -> str:
    return f"answer to {question.prompt}"


class Answering:
    async def __call__(self, question: InputRequest) -> str:
        return await answer(question)


def answer_in_a_thread(question: InputRequest) -> str:
    assert threading.current_thread() is not threading.main_thread()
    return f"answer to {question.prompt}"


@pytest.mark.parametrize(
    "on_input",
    [
        answer,
        answer_in_a_thread,
        functools.partial(answer),
        lambda question: answer(question),
        Answering(),
    ],
    ids=["async", "plain", "partial", "plain that returns an awaitable", "async object"],
)
@pytest.mark.parametrize("use", ["await", "async for"])
async def test_input_is_asked_for(kernel, client, start, on_input, use) -> None:
    execution = client.execute("code", on_input=on_input)
    wait = execution_result if use == "await" else outputs_of
    call = await start(wait, execution)
    request = await kernel.expect("execute_request")
    assert request.content.allow_stdin
    kernel.ask(request, "name?")
    reply = await kernel.expect("input_reply", "stdin")
    assert reply.content.value == "answer to name?"
    assert reply.parent_header is not None
    assert reply.parent_header.msg_type == "input_request"
    kernel.finish(request)
    await call.result()


async def test_a_question_has_its_prompt_and_whether_it_is_secret(kernel, run, person) -> None:
    _, _, request = await run(on_input=person.ask)
    person.ready.set()
    kernel.send("stdin", "input_request", {"prompt": "secret?", "password": True}, request)
    await kernel.expect("input_reply", "stdin")
    assert person.asked == [InputRequest("secret?", True)]


async def test_code_may_ask_several_times(kernel, ask_for_input, person) -> None:
    person.ready.set()
    _, call, request = await ask_for_input(person.ask, "one?")
    await kernel.expect("input_reply", "stdin")
    kernel.ask(request, "two?")
    await kernel.expect("input_reply", "stdin")
    kernel.finish(request)
    await call.result()
    assert [question.prompt for question in person.asked] == ["one?", "two?"]


async def test_nobody_is_asked_while_nobody_waits(kernel, client, person, all_blocked) -> None:
    person.ready.set()
    async with client.execute("code", on_input=person.ask) as execution:
        request = await kernel.expect("execute_request")
        kernel.ask(request)
        await all_blocked()
        assert person.asked == []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execution_result, execution)
            await kernel.expect("input_reply", "stdin")
            kernel.finish(request)
    assert len(person.asked) == 1


@pytest.mark.parametrize("on_input", [True, False], ids=["with on_input", "without"])
async def test_a_question_that_was_not_allowed_gets_an_empty_answer(
    kernel, run, person, caplog, on_input
) -> None:
    _, call, request = await run(allow_stdin=False, on_input=person.ask if on_input else None)
    question = kernel.ask(request, "name? ")
    reply = await kernel.expect("input_reply", "stdin")
    assert reply.content.value == ""
    assert reply.parent_header.msg_id == question.msg_id
    kernel.finish(request)
    assert (await call.result()).status == "ok"
    assert person.asked == []
    assert caplog.messages == ["the kernel asks 'name? ' and gets no text: allow_stdin is False"]


async def test_a_kernel_that_asks_without_end_writes_few_lines(kernel, run, caplog) -> None:
    _, call, request = await run(allow_stdin=False)
    for _ in range(100):
        kernel.ask(request, "?" * 10_000)
        await kernel.expect("input_reply", "stdin")
    kernel.finish(request)
    assert (await call.result()).status == "ok"
    assert len(caplog.messages) == 7
    assert max(map(len, caplog.messages)) < 300


async def test_what_on_input_raises_is_raised_and_the_question_stays(
    kernel, ask_for_input, start
) -> None:
    errors = [EOFError("first"), KeyError("second")]

    async def fail_twice(question: InputRequest) -> str:
        if errors:
            raise errors.pop(0)
        return "at last"

    execution, call, request = await ask_for_input(fail_twice)
    assert isinstance(await call.failure(), EOFError)
    with pytest.raises(KeyError, match="second"):
        await execution
    call = await start(execution_result, execution)
    assert (await kernel.expect("input_reply", "stdin")).content.value == "at last"
    kernel.finish(request)
    assert (await call.result()).status == "ok"


async def test_an_answer_that_is_no_text_is_told(ask_for_input) -> None:
    async def count(question: InputRequest) -> int:
        return 42

    _, call, _ = await ask_for_input(count)
    error = await call.failure()
    assert isinstance(error, LocalProtocolError)
    assert str(error) == "on_input must return a str, not int"


async def test_an_unreadable_question_is_raised(kernel, run, person) -> None:
    _, call, request = await run(on_input=person.ask)
    kernel.send("stdin", "input_request", {"prompt": {}}, request)
    assert isinstance(await call.failure(), MalformedMessage)
    assert person.asked == []


async def test_a_reply_withdraws_the_question(kernel, ask_for_input, person) -> None:
    """The code was interrupted while it waited for input."""
    _, call, request = await ask_for_input(person.ask)
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    assert (await call.result()).error.ename == "KeyboardInterrupt"
    assert (len(person.asked), person.given_up) == (1, 1)


async def test_a_reply_withdraws_the_question_from_a_thread(kernel, ask_for_input) -> None:
    give_up = threading.Event()
    _, call, request = await ask_for_input(lambda question: str(give_up.wait(GUARD_SECONDS)))
    kernel.finish(request)
    try:
        assert (await call.result()).status == "ok"
    finally:
        give_up.set()


async def test_a_dying_kernel_withdraws_the_question(client, ask_for_input, person) -> None:
    _, call, _ = await ask_for_input(person.ask)
    client.fail(KernelDied("gone"))
    assert isinstance(await call.failure(), KernelDied)
    assert person.given_up == 1


async def test_a_new_question_makes_the_answer_to_the_old_one_void(
    kernel, ask_for_input, person, all_blocked
) -> None:
    _, _, request = await ask_for_input(person.ask, "old?")
    new = kernel.ask(request, "new?")
    await all_blocked()
    person.ready.set()
    reply = await kernel.expect("input_reply", "stdin")
    assert [question.prompt for question in person.asked] == ["old?", "new?"]
    assert reply.parent_header is not None
    assert reply.parent_header.msg_id == new.msg_id


async def test_cancelled_while_it_asks_it_asks_again(kernel, ask_for_input, person, start) -> None:
    execution, call, request = await ask_for_input(person.ask)
    await call.cancel()
    person.ready.set()
    call = await start(execution_result, execution)
    await kernel.expect("input_reply", "stdin")
    kernel.finish(request)
    await call.result()
    assert (len(person.asked), person.given_up) == (2, 1)


async def test_only_one_of_several_who_wait_asks(
    kernel, ask_for_input, person, start, all_blocked
) -> None:
    execution, first, request = await ask_for_input(person.ask)
    second = await start(execution_result, execution)
    person.ready.set()
    await kernel.expect("input_reply", "stdin")
    await all_blocked()
    kernel.finish(request)
    assert await first.result() == await second.result()
    assert len(person.asked) == 1


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_when_the_one_who_asks_has_gone_another_one_asks(
    kernel, ask_for_input, start, person, end
) -> None:
    async def fail_first(question: InputRequest) -> str:
        first_time = not person.asked
        answer = await person.ask(question)
        if first_time:
            raise EOFError
        return answer

    execution, first, request = await ask_for_input(fail_first)
    second = await start(execution_result, execution)
    if end == "cancelled":
        await first.cancel()
    person.ready.set()
    if end == "failed":
        assert isinstance(await first.failure(), EOFError)
    await kernel.expect("input_reply", "stdin")
    kernel.finish(request)
    assert (await second.result()).status == "ok"
    assert len(person.asked) == 2


async def test_an_answer_that_could_not_be_sent_is_asked_for_again(
    kernel, client, ask_for_input, person, start, all_blocked
) -> None:
    execution, call, request = await ask_for_input(person.ask)
    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(client.heartbeat)
        await all_blocked()
        person.ready.set()
        await all_blocked()  # there is no room for the answer
        await call.cancel()
        for _ in range(1000):
            await kernel.beat()
        tasks.cancel_scope.cancel()
    call = await start(execution_result, execution)
    await kernel.expect("input_reply", "stdin")
    kernel.finish(request)
    assert (await call.result()).status == "ok"
    assert len(person.asked) == 2


# Interrupting, and kernels that do not tell that they are idle.


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


async def test_state_tells_how_far_it_has_come(client, kernel, start) -> None:
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


async def test_after_its_time_the_code_is_interrupted_and_waited_for(kernel, run, quick) -> None:
    execution, call, request = await run(timeout=0.01)
    kernel.status("busy", request)
    kernel.stream(request, "so far")
    await next_interrupt(kernel)
    assert not call.ended
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    error = await call.failure()
    assert isinstance(error, ExecutionTimeout)
    assert isinstance(error, TimeoutError)
    assert (error.seconds, error.ename, error.restarted) == (0.01, "KeyboardInterrupt", False)
    assert (error.result.status, error.result.stdout) == ("error", "so far")
    assert str(error) == "the code ran for more than 0.01 s and was interrupted"
    assert await outputs_until_failure(execution) == ([text("so far")], ExecutionTimeout)
    with pytest.raises(ExecutionTimeout):
        await execution


async def test_time_in_the_queue_does_not_count(client, kernel, run, start, quick) -> None:
    first = await start(execution_result, client.execute("another's"))
    busy = await kernel.expect("execute_request")
    kernel.status("busy", busy)
    _, call, request = await run(timeout=0)
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()
    kernel.finish(busy)
    await first.result()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request)
    assert isinstance(await call.failure(), ExecutionTimeout)


async def test_code_that_ends_in_time_is_not_interrupted(kernel, client, run, start) -> None:
    _, call, request = await run(timeout=GUARD_SECONDS)
    kernel.status("busy", request)
    kernel.finish(request)
    assert (await call.result()).status == "ok"
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()


async def test_end_that_a_busy_application_has_not_let_in_is_in_time(
    kernel, client, run, start, monkeypatch, all_blocked
) -> None:
    monkeypatch.setattr(stopping, "CATCHING_UP_SECONDS", GUARD_SECONDS)
    _, call, request = await run(timeout=0)
    kernel.status("busy", request)
    await all_blocked()  # its time is up
    kernel.finish(request)
    assert (await call.result()).status == "ok"


async def test_an_interrupt_is_repeated_until_the_end(kernel, run, quick) -> None:
    _, call, request = await run(timeout=0)
    kernel.status("busy", request)
    for _ in range(3):
        await next_interrupt(kernel)
    kernel.finish(request)
    assert isinstance(await call.failure(), ExecutionTimeout)


async def test_an_interrupt_without_reply_does_not_end_the_waiting(kernel, run, quick) -> None:
    _, call, request = await run(timeout=0)
    kernel.status("busy", request)
    await kernel.expect("interrupt_request", "control")
    kernel.finish(request)
    assert isinstance(await call.failure(), ExecutionTimeout)


async def test_time_is_limited_although_no_task_waits(client, kernel, start, quick) -> None:
    execution = client.execute("code", timeout=0)
    call = await start(execution_result, execution)
    request = await kernel.expect("execute_request")
    await call.cancel()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request)
    with pytest.raises(ExecutionTimeout):
        await execution


async def test_code_that_ignores_interrupts_is_told_of(kernel, start, quick) -> None:
    async with kernel.client(timeouts=Timeouts(interrupt=0.1)) as client:
        execution = client.execute("code", timeout=0)
        call = await start(execution_result, execution)
        request = await kernel.expect("execute_request")
        kernel.status("busy", request)
        kernel.stream(request, "so far")
        await next_interrupt(kernel)
        error = await call.failure()
        assert isinstance(error, KernelUnresponsive)
        assert isinstance(error, TimeoutError)
        assert (error.seconds, error.result.status) == (0.1, "unknown")
        assert (error.result.stdout, error.result.outputs_complete) == ("so far", False)
        assert execution.state == "done"
        assert nothing_is_tracked(client)


async def test_interrupt_that_fails_is_logged_and_the_time_is_limited(
    kernel, start, quick, caplog
) -> None:
    async def interrupt() -> None:
        raise PermissionError("the kernel runs as another user")

    async with kernel.client(timeouts=Timeouts(interrupt=0.1)) as client:
        client.interrupter = interrupt
        call = await start(execution_result, client.execute("code", timeout=0))
        request = await kernel.expect("execute_request")
        kernel.status("busy", request)
        kernel.stream(request, "so far")
        assert isinstance(await call.failure(), KernelUnresponsive)
    assert "the kernel runs as another user" in caplog.text


async def test_reply_that_is_lost_with_the_interrupt_is_a_timeout(
    client, kernel, run, quick
) -> None:
    _, call, request = await run(timeout=0)
    kernel.status("busy", request)
    kernel.stream(request, "so far")
    await next_interrupt(kernel)
    kernel.status("idle", request)
    client._dispatcher.give_up(next(client._dispatcher.conversation.open_requests()))
    error = await call.failure()
    assert isinstance(error, ExecutionTimeout)
    assert (error.result.status, error.result.stdout) == ("unknown", "so far")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"timeout": -1}, "timeout must be seconds"),
        ({"timeout": float("nan")}, "timeout must be seconds"),
        ({"timeout": 1, "on_timeout": "explode"}, "on_timeout must be"),
        ({"on_timeout": "restart"}, "needs a timeout"),
        ({"timeout": 1, "on_timeout": "restart"}, "needs a Kernel"),
    ],
)
async def test_timeout_that_cannot_be_kept_is_refused(client, options, complaint) -> None:
    with pytest.raises(LocalProtocolError, match=complaint):
        client.execute("code", **options)


async def test_interrupt_strikes_code_that_runs(kernel, run, start) -> None:
    execution, call, request = await run()
    kernel.status("busy", request)
    kernel.stream(request, "I run")
    interrupting = await start(execution.interrupt)
    await next_interrupt(kernel)
    await interrupting.result()
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    assert (await call.result()).error.ename == "KeyboardInterrupt"


async def test_interrupt_of_a_queued_execution_waits_for_its_turn(
    client, kernel, run, start, quick
) -> None:
    first = await start(execution_result, client.execute("another's"))
    busy = await kernel.expect("execute_request")
    kernel.status("busy", busy)
    kernel.stream(busy, "I run")
    execution, call, request = await run()
    await execution.interrupt()
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()
    kernel.finish(busy)
    await first.result()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    assert (await call.result()).error.ename == "KeyboardInterrupt"


async def test_interrupt_before_it_is_sent_waits_for_its_turn(client, kernel, start, quick) -> None:
    execution = client.execute("code")
    await execution.interrupt()
    call = await start(execution_result, execution)
    request = await kernel.expect("execute_request")
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request)
    await call.result()


@pytest.mark.parametrize("aborted", [False, True], ids=["done", "aborted"])
async def test_interrupt_of_what_is_over_strikes_nothing(
    client, kernel, run, start, aborted
) -> None:
    execution, call, request = await run()
    if aborted:
        await execution.interrupt()
        kernel.status("busy", request)
        kernel.reply(request, status="aborted")
    else:
        kernel.finish(request)
    await call.result()
    await execution.interrupt()
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()


async def test_interrupt_of_the_kernel_that_comes_too_early_is_repeated(
    client, kernel, run, start, quick
) -> None:
    _, call, request = await run()
    interrupting = await start(client.interrupt_kernel)
    await next_interrupt(kernel)  # nothing runs yet
    await interrupting.result()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.finish(request)
    await call.result()


@pytest.mark.parametrize("state", ["another client's code", "its own code"])
async def test_interrupt_of_the_kernel_that_strikes_code_is_not_repeated(
    client, kernel, run, start, quick, state
) -> None:
    _, call, request = await run()
    if state == "its own code":
        kernel.status("busy", request)
        kernel.stream(request, "I run")
    else:
        kernel.status("busy", kernel.message("execute_request", {}))
    interrupting = await start(client.interrupt_kernel)
    await next_interrupt(kernel)
    await interrupting.result()
    kernel.finish(request)
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


async def test_what_a_busy_application_has_not_let_in_is_no_silence(
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


@pytest.mark.parametrize("in_block", [False, True], ids=["awaited", "in its block"])
async def test_cancelling_may_interrupt_and_wait_for_the_end(
    kernel, client, start, all_blocked, in_block, quick
) -> None:
    execution = client.execute("code", interrupt_on_cancel=True)

    async def use() -> None:
        if in_block:
            async with execution:
                await anyio.sleep_forever()
        else:
            await execution

    call = await start(use)
    request = await kernel.expect("execute_request")
    kernel.status("busy", request)
    call.scope.cancel()
    await next_interrupt(kernel)
    await all_blocked()
    assert not call.ended
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    await call.cancel()
    assert (await execution).error.ename == "KeyboardInterrupt"


async def test_cancelling_does_not_wait_for_ever_for_the_end(
    kernel, run, quick, monkeypatch
) -> None:
    monkeypatch.setattr(module, "_INTERRUPT_SECONDS", 0.3)
    execution, call, request = await run(interrupt_on_cancel=True)
    kernel.status("busy", request)
    await call.cancel()
    await kernel.expect("interrupt_request", "control")
    kernel.finish(request)
    assert (await execution).status == "ok"


@pytest.mark.parametrize("in_block", [False, True], ids=["awaited", "in its block"])
async def test_cancelling_in_the_queue_interrupts_when_its_turn_comes(
    kernel, client, start, in_block, quick
) -> None:
    first = await start(execution_result, client.execute("another's"))
    busy = await kernel.expect("execute_request")
    kernel.status("busy", busy)
    execution = client.execute("code", interrupt_on_cancel=True)

    async def use() -> None:
        if in_block:
            async with execution:
                await anyio.sleep_forever()
        else:
            await execution

    call = await start(use)
    request = await kernel.expect("execute_request")
    await call.cancel()  # at once
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()
    kernel.finish(busy)
    await first.result()
    kernel.status("busy", request)
    await next_interrupt(kernel)
    kernel.stream(request, "dropped, if its block was left")
    kernel.finish(request, status="error", ename="KeyboardInterrupt")
    if in_block:
        with pytest.raises(ClientClosed):
            await execution
    else:
        assert (await execution).error.ename == "KeyboardInterrupt"
    assert nothing_is_tracked(client)


async def test_cancelling_after_the_end_of_the_kernel_does_not_wait(
    client, run, all_blocked
) -> None:
    _, call, _ = await run(interrupt_on_cancel=True)
    call.scope.cancel()
    client.fail(KernelDied("gone"))
    await call.cancel()


async def test_what_has_replied_is_not_interrupted_any_more(
    kernel, client, run, start, all_blocked
) -> None:
    """The interrupt would hit whatever the kernel runs next."""
    _, call, request = await run(interrupt_on_cancel=True)
    kernel.reply(request)
    call.scope.cancel()
    await all_blocked()
    assert not call.ended
    kernel.status("idle", request)
    await call.cancel()
    info = await start(client.kernel_info)
    kernel.reply(await kernel.expect("kernel_info_request"))  # and nothing before
    await info.result()


# Kernels whose outputs trail behind reply and idle.


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


async def test_no_silence_is_too_short_for_what_trails(client, kernel, run, all_blocked) -> None:
    client._dispatcher.conversation.trailing_seconds = GUARD_SECONDS
    execution, call, request = await run(idle_timeout=0)
    kernel.finish(request)
    await all_blocked()
    kernel.stream(request, "late")
    await all_blocked()
    assert not call.ended
    assert execution.outputs == [text("late")]


async def test_nothing_trails_behind_what_was_aborted(client, kernel, run) -> None:
    client._dispatcher.conversation.trailing_seconds = GUARD_SECONDS
    _, call, request = await run()
    kernel.reply(request, status="aborted")
    assert (await call.result()).status == "aborted"


async def test_what_only_trails_is_not_interrupted(client, kernel, run, start) -> None:
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


async def outputs_until_failure(execution) -> tuple[list[object], type[Exception]]:
    outputs = []
    try:
        async for output in execution:
            outputs.append(output)
    except Exception as error:
        return outputs, type(error)
    raise AssertionError("it did not fail")


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


async def test_what_was_received_before_the_kernel_died_can_be_read(kernel, client) -> None:
    async with client.execute("code") as execution:
        request = await kernel.expect("execute_request")
        kernel.stream(request, "last words")
        client.fail(KernelDied("gone", returncode=-9))
        assert await outputs_until_failure(execution) == ([text("last words")], KernelDied)
        with pytest.raises(KernelDied, match="gone"):
            await execution
        assert execution.outputs == [text("last words")]


async def test_what_ended_before_the_kernel_died_has_its_result(kernel, client, run) -> None:
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
