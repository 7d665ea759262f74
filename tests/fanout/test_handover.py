"""The clients and requests that a server stores, and the replies of the next server."""

from __future__ import annotations

import msgspec
import pytest

from kernelproto.fanout.handover import Handover, reply_content
from kernelproto.fanout.traffic import Request, Unanswered
from kernelproto.wire.content import ErrorOutput, ExecuteInput, Status
from kernelproto.wire.message import Header, Message


def request(msg_id: str = "1", msg_type: str = "execute_request") -> Message:
    header = Header(msg_id=msg_id, msg_type=msg_type, session="page", version="5.4")
    return Message.build(header, {"code": "x"})


def answer(msg_type: str, content: msgspec.Struct, parent: Message) -> Message:
    return Message.build(Header(msg_id="a", msg_type=msg_type), content, parent=parent)


def handed_over(sent: Unanswered) -> Unanswered:
    """Return the requests as the next server has them."""
    found = Unanswered()
    for each in Handover.from_json(Handover.of([], sent).to_json()).open_requests():
        found.inherit(each)
    return found


def test_clients_and_requests_are_handed_over() -> None:
    sent = Unanswered()
    sent.note_sent(request("1"), "shell")
    sent.note_sent(request("2", "interrupt_request"), "control")
    sent.note_received(answer("execute_input", ExecuteInput("x", 7), request("1")), "iopub")
    text = Handover.of([["page", "old"], [""], []], sent).to_json()
    assert "code" not in text
    handover = Handover.from_json(text)
    assert handover.clients == [["page", "old"]]
    one, two = handover.open_requests()
    assert (one.message.header, one.channel, one.execution_count) == (
        request("1").header,
        "shell",
        7,
    )
    assert (two.message.header, two.channel) == (
        request("2", "interrupt_request").header,
        "control",
    )


def test_positions_of_clients_are_those_of_one_source() -> None:
    clients = [["page"], [""], ["other"]]
    made = Handover.of(clients, [], source="process", positions=[3, 4, 5])
    handover = Handover.from_json(made.to_json())
    assert handover.clients == [["page"], ["other"]]
    assert [handover.position_of(place, "process") for place in range(3)] == [3, 5, 0]
    assert handover.position_of(0, "another process") == 0


def test_bounds() -> None:
    sent = Unanswered()
    for number in range(1000):
        sent.note_sent(request(str(number)), "shell")
    handover = Handover.of([[str(number)] for number in range(1000)], sent)
    assert [each.header.msg_id for each in handover.requests] == [*map(str, range(100))]
    assert handover.clients == [[str(number)] for number in range(900, 1000)]
    huge = Unanswered()
    for number in range(10):
        huge.note_sent(request(str(number) + "x" * 20_000), "shell")
    assert len(Handover.of([], huge).requests) == 3


@pytest.mark.parametrize("text", ["", "{", '{"clients": 1}', '{"requests": [{"channel": "x"}]}'])
def test_text_that_is_no_handover(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        Handover.from_json(text)


def test_reply_follows_from_iopub() -> None:
    sent = Unanswered()
    sent.note_sent(request(), "shell")
    sent.note_received(answer("execute_input", ExecuteInput("x", 7), request()), "iopub")
    found = handed_over(sent)
    (one,) = found
    assert one.inherited
    assert reply_content(one) == {"status": "aborted"}
    found.note_received(answer("status", Status("idle"), request()), "iopub")
    ok = {"status": "ok", "user_expressions": {}, "payload": [], "execution_count": 7}
    assert reply_content(one) == ok
    found.note_received(answer("error", ErrorOutput("E", "v", ["t"]), request()), "iopub")
    error = {"status": "error", "ename": "E", "evalue": "v", "traceback": ["t"]}
    assert reply_content(one) == {**error, "execution_count": 7}
    assert found.inherited_traffic == 2


def test_other_requests_are_aborted() -> None:
    one = Request(request(msg_type="complete_request"), "shell", idle=True)
    assert reply_content(one) == {"status": "aborted"}
