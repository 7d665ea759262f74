"""Whatever arrives: a message, or an exception of the one family; and never a forgery."""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernelproto.exceptions import (
    InvalidSignature,
    MalformedMessage,
    RemoteProtocolError,
    ReplayedMessage,
)
from kernelproto.wire import content
from kernelproto.wire.codec import Codec
from kernelproto.wire.connection import CHANNEL_NAMES, ChannelName
from kernelproto.wire.content import content_type, message_type
from kernelproto.wire.conversation import Conversation, Event
from kernelproto.wire.message import Frame, Header, Message, MessageFactory
from kernelproto.wire.session import Refusal, Session
from kernelproto.wire.signing import Signer

KEY = b"a0436f6c-1916-498b-8eb9-e81ab9368e84"
SESSION = "s"
DELIMITER = b"<IDS|MSG>"

MSG_TYPES = sorted(
    message_type(kind)
    for kind in vars(content).values()
    if isinstance(kind, type) and issubclass(kind, content.Content) and not kind.__subclasses__()
    if kind is not content.LanguageInfo
)
FIELDS = sorted({name for kind in MSG_TYPES for name in content_type(kind).__struct_fields__})


def take_in(codec: Codec, frames: Sequence[Frame], channel: ChannelName) -> Message:
    """Do with *frames* all that a client does.

    Raises:
        RemoteProtocolError: they are refused.
    """
    message = codec.decode(frames)
    conversation = Conversation(SESSION)
    conversation.sent(REQUEST, channel)
    assert isinstance(repr(message), str)
    encoded = codec.encode(message, message.identities)
    assert tuple(encoded[-len(message.parts) :]) == message.parts
    for read in (
        lambda: message.content,
        lambda: message.metadata,
        lambda: conversation.received(message, channel),
    ):
        with suppress(MalformedMessage):
            assert isinstance(read(), dict | content.Content | Event)
    return message


def signed(parts: Sequence[bytes], key: bytes = KEY) -> list[bytes]:
    return [DELIMITER, hmac.new(key, b"".join(parts[:4]), "sha256").hexdigest().encode(), *parts]


REQUEST = Message.build(
    Header(msg_id="s_1", msg_type="execute_request", session=SESSION), {"code": "1"}
)
VALID = signed(
    [
        b'{"msg_id":"k_1","msg_type":"execute_reply","session":"k"}',
        bytes(REQUEST.raw_header),
        b'{"started":"2026-11-20T12:00:00Z"}',
        b'{"status":"ok","execution_count":1,"payload":[],"user_expressions":{}}',
        b"buffer",
    ]
)

text = st.text(st.characters(exclude_categories=()), max_size=5)  # lone surrogates as well
names = st.sampled_from(FIELDS) | text
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**64, -(2**63) - 1, 10**400])
    | st.floats()
    | text
    | st.sampled_from(["abort", "busy", "idle", "1", "NaN", "null", "true"]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(names, inside, max_size=3),
    max_leaves=6,
)


@st.composite
def json_text(draw: st.DrawFn, value: st.SearchStrategy[object]) -> bytes:
    written = json.dumps(draw(value), ensure_ascii=draw(st.booleans()))
    return written.encode("utf-8", "surrogatepass")


odd_headers = json_text(
    st.fixed_dictionaries(
        {},
        optional={
            "msg_id": st.sampled_from(["s_1", ""]) | values,
            "msg_type": st.sampled_from(MSG_TYPES) | values,
            "session": st.sampled_from([SESSION, ""]) | values,
            "date": values,
            "subshell_id": values,
        },
    )
)
headers = odd_headers | json_text(
    st.fixed_dictionaries({"msg_id": text, "msg_type": st.sampled_from(MSG_TYPES)})
)
contents = json_text(st.dictionaries(names, values, max_size=6))
pieces = (
    st.sampled_from([b"", b"{}", b"null", b"[]", b"{", DELIMITER, *VALID])
    | st.binary(max_size=20)
    | headers
    | contents
)
channels = st.sampled_from(CHANNEL_NAMES)
frame_types = st.sampled_from([bytes, memoryview])


@given(frames=st.lists(pieces, max_size=10), channel=channels, frame_type=frame_types)
@example(frames=[DELIMITER, b"", b"{}", b"", b"", b""], channel="shell", frame_type=bytes)
def test_arbitrary_frames_are_refused(frames, channel, frame_type) -> None:
    views = [frame_type(frame) for frame in frames]
    with pytest.raises((MalformedMessage, InvalidSignature)):
        take_in(Codec(KEY[::-1]), views, channel)


@given(before=st.lists(pieces, max_size=2), after=st.lists(pieces, max_size=7), channel=channels)
def test_arbitrary_frames_without_signatures(before, after, channel) -> None:
    frames = [*before, DELIMITER, b"", *after]
    with suppress(MalformedMessage):
        assert list(take_in(Codec(signer=Signer.disabled()), frames, channel).parts) == after


@given(
    header=headers,
    parent=headers | pieces,
    metadata=contents | pieces,
    content=contents | pieces,
    channel=channels,
    frame_type=frame_types,
)
def test_arbitrary_frames_signed_with_the_key(
    header, parent, metadata, content, channel, frame_type
) -> None:
    codec = Codec(KEY)
    frames = [frame_type(frame) for frame in signed([header, parent, metadata, content])]
    with suppress(MalformedMessage):
        assert take_in(codec, frames, channel).parts == (header, parent, metadata, content)
    with pytest.raises(ReplayedMessage):
        codec.decode(frames)


@given(
    version=st.sampled_from([[4, 1], "5.3"]),
    header=headers | pieces,
    parent=headers | pieces | st.just(bytes(REQUEST.raw_header)),
    metadata=contents | pieces,
    content=contents | pieces,
    channel=st.sampled_from([name for name in CHANNEL_NAMES if name != "hb"]),
)
def test_session_never_raises(version, header, parent, metadata, content, channel) -> None:
    """Arbitrary frames, signed with the key, are events, whichever version the kernel speaks."""
    factory = MessageFactory(
        session=SESSION, username="ada", new_id=lambda: "s_2", now=lambda: "2026-11-20T12:00:00Z"
    )
    session = Session(factory, Signer(KEY))
    session.send(REQUEST, "shell")
    info = json.dumps({"protocol_version": version}).encode()
    session.receive(
        "shell", signed([b'{"msg_id":"k_0","msg_type":"kernel_info_reply"}', b"{}", b"{}", info])
    )
    events = session.receive(channel, signed([header, parent, metadata, content]))
    assert len(events) in (1, 2)
    assert all(isinstance(event, Event | Refusal) for event in events)
    if any(isinstance(event, Refusal) and event.lost_by == "s_1" for event in events):
        assert not len(session.conversation)


@st.composite
def mutations(draw: st.DrawFn) -> list[bytes]:
    """Give the frames of a valid message after some changes that need no key."""
    frames = list(VALID)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(frames) - 1)) if frames else 0
        match draw(st.sampled_from(["replace", "insert", "drop", "swap", "flip", "shift"])):
            case "insert":
                frames.insert(place, draw(pieces))
            case _ if not frames:
                continue
            case "replace":
                frames[place] = draw(pieces)
            case "drop":
                del frames[place]
            case "swap":
                other = draw(st.integers(0, len(frames) - 1))
                frames[place], frames[other] = frames[other], frames[place]
            case "flip" if frames[place]:
                changed = bytearray(frames[place])
                changed[draw(st.integers(0, len(changed) - 1))] ^= 1 << draw(st.integers(0, 7))
                frames[place] = bytes(changed)
            case "shift" if place > 0:  # the end of one frame becomes the beginning of the next
                both = frames[place - 1] + frames[place]
                cut = draw(st.integers(0, len(both)))
                frames[place - 1 : place + 1] = [both[:cut], both[cut:]]
    return frames


@given(frames=mutations(), channel=channels)
def test_accepted_message_is_the_signed_one(frames, channel) -> None:
    original = Codec(KEY).decode(VALID)
    with suppress(RemoteProtocolError):
        message = take_in(Codec(KEY), frames, channel)
        assert b"".join(message.parts[:4]) == b"".join(original.parts[:4])
        assert message.header == original.header
        assert message.parent_header in (None, original.parent_header)
        assert message.content == original.content


@pytest.mark.parametrize("opening", [b"[", b'{"a":'], ids=["arrays", "objects"])
@pytest.mark.parametrize("depth", [500, 5_000, 500_000])
@pytest.mark.parametrize("place", range(2, 6), ids=["header", "parent", "metadata", "content"])
@pytest.mark.parametrize("channel", CHANNEL_NAMES)
def test_deep_nesting(channel, place, depth, opening) -> None:
    closing = b"]" if opening == b"[" else b"}"
    frames = VALID[:6]
    deep = b',"vendor":%sNaN%s}' % (opening * depth, closing * depth)
    frames[place] = frames[place][:-1] + deep
    try:
        message = take_in(Codec(KEY), signed(frames[2:]), channel)
    except MalformedMessage:
        assert place < 5
    else:
        assert message.msg_id == "k_1"
