"""How long clients wait for replies, and the requests that a kernel leaves unanswered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from kernelproto.fanout import traffic
from kernelproto.fanout.traffic import Traffic, Unanswered, announces_more
from kernelproto.wire.message import Header, Message


def message(
    msg_type: str, msg_id: str, parent: Message | None = None, content: Mapping[str, Any] = {}
) -> Message:
    header = Header(msg_id=msg_id, msg_type=msg_type, session="s")
    return Message.build(header, content, parent=parent)


def test_round_trips() -> None:
    seen: list[tuple[str, float]] = []
    requests = Traffic(lambda *trip: seen.append(trip)).requests()
    execute, complete = message("execute_request", "1"), message("complete_request", "2")
    requests.note_sent(execute, 10.0)
    requests.note_sent(complete, 11.0)
    requests.note_answer(message("input_request", "k1", execute), "stdin", 11.5)
    requests.note_answer(message("complete_reply", "k2", complete), "shell", 12.0)
    requests.note_answer(message("execute_reply", "k3", execute), "shell", 13.0)
    requests.note_answer(message("execute_reply", "k4", execute), "shell", 14.0)  # a second reply
    requests.note_answer(message("execute_reply", "k5"), "shell", 14.0)
    assert seen == [("complete_request", 1.0), ("execute_request", 3.0)]


@pytest.mark.parametrize("msg_type", ["comm_msg", "input_reply", "comm_close"])
def test_message_without_a_reply_is_no_request(msg_type: str) -> None:
    seen: list[tuple[str, float]] = []
    requests = Traffic(lambda *trip: seen.append(trip)).requests()
    sent = message(msg_type, "1")
    requests.note_sent(sent, 1.0)
    requests.note_answer(message("execute_reply", "2", sent), "shell", 2.0)
    assert seen == []


def test_oldest_open_request_is_forgotten_beyond_the_limit(monkeypatch) -> None:
    monkeypatch.setattr(traffic, "_MOST_OPEN_REQUESTS", 2)
    seen: list[tuple[str, float]] = []
    requests = Traffic(lambda *trip: seen.append(trip)).requests()
    sent = [message("execute_request", str(number)) for number in range(3)]
    for request in sent:
        requests.note_sent(request, 0.0)
    for request in sent:
        requests.note_answer(message("execute_reply", "k", request), "shell", 1.0)
    assert len(seen) == 2


def request(msg_id: str, kind: str = "execute") -> Message:
    return message(f"{kind}_request", msg_id, content={"code": "x" * 1000})


def reply(to: Message) -> Message:
    return message(to.msg_type.replace("_request", "_reply"), "r", to, {"status": "ok"})


def status(of: Message, state: str = "idle") -> Message:
    return message("status", "s", of, {"execution_state": state})


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


def test_missing_replies_and_statuses_are_known() -> None:
    open_requests = Unanswered()
    first, second = request("1"), request("2", "debug")
    open_requests.note_sent(first, "shell")
    open_requests.note_sent(second, "control")
    open_requests.note_received(status(first), "iopub")
    open_requests.note_received(reply(second), "shell")  # not the channel of the request
    open_requests.note_received(reply(second), "control")
    missing = [(r.message.msg_id, r.channel, r.replied, r.idle) for r in open_requests.take()]
    assert missing == [("1", "shell", False, True), ("2", "control", True, False)]
    assert len(open_requests) == 0


def test_one_request_is_taken() -> None:
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


def test_other_messages_are_no_requests() -> None:
    open_requests = Unanswered()
    open_requests.note_sent(message("comm_msg", "1"), "shell")
    open_requests.note_sent(message("input_reply", "2"), "stdin")
    open_requests.note_sent(message("execute_request", "3"), "stdin")
    open_requests.note_received(status(request("4")), "iopub")
    open_requests.note_received(
        message("status", "5", content={"execution_state": "idle"}), "iopub"
    )
    assert len(open_requests) == 0


def test_unreadable_status_ends_no_request() -> None:
    open_requests = Unanswered()
    one = request("1")
    open_requests.note_sent(one, "shell")
    open_requests.note_received(message("status", "s", one, {"execution_state": 5}), "iopub")
    assert [r.idle for r in open_requests.take()] == [False]


@pytest.mark.parametrize(("limit", "kept"), [("_MOST_REQUESTS", 3), ("_MOST_BYTES", 300)])
def test_oldest_request_is_forgotten_beyond_the_limits(monkeypatch, limit: str, kept: int) -> None:
    monkeypatch.setattr(traffic, limit, kept)
    open_requests = Unanswered()
    for number in range(100):
        open_requests.note_sent(request(f"{number:03}"), "shell")
        open_requests.note_sent(request(f"{number:03}"), "shell")  # the same id again
    assert 1 <= len(open_requests) <= 7
    requests = list(open_requests.take())
    assert requests[-1].message.msg_id == "099"
    assert sum(len(part) for r in requests for part in r.message.parts) < 1000
    assert open_requests._bytes == 0


def test_idle_is_the_last_message_of_a_request() -> None:
    execute = message("execute_request", "1")
    busy, idle = ({"execution_state": state} for state in ("busy", "idle"))
    assert announces_more(message("status", "2", execute, busy))
    assert announces_more(message("execute_reply", "3", execute))
    assert not announces_more(message("status", "4", execute, idle))
    assert not announces_more(message("status", "5", content=busy))
