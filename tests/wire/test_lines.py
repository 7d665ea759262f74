"""The executions that a later message changes, in each order of the kernel's messages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest

from kernelproto.wire.content import ExecuteReply, ExecuteRequest, Status
from kernelproto.wire.conversation import Conversation, Event
from kernelproto.wire.lines import Lines
from kernelproto.wire.message import Message, MessageFactory
from kernelproto.wire.request import Request
from kernelproto.wire.transitions import REPLY_AND_IDLE, Signal, State
from tests.steps import count_steps

Order = Callable[[Sequence[Message]], Iterator[tuple[Message, str]]]


def factory() -> MessageFactory:
    numbers = itertools.count()
    return MessageFactory(
        session="client", username="", new_id=lambda: f"id-{next(numbers)}", now=lambda: "today"
    )


MAKE = factory()


def reply(request: Message) -> tuple[Message, str]:
    content = ExecuteReply(status="ok", execution_count=1)
    return MAKE.message("execute_reply", content, parent=request), "shell"


def status(state: str, request: Message) -> tuple[Message, str]:
    return MAKE.message("status", Status(state), parent=request), "iopub"


def in_turn(requests: Sequence[Message]) -> Iterator[tuple[Message, str]]:
    for request in requests:
        yield status("busy", request)
        yield reply(request)
        yield status("idle", request)


def replies_first(requests: Sequence[Message]) -> Iterator[tuple[Message, str]]:
    yield from map(reply, requests)
    for request in requests:
        yield status("busy", request)
        yield status("idle", request)


def replies_last(requests: Sequence[Message]) -> Iterator[tuple[Message, str]]:
    for request in requests:
        yield status("busy", request)
        yield status("idle", request)
    yield from map(reply, requests)


def without_busy(requests: Sequence[Message]) -> Iterator[tuple[Message, str]]:
    for request in requests:
        yield status("idle", request)
    yield from map(reply, requests)


def side_by_side(requests: Sequence[Message]) -> Iterator[tuple[Message, str]]:
    for request in requests:
        yield status("busy", request)
    for request in reversed(requests):
        yield status("idle", request)
    yield from map(reply, requests)


def backwards(requests: Sequence[Message]) -> Iterator[tuple[Message, str]]:
    return in_turn(requests[::-1])


@pytest.mark.parametrize(
    "order", [in_turn, replies_first, replies_last, without_busy, side_by_side, backwards]
)
def test_steps_grow_linearly_with_the_open_executions(order: Order) -> None:
    def steps(count: int) -> int:
        conversation = Conversation("client")
        requests = [MAKE.message("execute_request", ExecuteRequest(code="")) for _ in range(count)]
        for request in requests:
            conversation.sent(request, "shell")
        messages = list(order(requests))

        def work() -> None:
            for message, channel in messages:
                conversation.received(message, channel)

        taken = count_steps(work)
        assert len(conversation) == 0
        return taken

    assert steps(400) <= 5 * steps(100)


def execution(lines: Lines, number: int, *, line: str | None = None) -> Request:
    message = MAKE.message("execute_request", ExecuteRequest(code=""), subshell_id=line)
    request = Request(message, "shell", REPLY_AND_IDLE, number=number)
    lines.add(request)
    return request


def advance(lines: Lines, request: Request, *signals: Signal) -> None:
    for signal in signals:
        assert request.advance(signal)
        lines.note(request)


def test_only_earlier_executions_of_the_same_line_are_found() -> None:
    lines = Lines()
    first, second, third = (execution(lines, number) for number in range(3))
    execution(lines, 3, line="subshell")
    other = Request(MAKE.message("execute_request", ExecuteRequest(code="")), "control", {})
    assert lines.sent_before(second) == [first]
    assert lines.sent_before(third) == [second]
    assert (
        lines.sent_before(other) == lines.replied_before(other) == lines.idled_before(other) == []
    )


def test_execution_that_is_sent_again_is_found_again() -> None:
    lines = Lines()
    first, second = execution(lines, 0), execution(lines, 1)
    assert lines.sent_before(second) == [first]
    advance(lines, first, Signal.LATER_REPLY)
    assert lines.sent_before(second) == []
    advance(lines, first, Signal.BUSY)
    assert lines.sent_before(second) == [first]


def test_idled_executions_are_found_in_the_order_of_the_requests() -> None:
    lines = Lines()
    requests = [execution(lines, number) for number in range(4)]
    for idle_at, number in enumerate((3, 1, 0)):
        requests[number].idle_at = idle_at
        advance(lines, requests[number], Signal.IDLE)
    later = requests[2]
    later.busy_at = 5
    assert lines.idled_before(later) == [requests[0], requests[1]]
    later.busy_at = 1
    requests[1].idle_at = 2
    assert lines.idled_before(later) == []


def test_executions_that_are_gone_take_no_memory() -> None:
    lines = Lines()
    kept = execution(lines, 0)
    for number in range(1, 200):
        request = execution(lines, number)
        advance(lines, request, Signal.REPLY)
        lines.remove(request)
    line = lines._lines[kept.line]
    assert len(line.sent._heap) < 50
    assert len(line.replied._heap) < 50
    advance(lines, kept, Signal.IDLE)
    assert kept.state is State.IDLED
    lines.remove(kept)
    assert not lines._lines


def test_replies_out_of_order_end_no_execution() -> None:
    conversation = Conversation("client")
    requests = [MAKE.message("execute_request", ExecuteRequest(code="")) for _ in range(3)]
    for request in requests:
        conversation.sent(request, "shell")
    events: list[Event] = [conversation.received(*pair) for pair in backwards(requests)]
    assert not any(event.ended for event in events)
