from __future__ import annotations

import hmac
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.exceptions import (
    InvalidSignature,
    LocalProtocolError,
    MalformedMessage,
    ReplayedMessage,
)
from kernelproto.wire.codec import Codec
from kernelproto.wire.content import CommOpen, ExecuteReply, KernelInfoReply, Stream
from kernelproto.wire.message import Frame, Header, Message
from kernelproto.wire.signing import Signer

KEY = b"a0436f6c-1916-498b-8eb9-e81ab9368e84"
DELIMITER = b"<IDS|MSG>"

HEADER = b'{"msg_id":"k_1","msg_type":"stream"}'
PARENT = b'{"msg_id":"s_1","msg_type":"execute_request","session":"s"}'
STREAM = b'{"name":"stdout","text":"42"}'


def signature(*parts: bytes, key: bytes = KEY, hash_name: str = "sha256") -> bytes:
    return hmac.new(key, b"".join(parts), hash_name).hexdigest().encode()


def frames(
    header: bytes = HEADER,
    parent: bytes = PARENT,
    metadata: bytes = b"{}",
    content: bytes = STREAM,
    *buffers: bytes,
    identities: Sequence[bytes] = (),
    key: bytes = KEY,
) -> list[bytes]:
    """Return the frames of a message, written and signed without the package's help."""
    parts = [header, parent, metadata, content]
    return [*identities, DELIMITER, signature(*parts, key=key), *parts, *buffers]


def codec() -> Codec:
    return Codec(KEY)


# Written out by hand. The signature was made by:
# printf %s HEADER PARENT METADATA CONTENT | openssl dgst -sha256 -hmac KEY
GOLDEN = [
    b"kernel.1.stream.stdout",
    b"<IDS|MSG>",
    b"4cd9670b6988889219114c8b8185a1eec98acabb4f40c5286fbb4af277771d48",
    b'{"msg_id": "c4a0_12", "msg_type": "stream", "username": "ada", "session": "c4a0", '
    b'"date": "2026-11-20T12:00:00.000001Z", "version": "5.3"}',
    b'{"msg_id": "77b1_3", "msg_type": "execute_request", "username": "ada", "session": "77b1", '
    b'"date": "2026-11-20T11:59:59.999999Z", "version": "5.5", "subshell_id": null}',
    b"{}",
    b'{"name": "stdout", "text": "42\\n"}',
]


def test_golden_frames_are_understood() -> None:
    message = codec().decode(GOLDEN)
    assert message.header == Header(
        msg_id="c4a0_12",
        msg_type="stream",
        username="ada",
        session="c4a0",
        date="2026-11-20T12:00:00.000001Z",
        version="5.3",
    )
    assert message.parent_header == Header(
        msg_id="77b1_3",
        msg_type="execute_request",
        username="ada",
        session="77b1",
        date="2026-11-20T11:59:59.999999Z",
        version="5.5",
    )
    assert message.metadata == {}
    assert message.content == Stream(name="stdout", text="42\n")
    assert list(message.identities) == [b"kernel.1.stream.stdout"]
    assert list(message.buffers) == []


def test_golden_message_is_written() -> None:
    header = Header(msg_id="1", msg_type="comm_msg", session="s", subshell_id="sub")
    message = Message.build(header, {"comm_id": "c"}, metadata={"m": 1.5}, buffers=[b"\0\1"])
    assert codec().encode(message, [b"client"]) == [
        b"client",
        b"<IDS|MSG>",
        b"495bffa07817304432443ecca895619b48bf140ae8e69fc4021659b0ac91b07f",
        b'{"msg_id":"1","msg_type":"comm_msg","session":"s","subshell_id":"sub"}',
        b"{}",
        b'{"m":1.5}',
        b'{"comm_id":"c"}',
        b"\0\1",
    ]


@pytest.mark.parametrize("hash_name", ["sha256", "sha1", "sha512", "md5"])
def test_signature_follows_the_scheme(hash_name) -> None:
    parts = [HEADER, PARENT, b"{}", STREAM]
    signed = [DELIMITER, signature(*parts, hash_name=hash_name), *parts]
    scheme = f"hmac-{hash_name}"
    message = Codec(KEY, scheme).decode(signed)
    assert Codec(KEY, scheme).encode(message) == signed
    with pytest.raises(InvalidSignature):
        Codec(KEY, "hmac-sha384").decode(signed)


def test_signer_can_be_handed_in() -> None:
    assert Codec(signer=Signer(KEY)).decode(frames()).content == Stream(text="42")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"key": b""}, id="empty key"),
        pytest.param({"key": KEY, "signer": Signer(KEY)}, id="key and signer"),
        pytest.param({"key": KEY, "signature_scheme": "sha256"}, id="unknown scheme"),
    ],
)
def test_no_codec_is_unsigned_by_mistake(arguments) -> None:
    with pytest.raises(LocalProtocolError):
        Codec(**arguments)


def test_unsigned_codec_writes_an_empty_signature_and_reads_any() -> None:
    unsigned = Codec(signer=Signer.disabled())
    message = unsigned.decode([DELIMITER, b"", HEADER, PARENT, b"{}", STREAM])
    assert unsigned.encode(message) == [DELIMITER, b"", HEADER, PARENT, b"{}", STREAM]
    for _ in range(2):  # nothing tells a replay from the same thing said twice
        assert unsigned.decode(frames(key=b"another")).content == Stream(text="42")


# The order of checks: shape and size, signature, replay, record, decode.


@pytest.mark.parametrize(
    ("received", "why"),
    [
        pytest.param([], "no <IDS|MSG> delimiter among 0", id="nothing"),
        pytest.param([b""], "no <IDS|MSG> delimiter among 1", id="an empty frame"),
        pytest.param([b"id", b"<IDS|MSG", b"{}"], "no <IDS|MSG> delimiter", id="no delimiter"),
        pytest.param([DELIMITER], "0 frames after the signature", id="delimiter alone"),
        pytest.param([b"id", DELIMITER, b"sig"], "0 frames", id="signature alone"),
        pytest.param([DELIMITER, b"", b"{}", b"{}", b"{}"], "3 frames", id="no content"),
        pytest.param(frames()[:-1], "3 frames", id="signed, and the content cut off"),
        pytest.param([DELIMITER, *frames()[:-1]], "signature", id="second delimiter"),
    ],
)
def test_frames_without_the_shape_of_a_message(received, why) -> None:
    with pytest.raises((MalformedMessage, InvalidSignature), match=why):
        codec().decode(received)


@pytest.mark.parametrize("buffers", [[], [b"buffer"]], ids=["no buffer", "a buffer"])
@pytest.mark.parametrize("identities", [[], [b"id"], [b"id", b"other"]], ids=len)
def test_frame_that_is_too_large(identities, buffers) -> None:
    message = frames(HEADER, PARENT, b"{}", STREAM, *buffers, identities=identities)
    for place, frame in enumerate(message):
        if frame != DELIMITER:
            received = [*message[:place], frame.ljust(101), *message[place + 1 :]]
            with pytest.raises(MalformedMessage, match="101 bytes; at most 100"):
                Codec(KEY, max_frame_bytes=100).decode(received)


def test_frame_may_be_as_large_as_the_limit() -> None:
    buffer = bytes(1000)
    message = Codec(KEY, max_frame_bytes=1000).decode([*frames(), buffer])
    assert list(message.buffers) == [buffer]


WRONG = {
    "empty": b"",
    "of another key": signature(HEADER, PARENT, b"{}", STREAM, key=b"another"),
    "of another hash": signature(HEADER, PARENT, b"{}", STREAM, hash_name="sha512"),
    "of another message": signature(HEADER, PARENT, b"{}", b"{}"),
    "in capitals": signature(HEADER, PARENT, b"{}", STREAM).upper(),
    "cut short": signature(HEADER, PARENT, b"{}", STREAM)[:-1],
    "with more behind it": signature(HEADER, PARENT, b"{}", STREAM) + b"0",
    "binary": bytes.fromhex(signature(HEADER, PARENT, b"{}", STREAM).decode()),
    "not ASCII": "é".encode(),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_signature_is_refused_and_never_recorded(wrong) -> None:
    receiver = codec()
    forged = [DELIMITER, wrong, HEADER, PARENT, b"{}", STREAM]
    for _ in range(2):
        with pytest.raises(InvalidSignature):
            receiver.decode(forged)
    assert receiver.decode(frames()).content == Stream(text="42")


def test_size_comes_before_the_signature() -> None:
    receiver = Codec(KEY, max_frame_bytes=100)
    with pytest.raises(MalformedMessage, match="101 bytes"):
        receiver.decode([*frames(key=b"another"), bytes(101)])
    with pytest.raises(MalformedMessage, match="101 bytes"):
        receiver.decode([*frames(), bytes(101)])
    receiver.decode(frames())  # neither was recorded


def test_signature_comes_before_decoding() -> None:
    with pytest.raises(InvalidSignature):
        codec().decode(frames(header=b"garbage", key=b"another"))


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"header": b"garbage"}, id="header"),
        pytest.param({"header": b'{"msg_id":"k_1"}'}, id="header without msg_type"),
        pytest.param({"parent": b"garbage"}, id="parent header"),
    ],
)
def test_malformed_message_is_recorded_before_it_is_decoded(parts) -> None:
    receiver = codec()
    with pytest.raises(MalformedMessage):
        receiver.decode(frames(**parts))
    with pytest.raises(ReplayedMessage):
        receiver.decode(frames(**parts))


def test_replay_is_refused_with_other_identities_and_buffers() -> None:
    receiver = codec()
    receiver.decode(frames())
    for replay in (frames(), frames(identities=[b"other"]), [*frames(), b"buffer"]):
        with pytest.raises(ReplayedMessage):
            receiver.decode(replay)


def test_every_codec_has_a_memory_of_its_own() -> None:
    codec().decode(frames())
    codec().decode(frames())


def test_sending_is_not_recorded() -> None:
    both_ends = codec()
    message = both_ends.decode(
        both_ends.encode(Message.build(Header(msg_id="1", msg_type="x"), {}))
    )
    assert message.msg_id == "1"


def test_bytes_that_are_cut_elsewhere_do_not_become_another_message() -> None:
    # The signature covers the four frames joined, so it does not tell where each of them ends.
    parent, metadata, content = PARENT, b'{"a":{}}', b'{"status":"error","evalue":"{}"}'
    header = b'{"msg_id":"k_1","msg_type":"execute_reply"}'
    joined = parent + metadata + content
    original = codec().decode(frames(header, parent, metadata, content))
    for one in range(len(joined) + 1):
        for two in range(one, len(joined) + 1):
            try:
                message = codec().decode(
                    frames(header, joined[:one], joined[one:two], joined[two:])
                )
                found = message.content
            except MalformedMessage:
                continue
            assert message.parent_header in (None, original.parent_header)
            assert found == original.content


# Decoding.


@pytest.mark.parametrize(
    ("text", "header"),
    [
        pytest.param(b'{"date":1763640000.5}', {"date": "1763640000.5"}, id="date as a number"),
        pytest.param(b'{"date":null}', {"date": ""}, id="date null"),
        pytest.param(b'{"date":"Nov 20, 2026"}', {"date": "Nov 20, 2026"}, id="odd date"),
        pytest.param(b'{"session":null,"username":null}', {}, id="nulls"),
        pytest.param(b'{"version":5.3}', {"version": "5.3"}, id="version as a number"),
        pytest.param(b'{"msg_id":17}', {"msg_id": "17"}, id="msg_id as a number"),
        pytest.param(rb'{"username":"\ud83d"}', {"username": "\ud83d"}, id="lone surrogate"),
        pytest.param(b'{"username":"\xed\xa0\xbd"}', {"username": "\ud83d"}, id="raw surrogate"),
        pytest.param(b'{"vendor":NaN}', {}, id="NaN in an extra field"),
        pytest.param(b'{"subshell_id":"sub"}', {"subshell_id": "sub"}, id="subshell"),
        pytest.param(b'{"subshell_id":null}', {}, id="no subshell"),
    ],
)
def test_odd_headers_are_read(text, header) -> None:
    text = b'{"msg_id":"k_1","msg_type":"stream",' + text[1:]
    expected = Header(**{"msg_id": "k_1", "msg_type": "stream", **header})
    message = codec().decode(frames(header=text, parent=text))
    assert message.header == message.parent_header == expected
    assert message.raw_header == message.raw_parent_header == text


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"null",
        b"{}",
        b"[]",
        b'"k_1"',
        b'{"msg_id":"k_1"}',
        b'{"msg_type":"stream"}',
        b'{"msg_id":null,"msg_type":"stream"}',
        b'{"msg_id":["k_1"],"msg_type":"stream"}',
        b'{"msg_id":"k_1","msg_type":"stream"',
        b'{"msg_id":"k_1","msg_type":"stream"}}',
        b"\xff\xfe",
    ],
)
def test_invalid_header(text) -> None:
    with pytest.raises(MalformedMessage, match="as Header"):
        codec().decode(frames(header=text))


def test_headers_that_are_not_utf_8_are_read() -> None:
    message = codec().decode(
        frames(
            header=b'{"msg_id":"\xff","msg_type":"stream","username":"caf\xe9"}',
            parent=b'{"msg_id":"s_1","username":"\xe9"}',
            metadata=b'{"\xe9":1}',
        )
    )
    assert message.header == Header(msg_id="\ufffd", msg_type="stream", username="caf\ufffd")
    assert message.parent_header == Header(msg_id="s_1", msg_type="", username="\ufffd")
    assert message.metadata == {"\ufffd": 1}


# The headers of a message that was refused.

TOO_DEEP = b'{"a":' * 100_000


@pytest.mark.parametrize(
    ("parts", "header"),
    [
        ({"metadata": TOO_DEEP}, Header(msg_id="k_1", msg_type="stream")),
        ({"metadata": b"[]"}, Header(msg_id="k_1", msg_type="stream")),
        ({"header": TOO_DEEP}, Header(msg_id="", msg_type="")),
        ({"header": b"{}", "metadata": b"[]"}, Header(msg_id="", msg_type="")),
    ],
)
def test_of_a_malformed_message_the_headers_are_salvaged(parts, header) -> None:
    for signer in (Signer(KEY), Signer.disabled()):
        receiver = Codec(signer=signer)
        with pytest.raises(MalformedMessage):
            receiver.decode(frames(**parts))
        message = receiver.salvage(frames(**parts))
        assert message is not None
        assert (message.header, message.raw_parent_header) == (header, PARENT)
        assert message.parent_header == codec().decode(frames()).parent_header


@pytest.mark.parametrize(
    "received",
    [
        pytest.param([], id="nothing"),
        pytest.param([b"x"], id="no delimiter"),
        pytest.param(frames()[:-1], id="too few frames"),
        pytest.param(frames(metadata=b"[]", key=b"another"), id="wrong signature"),
        pytest.param(frames(metadata=b"[]", parent=b"{}"), id="no parent"),
        pytest.param(frames(metadata=b"[]", parent=b"[]"), id="parent that cannot be read"),
    ],
)
def test_message_without_a_known_request_is_not_salvaged(received) -> None:
    assert codec().salvage(received) is None


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"null",
        b"",
        b"{ }",
        b" null ",
        b'{"session":"s"}',
        b'{"msg_id":null,"msg_type":"execute_request"}',
        b'{"msg_id":"","msg_type":"execute_request"}',
    ],
)
def test_no_parent(text) -> None:
    for kind in (bytes, memoryview):
        message = codec().decode([kind(frame) for frame in frames(parent=text)])
        assert message.parent_header is None
        assert message.raw_parent_header == text


def test_incomplete_parent_header_is_accepted() -> None:
    text = b'{"msg_id":"s_1","session":"s"}'
    message = codec().decode(frames(parent=text))
    assert message.parent_header == Header(msg_id="s_1", msg_type="", session="s")
    assert message.raw_parent_header == text


@pytest.mark.parametrize(
    "text", [b"[]", b"1", b"{", b'{"msg_id":[1],"msg_type":"x"}', b'{"msg_id":"x"', b"\xff"]
)
def test_invalid_parent_header(text) -> None:
    with pytest.raises(MalformedMessage):
        codec().decode(frames(parent=text))


def test_each_message_has_its_own_parent() -> None:
    receiver = codec()
    parents = [PARENT, PARENT, b"{}", PARENT.replace(b"s_1", b"s_2"), b"", b"garbage", PARENT]
    found = []
    for number, parent in enumerate(parents):
        try:
            message = receiver.decode(frames(HEADER, parent, b'{"n":%d}' % number))
        except MalformedMessage:
            found.append("malformed")
        else:
            found.append(message.parent_header and message.parent_header.msg_id)
    assert found == ["s_1", "s_1", None, "s_2", None, "malformed", "s_1"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_identities_and_buffers_are_kept_apart(count) -> None:
    outer = [b"%d" % number for number in range(count)]
    message = codec().decode([*frames(identities=outer), *outer])
    assert list(message.identities) == outer
    assert list(message.buffers) == outer


def test_delimiter_may_be_a_buffer() -> None:
    assert list(codec().decode([*frames(), DELIMITER, b""]).buffers) == [DELIMITER, b""]


def test_memoryviews_are_kept_as_they_came() -> None:
    text = b'{"comm_id":"c","target_name":"t","data":{"state":NaN}}'
    views: list[Frame] = [
        memoryview(frame)
        for frame in frames(HEADER.replace(b"stream", b"comm_open"), PARENT, b"{}", text, b"\xff")
    ]
    message = codec().decode(views)
    assert isinstance(message.content, CommOpen)
    assert message.metadata == {}
    assert message.buffers[0] is views[-1]
    assert message.raw_content is views[-2]


def test_kernel_info_reply_without_status() -> None:
    reply = codec().decode(
        frames(
            b'{"msg_id":"k_1","msg_type":"kernel_info_reply"}',
            content=b'{"protocol_version":"5.3","implementation":"ir","language_info":null}',
        )
    )
    assert isinstance(reply.content, KernelInfoReply)
    assert (reply.content.status, reply.content.implementation) == ("ok", "ir")


def test_status_abort() -> None:
    header = b'{"msg_id":"k_1","msg_type":"execute_reply"}'
    reply = codec().decode(frames(header, content=b'{"status":"abort"}'))
    assert reply.content == ExecuteReply(status="abort")
    assert reply.content.aborted


# Forwarding.


@pytest.mark.parametrize(
    "received",
    [
        pytest.param(GOLDEN, id="golden"),
        pytest.param(
            frames(b'{"msg_type":"vendor_event","msg_id":"1"}', content=b'{"b":[1, 2 ],"a":1e2}'),
            id="unknown type",
        ),
        pytest.param(
            frames(
                b'{"vendor":{},"msg_id":"1","msg_type":"stream"}',
                b'{"vendor":0,"msg_id":"2","msg_type":"x"}',
                b'{ "vendor" : true }',
                b'{"text":"x","vendor":null}',
            ),
            id="extra fields",
        ),
        pytest.param(
            frames(HEADER, b"null", b"", rb'{"text":"\ud800","a":NaN}'), id="breaking the rules"
        ),
        pytest.param(frames(content=b"not even JSON"), id="unreadable content"),
        pytest.param(frames(HEADER, PARENT, b"{}", STREAM, b"", b"\xff" * 9), id="buffers"),
        pytest.param(frames(identities=[b"", b"\0id"]), id="identities"),
    ],
)
def test_message_is_passed_on_byte_for_byte(received) -> None:
    message = codec().decode(received)
    assert codec().encode(message, message.identities) == received


def test_message_is_signed_anew_for_another_connection() -> None:
    message = codec().decode(frames(identities=[b"topic"]))
    assert Codec(b"another").encode(message) == frames(key=b"another")


text = st.text(st.characters(codec="utf-8"), max_size=20)
contents = st.dictionaries(text, st.none() | st.integers() | text | st.lists(text, max_size=3))
headers = st.builds(
    Header,
    msg_id=text.filter(bool),
    msg_type=text,
    session=text,
    username=text,
    date=text,
    version=text,
    subshell_id=st.none() | text,
)


@given(
    key=st.binary(min_size=1, max_size=200),
    header=headers,
    parent=st.none() | headers,
    content=contents,
    metadata=contents,
    buffers=st.lists(st.binary(), max_size=4),
    identities=st.lists(st.binary().filter(lambda frame: frame != DELIMITER), max_size=4),
    frame_type=st.sampled_from([bytes, memoryview]),
)
def test_round_trip(
    key, header, parent, content, metadata, buffers, identities, frame_type
) -> None:
    request = None if parent is None else Message.build(parent, {})
    sent = Message.build(header, content, parent=request, metadata=metadata, buffers=buffers)
    wire = [frame_type(frame) for frame in Codec(key).encode(sent, identities)]
    message = Codec(key).decode(wire)
    assert message.header == header
    assert message.parent_header == parent
    assert message.metadata == metadata
    assert list(message.buffers) == buffers
    assert list(message.identities) == identities
    assert Codec(key).encode(message, message.identities) == wire
