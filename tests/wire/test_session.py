from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from kernelproto.exceptions import (
    InvalidSignature,
    LocalProtocolError,
    MalformedMessage,
    ReplayedMessage,
)
from kernelproto.wire.codec import Codec
from kernelproto.wire.content import Stream
from kernelproto.wire.conversation import Event, Origin
from kernelproto.wire.message import Frame, Message, MessageFactory
from kernelproto.wire.refusals import RefusedOutput
from kernelproto.wire.session import Refusal, Session
from kernelproto.wire.signing import Signer
from kernelproto.wire.transitions import Signal, State


def factory(session: str) -> MessageFactory:
    count = itertools.count(1)
    return MessageFactory(
        session=session, username="ada", new_id=lambda: f"{session}_{next(count)}", now=lambda: ""
    )


class Kernel:
    """The other end of the wire: decodes the frames of a session, and makes frames for it."""

    def __init__(self) -> None:
        self.codec = Codec(b"secret")
        self._factory = factory("kernel")

    def frames(
        self,
        msg_type: str,
        content: Mapping[str, Any],
        parent: Message | None = None,
        /,
        **parts: bytes,
    ) -> list[Frame]:
        """Return the signed frames of a message; *parts* replace its JSON frames."""
        message = self._factory.message(msg_type, content, parent=parent)
        names = ("header", "parent_header", "metadata", "content")
        message.parts = tuple(
            parts.get(name, part) for name, part in zip(names, message.parts, strict=True)
        )
        return self.codec.encode(message)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def session() -> Session:
    return Session(factory("client"), Signer(b"secret"))


@pytest.fixture
def request_(session: Session) -> Message:
    """Give an execute_request that was sent."""
    message = session.factory.message("execute_request", {"code": "code"})
    session.send(message, "shell")
    return message


def only(events: Sequence[Event | Refusal]) -> Event:
    (event,) = events
    assert isinstance(event, Event)
    return event


# Sending.


def test_request_is_signed_and_open(session, kernel) -> None:
    message = session.factory.message("complete_request", {"code": "x", "cursor_pos": 1})
    received = kernel.codec.decode(session.send(message, "shell"))
    assert received.parts == message.parts
    assert [request.message for request in session.conversation.open_requests()] == [message]


def test_encoded_message_expects_no_reply(session, kernel) -> None:
    message = session.factory.message("comm_msg", {"comm_id": "c", "data": {}})
    assert kernel.codec.decode(session.encode(message)).parts == message.parts
    assert not len(session.conversation)


def test_message_that_cannot_be_written_opens_no_request(session) -> None:
    with pytest.raises(LocalProtocolError):
        session.send(session.factory.message("x_request", {"code": object()}), "shell")
    assert not len(session.conversation)


# Receiving.


def test_message_is_one_event(session, kernel, request_) -> None:
    frames = kernel.frames("stream", {"name": "stdout", "text": "hello"}, request_)
    event = only(session.receive("iopub", frames))
    assert (event.signal, event.origin) == (Signal.OUTPUT, Origin.OWN)
    assert event.message.content.text == "hello"
    assert event.request is not None
    assert event.request.message is request_


def test_reply_and_idle_end_an_execution(session, kernel, request_) -> None:
    idle = kernel.frames("status", {"execution_state": "idle"}, request_)
    reply = kernel.frames("execute_reply", {"status": "ok"}, request_)
    request = only(session.receive("iopub", idle)).request
    assert request is only(session.receive("shell", reply)).request
    assert request is not None
    assert request.state is State.DONE
    assert not len(session.conversation)


def test_wrong_signature_is_refused(session, request_) -> None:
    frames = Kernel().frames("execute_reply", {"status": "ok"}, request_)
    frames[1] = b"0" * 64
    (refusal,) = session.receive("shell", frames)
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, InvalidSignature)
    assert refusal.lost_by is None
    assert len(session.conversation) == 1


def test_replay_is_refused(session, kernel, request_) -> None:
    frames = kernel.frames("stream", {"name": "stdout", "text": "once"}, request_)
    only(session.receive("iopub", frames))
    (refusal,) = session.receive("iopub", frames)
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, ReplayedMessage)


@pytest.mark.parametrize(
    "signer", [Signer(b"secret"), Signer.disabled()], ids=["signed", "unsigned"]
)
@pytest.mark.parametrize("count", range(1, 6))
def test_message_behind_an_incomplete_one_is_received(kernel, signer, count) -> None:
    session = Session(factory("client"), signer)
    lost, kept = (
        [b"topic", *kernel.frames("stream", {"name": "stdout", "text": text})]
        for text in ("lost", "kept")
    )
    *_, event = session.receive("iopub", lost[:count] + kept)
    assert isinstance(event, Event)
    assert event.message.content == Stream("stdout", "kept")


@pytest.mark.parametrize("rest", [[b"<IDS|MSG>"], [b"<IDS|MSG>", b"0" * 64, *[b"{}"] * 4]])
def test_incomplete_message_before_a_refused_one(session, rest) -> None:
    (refusal,) = session.receive("iopub", [b"topic", b"<IDS|MSG>", b"signature", *rest])
    assert isinstance(refusal, Refusal)


@pytest.mark.parametrize("channel", ["shell", "iopub"])
def test_malformed_message_of_unknown_origin_concerns_no_request(session, channel) -> None:
    (refusal,) = session.receive(channel, [b"garbage"])
    assert isinstance(refusal, Refusal)
    assert isinstance(refusal.error, MalformedMessage)
    assert refusal.lost_by is None


def test_malformed_reply_ends_its_request(session, kernel, request_) -> None:
    frames = kernel.frames("execute_reply", {"status": "ok"}, request_, metadata=b"[]")
    (refusal,) = session.receive("shell", frames)
    assert isinstance(refusal, Refusal)
    assert refusal.lost_by == request_.msg_id
    assert not len(session.conversation)


@pytest.mark.parametrize(
    ("broken", "msg_type"), [({"metadata": b"[]"}, "stream"), ({"header": b"[]"}, "")]
)
def test_malformed_output_is_followed_by_its_trace(
    session, kernel, request_, broken, msg_type
) -> None:
    frames = kernel.frames("stream", {"name": "stdout", "text": "lost"}, request_, **broken)
    refusal, event = session.receive("iopub", frames)
    assert isinstance(refusal, Refusal)
    assert isinstance(event, Event)
    assert (event.signal, event.origin) == (Signal.OUTPUT, Origin.OWN)
    assert isinstance(event.message.content, RefusedOutput)
    assert event.message.content.msg_type == msg_type
    assert event.message.parent_header == request_.header


def test_malformed_message_that_is_not_an_output_leaves_no_trace(session, kernel, request_) -> None:
    frames = kernel.frames("comm_msg", {"comm_id": "c"}, request_, metadata=b"[]")
    (refusal,) = session.receive("iopub", frames)
    assert isinstance(refusal, Refusal)


def test_unreadable_status_is_refused_and_still_an_event(session, kernel, request_) -> None:
    frames = kernel.frames("status", {}, request_, content=b"[]")
    refusal, event = session.receive("iopub", frames)
    assert isinstance(refusal, Refusal)
    assert isinstance(event, Event)
    assert (event.signal, event.origin, event.request) == (Signal.OTHER, Origin.KERNEL, None)
    assert event.message.raw_content == b"[]"


# Version 4 of the specification.


def negotiate(session: Session, kernel: Kernel, version: object) -> None:
    only(
        session.receive("shell", kernel.frames("kernel_info_reply", {"protocol_version": version}))
    )


@pytest.fixture
def old(session: Session, kernel: Kernel) -> Session:
    """Give a session with a kernel that speaks version 4."""
    negotiate(session, kernel, [4, 1])
    return session


@pytest.mark.parametrize(
    ("version", "msg_type"), [([4, 1], "object_info_request"), ("5.3", "inspect_request")]
)
def test_kernel_info_decides_the_version(session, kernel, version, msg_type) -> None:
    negotiate(session, kernel, version)
    message = session.factory.message("inspect_request", {"code": "x", "cursor_pos": 1})
    assert kernel.codec.decode(session.send(message, "shell")).msg_type == msg_type


def test_only_the_first_kernel_info_counts(old, kernel) -> None:
    negotiate(old, kernel, "5.3")
    message = old.factory.message("inspect_request", {"code": "x", "cursor_pos": 1})
    assert kernel.codec.decode(old.encode(message)).msg_type == "object_info_request"


def test_outputs_of_version_4_are_translated(old, kernel, request_) -> None:
    event = only(old.receive("iopub", kernel.frames("pyout", {"data": {}}, request_)))
    assert event.message.msg_type == "execute_result"
    assert event.signal is Signal.OUTPUT


def test_unreadable_kernel_info_is_refused(session, kernel) -> None:
    frames = kernel.frames("kernel_info_reply", {}, content=b"[]")
    (refusal,) = session.receive("shell", frames)
    assert isinstance(refusal, Refusal)


def test_malformed_output_of_version_4_leaves_its_trace(old, kernel, request_) -> None:
    _, event = old.receive("iopub", kernel.frames("pyout", {}, request_, metadata=b"[]"))
    assert isinstance(event, Event)
    assert event.message.content.msg_type == "execute_result"


def test_content_is_forwarded_as_it_came(session, kernel, request_) -> None:
    raw = b'{"name": "stdout",  "text": "spaces", "unknown": 1}'
    event = only(session.receive("iopub", kernel.frames("stream", {}, request_, content=raw)))
    assert event.message.raw_content == raw
    assert json.loads(raw)["text"] == event.message.content.text


# Large contents.

LARGE: dict[str, Any] = {"data": {"text/plain": "x", "values": list(range(100_000))}}


def read_all(session: Session) -> list[tuple[str, Event]]:
    events = []
    while session.unread:
        channel, some = session.read_on()
        events += [(channel, only([event])) for event in some]
    return events


def test_later_messages_wait_for_a_large_content(session, kernel, request_) -> None:
    text = kernel.frames("stream", {"name": "stdout", "text": "after"}, request_)
    reply = kernel.frames("execute_reply", {"status": "ok"}, request_)
    assert session.receive("iopub", kernel.frames("display_data", LARGE, request_)) == ()
    assert session.receive("iopub", text) == ()
    assert session.receive("shell", reply) == ()
    assert session.unread == 3
    assert session.unread_bytes > 400_000
    events = read_all(session)
    assert [(channel, event.message.msg_type) for channel, event in events] == [
        ("iopub", "display_data"),
        ("iopub", "stream"),
        ("shell", "execute_reply"),
    ]
    assert events[0][1].message.content.data == LARGE["data"]
    assert session.unread_bytes == 0
    only(session.receive("iopub", kernel.frames("status", {"execution_state": "idle"}, request_)))


def test_large_content_that_is_not_needed_is_not_read(kernel) -> None:
    session = Session(factory("client"), Signer(b"secret"), lambda message, channel: False)
    event = only(session.receive("iopub", kernel.frames("display_data", LARGE)))
    assert event.message._content is None
    assert (
        session.receive("iopub", kernel.frames("status", {"execution_state": "idle"} | LARGE)) == ()
    )
    ((_, event),) = read_all(session)
    assert event.signal is Signal.IDLE


def test_large_reply_that_nobody_awaits_is_not_read(kernel) -> None:
    session = Session(factory("client"), Signer(b"secret"), lambda message, channel: False)
    other = kernel._factory.message("execute_request", {"code": ""})
    event = only(session.receive("shell", kernel.frames("execute_reply", LARGE, other)))
    assert (event.origin, event.signal) == (Origin.FOREIGN, Signal.REPLY)
    assert event.message._content is None


def test_large_content_that_cannot_be_read_is_refused_once(session, kernel, request_) -> None:
    content = json.dumps(LARGE).encode()[:-2]
    session.receive("iopub", kernel.frames("display_data", {}, request_, content=content))
    ((_, event),) = read_all(session)
    for _ in range(2):
        with pytest.raises(MalformedMessage, match="incomplete"):
            _ = event.message.content


def test_large_status_that_cannot_be_read_is_a_refusal(session, kernel) -> None:
    content = json.dumps(LARGE).encode()[:-2]
    session.receive("iopub", kernel.frames("status", {}, content=content))
    results: list[Event | Refusal] = []
    while session.unread:
        results += session.read_on()[1]
    assert [type(result) for result in results] == [Refusal, Event]


def test_first_large_kernel_info_reply_is_refused(session, kernel) -> None:
    request = session.factory.message("kernel_info_request", {})
    session.send(request, "shell")
    (refusal,) = session.receive("shell", kernel.frames("kernel_info_reply", LARGE, request))
    assert isinstance(refusal, Refusal)
    assert refusal.lost_by == request.msg_id


def test_unread_messages_can_be_discarded(session, kernel, request_) -> None:
    frames = kernel.frames("display_data", LARGE, request_)
    session.receive("iopub", frames)
    session.receive("iopub", kernel.frames("stream", {"name": "stdout", "text": ""}, request_))
    session.discard_unread()
    assert (session.unread, session.unread_bytes) == (0, 0)


@pytest.mark.parametrize("name", ["header", "parent_header", "metadata"])
def test_size_of_headers_is_limited(session, kernel, request_, name) -> None:
    part = json.dumps({"msg_id": "x", "msg_type": "stream", "more": [0] * 100_000}).encode()
    frames = kernel.frames("stream", {"name": "stdout", "text": ""}, request_, **{name: part})
    refusal, *events = session.receive("iopub", frames)
    assert isinstance(refusal, Refusal)
    assert " bytes, at most 262144 are accepted" in str(refusal.error)
    # Its parent tells the request that has lost an output.
    assert len(events) == (name != "parent_header")
