"""How long clients wait for replies."""

from __future__ import annotations

import pytest

from kernelproto.fanout import traffic
from kernelproto.fanout.traffic import Traffic
from kernelproto.wire.message import Header, Message


def message(msg_type: str, msg_id: str, parent: Message | None = None) -> Message:
    header = Header(msg_id=msg_id, msg_type=msg_type, session="s")
    return Message.build(header, {}, parent=parent)


def test_round_trips() -> None:
    seen: list[tuple[str, float]] = []
    requests = Traffic(lambda *trip: seen.append(trip)).requests()
    execute, complete = message("execute_request", "1"), message("complete_request", "2")
    requests.note_sent(execute, 10.0)
    requests.note_sent(complete, 11.0)
    requests.note_answer(message("input_request", "k1", execute), "stdin", 11.5)
    requests.note_answer(message("complete_reply", "k2", complete), "shell", 12.0)
    requests.note_answer(message("execute_reply", "k3", execute), "shell", 13.0)
    requests.note_answer(message("execute_reply", "k4", execute), "shell", 14.0)  # once more
    requests.note_answer(message("execute_reply", "k5"), "shell", 14.0)
    assert seen == [("complete_request", 1.0), ("execute_request", 3.0)]


@pytest.mark.parametrize("msg_type", ["comm_msg", "input_reply", "comm_close"])
def test_what_has_no_reply_is_not_waited_for(msg_type: str) -> None:
    seen: list[tuple[str, float]] = []
    requests = Traffic(lambda *trip: seen.append(trip)).requests()
    sent = message(msg_type, "1")
    requests.note_sent(sent, 1.0)
    requests.note_answer(message("execute_reply", "2", sent), "shell", 2.0)
    assert seen == []


def test_requests_that_nobody_answers_are_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(traffic, "_MOST_OPEN_REQUESTS", 2)
    seen: list[tuple[str, float]] = []
    requests = Traffic(lambda *trip: seen.append(trip)).requests()
    sent = [message("execute_request", str(number)) for number in range(3)]
    for request in sent:
        requests.note_sent(request, 0.0)
    for request in sent:
        requests.note_answer(message("execute_reply", "k", request), "shell", 1.0)
    assert len(seen) == 2
