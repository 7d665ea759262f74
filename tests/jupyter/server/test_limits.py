from __future__ import annotations

import json

import pytest

from kernelproto.jupyter.server.limits import OutputLimit, Rates, hide_traceback
from kernelproto.wire.message import Header, Message


def message(msg_type: str, **content: object) -> Message:
    return Message.build(Header(msg_id="1", msg_type=msg_type), content)


def stream(text: str = "x") -> Message:
    return message("stream", name="stdout", text=text)


def admitted(limit: OutputLimit, count: int, now: float = 0.0) -> int:
    return sum(limit.admit(stream(), now)[0] for _ in range(count))


def test_outputs_above_the_rate_are_discarded_with_one_notice() -> None:
    limit = OutputLimit(Rates(messages=10, stream_bytes=0, window=2))

    assert admitted(limit, 20) == 20
    is_sent, notice = limit.admit(stream(), 0.0)
    assert not is_sent
    assert notice is not None
    assert "iopub_msg_rate_limit" in notice
    assert limit.admit(stream(), 0.0) == (False, None)


def test_outputs_are_sent_again_when_the_window_has_passed() -> None:
    limit = OutputLimit(Rates(messages=10, stream_bytes=0, window=2))
    admitted(limit, 30)

    assert admitted(limit, 20, now=2.0) > 0


def test_idle_ends_the_limit() -> None:
    limit = OutputLimit(Rates(messages=10, stream_bytes=0, window=2))
    admitted(limit, 30)

    assert limit.admit(message("status", execution_state="idle"), 0.0) == (True, None)
    assert admitted(limit, 20) == 20


def test_status_and_input_are_never_discarded() -> None:
    limit = OutputLimit(Rates(messages=10, stream_bytes=0, window=2))
    admitted(limit, 30)

    assert limit.admit(message("status", execution_state="busy"), 0.0)[0]
    assert limit.admit(message("execute_input", code=""), 0.0)[0]


def test_bytes_of_streams_are_limited() -> None:
    limit = OutputLimit(Rates(messages=0, stream_bytes=1000, window=1))

    is_sent, notice = limit.admit(stream("x" * 2000), 0.0)

    assert not is_sent
    assert notice is not None
    assert "iopub_data_rate_limit" in notice


def test_no_limit() -> None:
    assert admitted(OutputLimit(Rates(messages=0, stream_bytes=0, window=1)), 5000) == 5000


@pytest.mark.parametrize("msg_type", ["error", "execute_reply"])
def test_traceback_is_replaced(msg_type: str) -> None:
    failed = message(
        msg_type, status="error", ename="KeyError", evalue="secret", traceback=["secret"]
    )

    shown = json.loads(bytes(hide_traceback(failed, "hidden").parts[3]))

    assert shown["traceback"] == ["hidden"]
    assert "secret" not in json.dumps(shown)


def test_large_error_is_replaced_without_its_other_fields() -> None:
    failed = message("execute_reply", status="error", payload=[{}] * 100_000, evalue="secret")
    shown = json.loads(bytes(hide_traceback(failed, "hidden").parts[3]))

    assert shown == {
        "status": "error",
        "ename": "ExecutionError",
        "evalue": "Execution error",
        "traceback": ["hidden"],
    }


def test_other_messages_are_left_as_they_are() -> None:
    for other in [stream(), message("execute_reply", status="ok")]:
        assert hide_traceback(other, "hidden") is other
