from __future__ import annotations

import pytest

from kernelproto.client.outcome import Outcome, reply_lost
from kernelproto.client.output_buffer import OutputBuffer
from kernelproto.exceptions import (
    ExecutionTimeout,
    KernelDied,
    KernelUnresponsive,
    MalformedMessage,
    OutputOverflow,
    ReplyLost,
)
from kernelproto.wire.content import Stream
from kernelproto.wire.message import Header, Message
from kernelproto.wire.request import Request
from kernelproto.wire.transitions import REPLY_AND_IDLE

OUTPUT = Stream("stdout", "printed")
ERROR = {"status": "error", "ename": "KeyboardInterrupt", "evalue": "", "traceback": ["a line"]}


def reply(content: dict[str, object], msg_type: str = "execute_reply") -> Message:
    return Message.build(Header(msg_id="k", msg_type=msg_type), content)


@pytest.fixture
def buffer() -> OutputBuffer:
    buffer = OutputBuffer(10_000)
    buffer.append(OUTPUT, 10)
    return buffer


@pytest.fixture
def outcome(buffer: OutputBuffer) -> Outcome:
    return Outcome(buffer)


def test_result_has_the_reply_and_the_outputs(outcome) -> None:
    outcome.reply = reply({"status": "ok", "execution_count": 3})
    outcome.raise_failure()
    result = outcome.result()
    assert (result.status, result.execution_count, result.stdout) == ("ok", 3, "printed")
    assert result.outputs_complete


def test_reply_of_another_type_is_malformed(outcome) -> None:
    outcome.reply = reply({}, "complete_reply")
    with pytest.raises(MalformedMessage, match="complete_reply"):
        outcome.result()


def test_first_failure_counts_and_each_task_gets_its_own_copy(outcome) -> None:
    error = KernelDied("it has died")
    outcome.fail(error)
    outcome.fail(KernelDied("another error"))
    raised = []
    for _ in range(2):
        with pytest.raises(KernelDied, match="it has died") as caught:
            outcome.raise_failure()
        raised.append(caught.value)
    assert raised[0] is not raised[1]


def test_timeout_carries_the_whole_result_and_its_error(outcome) -> None:
    outcome.timed_out = ExecutionTimeout("too long", seconds=1.0)
    outcome.reply = reply(ERROR)
    with pytest.raises(ExecutionTimeout) as caught:
        outcome.result()
    error = caught.value
    assert (error.ename, error.traceback) == ("KeyboardInterrupt", ("a line",))
    assert error.result is not None
    assert (error.result.status, error.result.stdout) == ("error", "printed")


def test_lost_reply_after_a_timeout_is_a_timeout_with_the_result_so_far(outcome) -> None:
    outcome.timed_out = ExecutionTimeout("too long", seconds=1.0)
    outcome.fail(ReplyLost("no reply"))
    with pytest.raises(ExecutionTimeout) as caught:
        outcome.raise_failure()
    assert caught.value.result is not None
    assert (caught.value.result.status, caught.value.result.stdout) == ("unknown", "printed")


@pytest.mark.parametrize(
    "error", [ReplyLost("no reply"), KernelUnresponsive("it still runs", seconds=1.0)]
)
def test_execution_without_a_reply_has_the_result_so_far(outcome, error) -> None:
    outcome.fail(error)
    with pytest.raises(type(error)) as caught:
        outcome.raise_failure()
    assert caught.value.result.stdout == "printed"


def test_overflow_comes_before_any_other_failure() -> None:
    outcome = Outcome(buffer := OutputBuffer(0))
    buffer.append(OUTPUT, 10)
    outcome.fail(KernelDied("it has died"))
    with pytest.raises(OutputOverflow):
        outcome.raise_failure()


@pytest.mark.parametrize(
    ("busy_at", "idle_at", "words"),
    [
        (0, 1, "executed the code and sent no reply"),
        (0, None, "began to execute the code"),
        (None, None, "never reported that it executes the code"),
    ],
)
def test_error_has_the_progress_of_the_kernel(busy_at, idle_at, words) -> None:
    message = Message.build(Header(msg_id="r", msg_type="execute_request"), {})
    request = Request(message, "shell", REPLY_AND_IDLE)
    request.busy_at, request.idle_at = busy_at, idle_at
    assert words in str(reply_lost(request))
