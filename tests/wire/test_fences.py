from __future__ import annotations

import itertools

import pytest

from kernelproto.wire.content import ExecuteRequest, KernelInfoRequest
from kernelproto.wire.conversation import Conversation, Event, Origin
from kernelproto.wire.fences import Fence, Fences
from kernelproto.wire.message import Message, MessageFactory
from kernelproto.wire.request import Request
from kernelproto.wire.transitions import Signal, State

GRACE_LOOKS = 4
PATIENCE_LOOKS = 20
MOST_FENCES = 6


class Line:
    """A client's executions, and a kernel that says whatever the test wants."""

    def __init__(self) -> None:
        count = itertools.count(1)
        self.factory = MessageFactory(
            session="client", username="ada", new_id=lambda: f"id_{next(count)}", now=lambda: ""
        )
        self.conversation = Conversation("client")
        self.fences = Fences(self.conversation, self.factory)

    def execute(self, subshell_id: str | None = None) -> Request:
        message = self.factory.message("execute_request", {"code": ""}, subshell_id=subshell_id)
        return self.send(message)

    def send(self, message: Message) -> Request:
        request = self.conversation.sent(message, "shell")
        assert request is not None
        return request

    def reply(self, request: Request, status: str = "ok") -> Event:
        msg_type = request.message.msg_type.replace("request", "reply")
        message = self.factory.message(msg_type, {"status": status}, parent=request.message)
        return self.conversation.received(message, "shell")

    def status(self, state: str, request: Request) -> Event:
        content = {"execution_state": state}
        message = self.factory.message("status", content, parent=request.message)
        return self.conversation.received(message, "iopub")

    def look(self, times: int = 1) -> list[Fence]:
        """Look so many times; return the fences that were due, and are sent."""
        fences: list[Fence] = []
        for _ in range(times):
            for msg_id in self.fences.look():
                self.conversation.forget(msg_id)
            for fence in self.fences.due():
                self.send(fence.message)
                fences.append(fence)
        return fences

    def answer(self, fence: Fence, status: str = "ok") -> None:
        """Give a fence the kernel's reply to it."""
        requests = {request.message: request for request in self.conversation.open_requests()}
        fence.receive(self.reply(requests[fence.message], status))


@pytest.fixture
def line() -> Line:
    return Line()


def content(fence: Fence) -> object:
    return fence.message.content


def test_nothing_is_watched_without_an_execution(line) -> None:
    line.send(line.factory.message("complete_request", {}))
    assert line.look(100) == []
    assert not line.fences
    assert line.fences.lost() == []


def test_silent_execution_has_a_fence_after_its_patience(line) -> None:
    line.execute()
    assert line.look(PATIENCE_LOOKS - 1) == []
    (fence,) = line.look()
    assert line.fences
    assert content(fence) == KernelInfoRequest()
    assert fence.channel == "shell"


def test_interrupt_shortens_the_patience(line) -> None:
    line.execute()
    line.look(3)
    line.fences.note_interrupt()
    assert line.look(GRACE_LOOKS - 1) == []
    assert len(line.look()) == 1


def test_reply_that_follows_idle_too_late_is_proved_lost_by_the_fence(line) -> None:
    request = line.execute()
    line.status("busy", request)
    line.status("idle", request)
    (fence,) = line.look(GRACE_LOOKS)
    assert content(fence) == KernelInfoRequest()
    line.answer(fence)
    assert request.state is State.LOST


def test_busy_kernel_proves_the_loss_after_idle(line) -> None:
    request = line.execute()
    line.status("idle", request)
    line.status("busy", line.execute())
    line.look(GRACE_LOOKS)
    assert line.fences.lost() == [request]


def test_answer_that_proves_nothing_is_followed_by_an_empty_execution(line) -> None:
    request = line.execute()
    (first,) = line.look(PATIENCE_LOOKS)
    line.answer(first)
    assert request.state is State.SENT
    (second,) = line.look()
    assert content(second) == ExecuteRequest(
        code="", silent=True, store_history=False, allow_stdin=False, stop_on_error=False
    )
    line.answer(second)
    assert request.state is State.OVERTAKEN
    assert line.fences.lost() == []
    assert line.look(1 + GRACE_LOOKS) == []  # the first look finds the new state
    assert line.fences.lost() == [request]


def test_sign_of_life_revokes_the_loss(line) -> None:
    request = line.execute()
    line.answer(*line.look(PATIENCE_LOOKS))
    line.answer(*line.look())
    line.look(GRACE_LOOKS)
    line.status("busy", request)
    assert line.fences.lost() == []
    line.look()
    assert line.fences.lost() == []


def test_aborted_fence_is_repeated_with_longer_pauses_a_few_times(line) -> None:
    request = line.execute()
    line.reply(request)
    looks = []
    for look in range(1, 1000):
        for fence in line.look():
            looks.append(look)
            line.answer(fence, "aborted")
    pauses = [after - before for before, after in itertools.pairwise(looks)]
    assert len(looks) == MOST_FENCES
    assert pauses == [2 * GRACE_LOOKS * 2**n for n in range(MOST_FENCES - 1)]


def test_one_fence_is_enough_for_a_line_and_each_subshell_is_one(line) -> None:
    for subshell_id in (None, None, "a", "a"):
        line.status("idle", line.execute(subshell_id))
    fences = line.look(GRACE_LOOKS)
    assert [fence.message.header.subshell_id for fence in fences] == [None, "a"]


def test_kernel_that_runs_executions_side_by_side_needs_a_fence_only_after_idle(line) -> None:
    line.conversation.side_by_side = True
    request = line.execute()
    assert line.look(3 * PATIENCE_LOOKS) == []
    line.status("idle", request)
    assert len(line.look(1 + GRACE_LOOKS)) == 1


def test_fence_of_a_finished_execution_is_obsolete(line) -> None:
    request = line.execute()
    line.look(PATIENCE_LOOKS)
    assert len(line.conversation) == 2
    line.status("idle", request)
    line.reply(request)
    assert line.look() == []
    assert not len(line.conversation)
    assert not line.fences


def test_overtaken_execution_needs_no_fence_of_its_own(line) -> None:
    request, later = line.execute(), line.execute()
    line.reply(later)
    line.status("idle", later)
    assert request.state is State.OVERTAKEN
    assert line.look(PATIENCE_LOOKS) == []


def test_execution_that_ends_between_look_and_fences_has_none(line) -> None:
    request = line.execute()
    line.fences.look()
    line.conversation.give_up(request)
    assert list(line.fences.due()) == []


def test_only_the_answer_to_a_fence_counts(line) -> None:
    request = line.execute()
    (fence,) = line.look(PATIENCE_LOOKS)
    fence.receive(Event(Signal.LATER_REPLY, Origin.OWN, fence.message))
    fence.fail(RuntimeError())
    assert line.look() == []
    assert request.state is State.SENT
