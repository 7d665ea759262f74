from __future__ import annotations

import functools
import threading

import anyio
import pytest

from kernelproto.exceptions import KernelDied, LocalProtocolError, MalformedMessage
from kernelproto.wire.content import InputRequest
from tests.client.conftest import execution_result, outputs_of

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


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


async def test_on_input_is_not_called_while_no_task_waits(
    kernel, client, person, all_blocked
) -> None:
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
    assert caplog.messages == [
        "the kernel asks for input ('name? ') although allow_stdin is False: the answer is empty"
    ]


async def test_a_kernel_that_asks_without_end_writes_few_lines(kernel, run, caplog) -> None:
    _, call, request = await run(allow_stdin=False)
    for _ in range(100):
        kernel.ask(request, "?" * 10_000)
        await kernel.expect("input_reply", "stdin")
    kernel.finish(request)
    assert (await call.result()).status == "ok"
    assert len(caplog.messages) == 7
    assert max(map(len, caplog.messages)) < 300


async def test_exception_of_on_input_is_raised_and_the_question_stays(
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


async def test_an_answer_must_be_text(ask_for_input) -> None:
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


async def test_only_one_of_several_waiting_tasks_asks(
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
async def test_when_the_asking_task_has_ended_another_task_asks(
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
