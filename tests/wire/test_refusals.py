from __future__ import annotations

import pytest

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire.content import Stream
from kernelproto.wire.message import Header, Message
from kernelproto.wire.refusals import OUTPUT_TYPES, RefusedOutput, stand_in

ERROR = MalformedMessage("cannot be read")
PARENT = Message.build(Header(msg_id="r", msg_type="execute_request"), {})
HEADER = Header(msg_id="new", msg_type="stream")


def refused(msg_type: str) -> Message:
    return Message.build(Header(msg_id="k", msg_type=msg_type), {}, parent=PARENT)


def test_trace_is_a_line_on_standard_error() -> None:
    output = RefusedOutput.of("stream", ERROR)
    assert (output.name, output.msg_type, output.reason) == ("stderr", "stream", "cannot be read")
    assert output.text == "[an output is missing here: the kernel's stream cannot be read]\n"


def test_trace_of_a_long_type_and_reason_is_short() -> None:
    output = RefusedOutput.of("t" * 10_000, MalformedMessage("r" * 10_000))
    assert (len(output.msg_type), len(output.reason)) == (50, 300)
    assert len(output.text) < 500


@pytest.mark.parametrize("msg_type", ["", *sorted(OUTPUT_TYPES)])
def test_stand_in_has_the_parent_of_the_refused_output(msg_type: str) -> None:
    message = stand_in(refused(msg_type), msg_type, HEADER, ERROR)
    assert message is not None
    assert (message.header, message.parent_header) == (HEADER, PARENT.header)
    assert message.raw_parent_header == PARENT.raw_header
    assert isinstance(message.content, RefusedOutput)
    sent = Message(message.header, message.parent_header, message.parts)  # as observers forward it
    assert sent.content == Stream("stderr", message.content.text)


def test_message_that_is_not_an_output_has_no_stand_in() -> None:
    assert stand_in(refused("status"), "status", HEADER, ERROR) is None
