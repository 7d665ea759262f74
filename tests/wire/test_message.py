from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType

import pytest

from kernelproto.exceptions import LocalProtocolError, MalformedMessage
from kernelproto.wire import tolerant_json
from kernelproto.wire.codec import Codec
from kernelproto.wire.content import ExecuteRequest, Stream
from kernelproto.wire.message import (
    PROTOCOL_VERSION,
    Header,
    Message,
    MessageFactory,
    timestamp,
    with_version,
)

HEADER = Header(
    msg_id="s_1", msg_type="stream", session="s", username="ada", date="d", version="5.5"
)


def arrived(
    *,
    msg_type: str = "stream",
    parent: bytes = b"{}",
    metadata: bytes = b"{}",
    content: bytes = b'{"name":"stdout","text":"42"}',
    buffers: tuple[bytes, ...] = (),
) -> Message:
    """Return a message as the codec makes it."""
    header = Header(msg_id="k_1", msg_type=msg_type)
    return Message(header, None, (b"{}", parent, metadata, content, *buffers))


def test_golden_message() -> None:
    message = Message.build(HEADER, Stream(text="42"), metadata={"a": None}, buffers=[b"\xff", b""])
    assert message.parts == (
        b'{"msg_id":"s_1","msg_type":"stream","session":"s","username":"ada","date":"d",'
        b'"version":"5.5"}',
        b"{}",
        b'{"a":null}',
        b'{"name":"stdout","text":"42"}',
        b"\xff",
        b"",
    )
    assert message.identities == ()


def test_parts_have_names() -> None:
    message = Message.build(HEADER, {"a": 1}, metadata={"b": 2}, buffers=[b"c"])
    assert (
        message.raw_header,
        message.raw_parent_header,
        message.raw_metadata,
        message.raw_content,
        *message.buffers,
    ) == message.parts
    assert (message.msg_id, message.msg_type) == ("s_1", "stream")


def test_header_is_a_value() -> None:
    assert Header(msg_id="1", msg_type="x") == Header(msg_id="1", msg_type="x")
    assert len({HEADER, HEADER, Header(msg_id="1", msg_type="x")}) == 2
    with pytest.raises(AttributeError):
        HEADER.msg_id = "2"  # type: ignore[misc]


def test_subshell_is_named_in_the_header() -> None:
    header = Header(msg_id="1", msg_type="execute_request", subshell_id="sub")
    assert json.loads(Message.build(header, {}).raw_header)["subshell_id"] == "sub"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{ "msg_type":"x", "msg_id":"k_7" , "vendor": [1,  2]}', id="extra field"),
        pytest.param(rb'{"msg_id":"k_7","msg_type":"x","a":NaN,"b":"\ud800"}', id="odd values"),
    ],
)
def test_parent_is_quoted_byte_for_byte(text) -> None:
    parent = Message(tolerant_json.decode(text, Header), None, [text, b"{}", b"{}", b"{}"])
    message = Message.build(HEADER, {}, parent=parent)
    assert message.raw_parent_header == text
    assert message.parent_header is parent.header


@pytest.mark.parametrize(
    "content", [Stream(text="42"), {"text": "42"}, MappingProxyType({"text": "42"})]
)
def test_content_is_given_as_struct_or_mapping(content) -> None:
    assert Message.build(HEADER, content).content == Stream(text="42")


@pytest.mark.parametrize("metadata", [None, {}, MappingProxyType({})])
def test_no_metadata_is_an_empty_object(metadata) -> None:
    assert Message.build(HEADER, {}, metadata=metadata).raw_metadata == b"{}"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({"header": HEADER, "content": {"a": "\ud800"}}, id="content"),
        pytest.param({"header": HEADER, "content": [1]}, id="content that is no object"),
        pytest.param({"header": HEADER, "content": {}, "metadata": {"a": object()}}, id="metadata"),
        pytest.param({"header": Header(msg_id="\ud800", msg_type="x"), "content": {}}, id="header"),
    ],
)
def test_content_without_a_json_form_cannot_be_sent(arguments) -> None:
    with pytest.raises(LocalProtocolError):
        Message.build(**arguments)


def test_content_is_decoded_on_demand_and_once() -> None:
    message = arrived()
    assert message.content is message.content
    assert message.content == Stream(name="stdout", text="42")


def test_content_that_cannot_be_read_does_no_harm_until_it_is_read() -> None:
    message = arrived(content=b"[1, 2", metadata=b"garbage")
    assert (message.msg_type, message.raw_content) == ("stream", b"[1, 2")
    for _ in range(2):
        with pytest.raises(MalformedMessage, match="Stream"):
            _ = message.content
        with pytest.raises(MalformedMessage, match="dict"):
            _ = message.metadata


def test_unknown_type_has_a_dict_for_content() -> None:
    assert arrived(msg_type="vendor_event", content=b'{"a":[1]}').content == {"a": [1]}


@pytest.mark.parametrize("text", [b"{}", b"null"])
def test_null_is_an_empty_content(text) -> None:
    assert arrived(content=text).content == Stream()
    assert arrived(content=text, msg_type="vendor_event").content == {}


def test_no_content_is_not_an_empty_content() -> None:
    # A forger who moves the border between signed frames could turn an error into a success.
    with pytest.raises(MalformedMessage):
        _ = arrived(content=b"", msg_type="execute_reply").content


@pytest.mark.parametrize(
    ("text", "metadata"),
    [
        (b"{}", {}),
        (b"null", {}),
        (b"", {}),
        (b'{"a":null}', {"a": None}),
        (b'{"a":Infinity}', {"a": float("inf")}),
        (rb'{"a":"\udfff"}', {"a": "\udfff"}),
    ],
)
def test_metadata_is_read_tolerantly_and_once(text, metadata) -> None:
    message = arrived(metadata=text)
    assert message.metadata == metadata
    assert message.metadata is message.metadata
    assert message.raw_metadata == text


def test_buffers_are_not_copied() -> None:
    buffer = memoryview(bytearray(b"abc"))
    assert Message.build(HEADER, {}, buffers=[buffer]).buffers[0] is buffer
    assert list(arrived().buffers) == []


@pytest.mark.parametrize("buffers", [[], [b""], [b"\xff" * 70_000, memoryview(b"12")]])
def test_size_is_that_of_all_parts(buffers) -> None:
    built = Message.build(HEADER, {"a": 1}, metadata={"b": 2}, buffers=buffers)
    codec = Codec(b"key")
    received = codec.decode(codec.encode(built, identities=[b"topic"]))
    assert built.size == received.size == len(b"".join(built.parts))


def test_repr_names_type_and_ids_and_shows_no_content() -> None:
    message = arrived(content=b'{"text":"secret"}')
    assert repr(message) == "<Message stream k_1 parent=None>"
    reply = Message.build(HEADER, {}, parent=message)
    assert repr(reply) == "<Message stream s_1 parent=k_1>"


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (datetime(2026, 11, 20, 12, 0, 0, 5, UTC), "2026-11-20T12:00:00.000005Z"),
        (datetime(2026, 11, 20, 12, tzinfo=UTC), "2026-11-20T12:00:00Z"),
        (datetime(2026, 1, 2, tzinfo=timezone(-timedelta(hours=3))), "2026-01-02T00:00:00-03:00"),
    ],
)
def test_timestamp_has_the_format_of_the_specification(moment, text) -> None:
    assert timestamp(moment) == text
    assert datetime.fromisoformat(text) == moment


def test_message_is_equal_to_itself_alone() -> None:
    one, two = arrived(), arrived()
    assert one != two
    assert len({one, two, one}) == 2


def test_factory_numbers_and_dates_its_messages() -> None:
    numbers = itertools.count(1)
    days = iter(["2026-11-20T12:00:00Z", "2026-11-21T12:00:00Z"])
    factory = MessageFactory(
        session="s", username="ada", new_id=lambda: f"s_{next(numbers)}", now=lambda: next(days)
    )
    one = factory.message("execute_request", ExecuteRequest(code="1"), subshell_id="sub")
    two = factory.message("vendor", {"a": 1}, parent=one, metadata={"b": 2}, buffers=[b"c"])
    assert one.header == Header(
        msg_id="s_1",
        msg_type="execute_request",
        session="s",
        username="ada",
        date="2026-11-20T12:00:00Z",
        version="5.5",
        subshell_id="sub",
    )
    assert (two.msg_id, two.header.date) == ("s_2", "2026-11-21T12:00:00Z")
    assert two.header.subshell_id is None
    assert b"subshell_id" not in two.raw_header
    assert two.raw_parent_header == one.raw_header
    assert (two.content, two.metadata, list(two.buffers)) == ({"a": 1}, {"b": 2}, [b"c"])
    assert factory.session == "s"


@pytest.mark.parametrize("version", [{}, {"version": ""}, {"version": None}])
def test_version_is_added_where_there_is_none(version: dict[str, object]) -> None:
    raw = json.dumps({"msg_id": "1", "msg_type": "x", "session": "s", "more": [1], **version})
    parts = (raw.encode(), b"{}", b"{}", b'{"a": NaN}', b"buffer")
    message = Message(Header(msg_id="1", msg_type="x", session="s"), None, parts, [b"identity"])
    filled = with_version(message)
    assert filled.header == Header(msg_id="1", msg_type="x", session="s", version=PROTOCOL_VERSION)
    assert json.loads(bytes(filled.raw_header)) == {**json.loads(raw), "version": PROTOCOL_VERSION}
    assert filled.parts[1:] == parts[1:]
    assert filled.identities == message.identities


def test_version_that_is_there_stays() -> None:
    message = Message.build(HEADER, {})
    assert with_version(message) is message
