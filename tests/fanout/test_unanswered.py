from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from kernelproto.fanout import unanswered as module
from kernelproto.fanout.unanswered import Unanswered
from kernelproto.wire.message import Header, Message


def message(
    msg_id: str, msg_type: str, content: Mapping[str, Any] = {}, parent: Message | None = None
) -> Message:
    return Message.build(Header(msg_id=msg_id, msg_type=msg_type), content, parent=parent)


def request(msg_id: str, kind: str = "execute") -> Message:
    return message(msg_id, f"{kind}_request", {"code": "x" * 1000})


def reply(to: Message) -> Message:
    return message("r", to.msg_type.replace("_request", "_reply"), {"status": "ok"}, to)


def status(of: Message, state: str = "idle") -> Message:
    return message("s", "status", {"execution_state": state}, of)


def test_request_ends_with_reply_and_idle() -> None:
    for order in ("reply", "idle"), ("idle", "reply"):
        open_requests = Unanswered()
        one = request("1")
        open_requests.note_sent(one, "shell")
        open_requests.note_received(status(one, "busy"), "iopub")
        answers = {"reply": (reply(one), "shell"), "idle": (status(one), "iopub")}
        for answer in order:
            assert len(open_requests) == 1
            open_requests.note_received(*answers[answer])
        assert len(open_requests) == 0
        assert list(open_requests.take()) == []


def test_what_is_missing_is_known() -> None:
    open_requests = Unanswered()
    first, second = request("1"), request("2", "debug")
    open_requests.note_sent(first, "shell")
    open_requests.note_sent(second, "control")
    open_requests.note_received(status(first), "iopub")
    open_requests.note_received(reply(second), "shell")  # not where it was asked
    open_requests.note_received(reply(second), "control")
    missing = [(r.message.msg_id, r.channel, r.replied, r.idle) for r in open_requests.take()]
    assert missing == [("1", "shell", False, True), ("2", "control", True, False)]
    assert len(open_requests) == 0


def test_one_is_taken_alone() -> None:
    open_requests = Unanswered()
    for number in "12":
        open_requests.note_sent(request(number), "shell")
    (taken,) = open_requests.take("1")
    assert (taken.message.msg_id, taken.reply_type) == ("1", "execute_reply")
    assert list(open_requests.take("1")) == []
    assert len(open_requests) == 1


def test_running_is_the_oldest_execution() -> None:
    open_requests = Unanswered()
    assert open_requests.running is None
    open_requests.note_sent(request("0", "complete"), "shell")
    first, second = request("1"), request("2")
    open_requests.note_sent(first, "shell")
    open_requests.note_sent(second, "shell")
    assert open_requests.running is not None
    assert open_requests.running.msg_id == "1"
    open_requests.note_received(reply(first), "shell")
    assert open_requests.running.msg_id == "2"


def test_only_requests_are_answered() -> None:
    open_requests = Unanswered()
    open_requests.note_sent(message("1", "comm_msg"), "shell")
    open_requests.note_sent(message("2", "input_reply"), "stdin")
    open_requests.note_sent(message("3", "execute_request"), "stdin")
    open_requests.note_received(status(request("4")), "iopub")
    open_requests.note_received(message("5", "status", {"execution_state": "idle"}), "iopub")
    assert len(open_requests) == 0


def test_status_that_cannot_be_read_ends_nothing() -> None:
    open_requests = Unanswered()
    one = request("1")
    open_requests.note_sent(one, "shell")
    open_requests.note_received(message("s", "status", {"execution_state": 5}, one), "iopub")
    assert [r.idle for r in open_requests.take()] == [False]


@pytest.mark.parametrize(("limit", "kept"), [("_MOST_REQUESTS", 3), ("_MOST_BYTES", 300)])
def test_oldest_is_forgotten_beyond_the_limits(monkeypatch, limit: str, kept: int) -> None:
    monkeypatch.setattr(module, limit, kept)
    open_requests = Unanswered()
    for number in range(100):
        open_requests.note_sent(request(f"{number:03}"), "shell")
        open_requests.note_sent(request(f"{number:03}"), "shell")  # an id that comes again
    assert 1 <= len(open_requests) <= 7
    requests = list(open_requests.take())
    assert requests[-1].message.msg_id == "099"
    assert sum(len(part) for r in requests for part in r.message.parts) < 1000
    assert open_requests._bytes == 0
