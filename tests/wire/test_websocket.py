from __future__ import annotations

import json
import mmap
import struct
import tracemalloc
from array import array
from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kernelproto.exceptions import LocalProtocolError, MalformedMessage, RemoteProtocolError
from kernelproto.wire.codec import Codec
from kernelproto.wire.connection import CHANNEL_NAMES
from kernelproto.wire.content import Stream
from kernelproto.wire.message import Frame, Header, Message, read_parent_header
from kernelproto.wire.tolerant_json import decode
from kernelproto.wire.websocket import (
    FROM_CLIENT,
    FROM_SERVER,
    V1_SUBPROTOCOL,
    Framing,
    LegacyFraming,
    V1Framing,
    client_framing,
    server_framing,
)

HEADER = b'{"msg_id":"k_1","msg_type":"stream"}'
PARENT = b'{"msg_id":"s_1","msg_type":"execute_request"}'
STREAM = b'{"name":"stdout","text":"42"}'
HEAD = Header(msg_id="k_1", msg_type="stream")
PARTS = [HEADER, PARENT, b"{}", STREAM]

v1 = V1Framing(FROM_SERVER)
legacy = LegacyFraming(FROM_SERVER)
both = pytest.mark.parametrize("framing", [v1, legacy], ids=["v1", "legacy"])


def message(*parts: Frame) -> Message:
    """Return a message of these parts."""
    return Message(decode(parts[0], Header), read_parent_header(parts[1]), list(parts))


# Written out by hand.
V1_GOLDEN = (
    b"\x07\0\0\0\0\0\0\0"
    b"\x40\0\0\0\0\0\0\0"  # 8 numbers of 8 bytes
    b"\x45\0\0\0\0\0\0\0"  # + 5
    b"\x69\0\0\0\0\0\0\0"  # + 36
    b"\x96\0\0\0\0\0\0\0"  # + 45
    b"\x98\0\0\0\0\0\0\0"  # + 2
    b"\xb5\0\0\0\0\0\0\0"  # + 29
    b"\xb7\0\0\0\0\0\0\0"  # + 2
    b"iopub"
    b'{"msg_id":"k_1","msg_type":"stream"}'
    b'{"msg_id":"s_1","msg_type":"execute_request"}'
    b"{}"
    b'{"name":"stdout","text":"42"}'
    b"\xff\0"
)
LEGACY_GOLDEN = (
    '{"content": {"name":"stdout","text":"42"}, "metadata": {}, '
    '"parent_header": {"msg_id":"s_1","msg_type":"execute_request"}, '
    '"header": {"msg_id":"k_1","msg_type":"stream"}, '
    '"msg_id": "k_1", "msg_type": "stream", "channel": "iopub", "buffers": []}'
)
LEGACY_GOLDEN_WITH_BUFFERS = (
    b"\0\0\0\x03"
    b"\0\0\0\x10"  # 4 numbers of 4 bytes
    b"\0\0\x01\x04"  # + 244
    b"\0\0\x01\x06"  # + 2
    b"%b\xff\0\xfe" % LEGACY_GOLDEN.encode()
)


@pytest.mark.parametrize(
    ("framing", "buffers", "golden"),
    [
        pytest.param(v1, [b"\xff\0"], V1_GOLDEN, id="v1"),
        pytest.param(legacy, [], LEGACY_GOLDEN, id="legacy"),
        pytest.param(
            legacy, [b"\xff\0", b"\xfe"], LEGACY_GOLDEN_WITH_BUFFERS, id="legacy with buffers"
        ),
    ],
)
def test_golden_frame_is_written_and_understood(framing: Framing, buffers, golden) -> None:
    assert framing.encode("iopub", message(*PARTS, *buffers)) == golden
    channel, received = framing.decode(golden)
    assert channel == "iopub"
    assert received.header == HEAD
    assert received.parent_header == Header(msg_id="s_1", msg_type="execute_request")
    assert received.metadata == {}
    assert received.content == Stream(name="stdout", text="42")
    assert list(received.parts) == [*PARTS, *buffers]
    assert received.identities == ()


def test_frame_as_a_browser_sends_it() -> None:
    """JSON.stringify of JupyterLab's message, which has its channel and buffers in any order."""
    frame = (
        '{"buffers":[],"channel":"shell","content":{"code":"6 * 7"},"header":{"date":"2026-11-20T'
        '12:00:00.000Z","msg_id":"b_1","msg_type":"execute_request","session":"b","username":"",'
        '"version":"5.2"},"metadata":{"cellId":"é"},"parent_header":{}}'
    )
    channel, request = LegacyFraming().decode(frame)
    assert channel == "shell"
    assert (request.msg_id, request.header.version) == ("b_1", "5.2")
    assert request.parent_header is None
    assert request.metadata == {"cellId": "é"}
    assert request.raw_content == b'{"code":"6 * 7"}'


# Choosing.


@pytest.mark.parametrize(
    ("offered", "subprotocol"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param(["v1.kernel.websocket.jupyter.org"], V1_SUBPROTOCOL, id="v1"),
        pytest.param(["v9.future", V1_SUBPROTOCOL], V1_SUBPROTOCOL, id="v1 among others"),
        pytest.param(["v9.future", ""], None, id="unknown ones"),
    ],
)
def test_server_takes_v1_where_it_is_offered(offered, subprotocol) -> None:
    framing = server_framing(offered)
    assert framing.subprotocol == subprotocol
    assert isinstance(framing, V1Framing if subprotocol else LegacyFraming)
    with pytest.raises(MalformedMessage, match="iopub"):
        framing.decode(type(framing)().encode("iopub", message(*PARTS)))


@pytest.mark.parametrize(
    ("selected", "kind"),
    [(V1_SUBPROTOCOL, V1Framing), ("", LegacyFraming), (None, LegacyFraming)],
)
def test_client_follows_the_server(selected, kind) -> None:
    framing = client_framing(selected)
    assert isinstance(framing, kind)
    assert framing.decode(framing.encode("iopub", message(*PARTS)))[0] == "iopub"


def test_server_may_not_select_another_subprotocol() -> None:
    with pytest.raises(RemoteProtocolError, match=r"v9\.future"):
        client_framing("v9.future")


@pytest.mark.parametrize("choose", [server_framing, client_framing])
def test_size_limit_is_handed_on(choose) -> None:
    framing = choose("", max_size=10)
    with pytest.raises(MalformedMessage, match="at most 10"):
        framing.decode(" " * 11)


# Passing on.


@both
def test_frames_have_no_key_signature_or_identities(framing: Framing) -> None:
    codec = Codec(b"secret key")
    frames = codec.encode(message(*PARTS, b"buffer"), [b"kernel.topic"])
    data = framing.encode("iopub", codec.decode(frames))
    assert isinstance(data, bytes)
    assert STREAM in data
    for secret in (b"secret key", frames[2], b"kernel.topic", b"<IDS|MSG>"):
        assert secret not in data
    _, received = framing.decode(data)
    assert codec.encode(received) == frames[1:]


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([HEADER, b"{}", b"{}", b"{}"], id="as small as can be"),
        pytest.param([HEADER, PARENT, b"{}", b'{ "b" : 1.50e2,\n"a":[]}'], id="white space"),
        pytest.param([HEADER, PARENT, b"{}", '{"é":"\U0001f40d"}'.encode()], id="not ASCII"),
        pytest.param([HEADER, PARENT, b'{"x":0}', b'{"a":1,"a":2}'], id="name that stands twice"),
        pytest.param([HEADER, PARENT, b"{}", STREAM, b"", b"\0" * 9, b""], id="buffers"),
        pytest.param(
            [b'{"vendor":{},"msg_id":"1","msg_type":"x"}', b"null", b"null", b"5"], id="oddities"
        ),
    ],
)
@both
def test_parts_are_passed_on_byte_for_byte(framing: Framing, parts) -> None:
    data = framing.encode("control", message(*parts))
    channel, received = framing.decode(data)
    assert channel == "control"
    assert list(received.parts) == parts
    assert framing.encode("control", received) == data


@pytest.mark.parametrize(
    "content", [b"", b"not JSON", b'{"a":NaN}', rb'{"a":"\ud800"}', b"[" * 10_000]
)
def test_v1_does_not_look_at_content(content) -> None:
    _, received = v1.decode(v1.encode("iopub", message(HEADER, b"null", content, content)))
    assert received.raw_content == received.raw_metadata == content


@both
@pytest.mark.parametrize("buffers", [[], [b"\xff\0"]], ids=["no buffers", "buffers"])
def test_clients_get_valid_utf_8(framing: Framing, buffers: list[bytes]) -> None:
    parts = [part.replace(b"}", b',"x":"caf\xe9"}') for part in (HEADER, PARENT, STREAM, STREAM)]
    _, received = framing.decode(framing.encode("iopub", message(*parts, *buffers)))
    for before, after in zip(parts, received.parts[:4], strict=True):
        assert bytes(after).decode() == before.decode(errors="replace")
    assert list(map(bytes, received.buffers)) == buffers


@both
def test_buffers_are_not_copied(framing: Framing) -> None:
    data = framing.encode("iopub", message(*PARTS, bytes(1000), b""))
    _, received = framing.decode(data)
    assert [memoryview(buffer).obj is data for buffer in received.buffers] == [True, True]


@both
def test_buffers_of_any_shape(framing: Framing) -> None:
    numbers = array("d", [1.5, -2.5])
    data = framing.encode("shell", message(*PARTS, memoryview(numbers), memoryview(b"\xff")))
    _, received = framing.decode(data)
    assert list(received.buffers) == [numbers.tobytes(), b"\xff"]


@both
def test_received_frame_may_be_a_view(framing: Framing) -> None:
    data = framing.encode("shell", message(*PARTS, b"\xff"))
    assert isinstance(data, bytes)
    for view in (memoryview(data), memoryview(bytearray(data))):
        assert list(framing.decode(view)[1].parts) == [*PARTS, b"\xff"]


# Details of the legacy framing that clients need.


def test_gateway_clients_find_their_names_at_the_top() -> None:
    envelope = json.loads(legacy.encode("iopub", message(*PARTS)))
    assert {name: envelope[name] for name in ("channel", "msg_id", "msg_type", "buffers")} == {
        "channel": "iopub",
        "msg_id": "k_1",
        "msg_type": "stream",
        "buffers": [],
    }


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(LEGACY_GOLDEN, id="text"),
        pytest.param(LEGACY_GOLDEN.encode(), id="binary"),
        pytest.param(b"\0\0\0\x01\0\0\0\x08" + LEGACY_GOLDEN.encode(), id="binary with a table"),
    ],
)
def test_message_without_buffers_in_any_frame(data) -> None:
    assert list(legacy.decode(data)[1].parts) == PARTS


def test_gateway_clients_send_buffers_in_text_frames() -> None:
    frame = legacy.encode("shell", message(*PARTS, b"ASCII"))
    assert isinstance(frame, bytes)
    channel, received = legacy.decode(frame.decode())
    assert (channel, list(received.parts)) == ("shell", [*PARTS, b"ASCII"])


def test_missing_parts_have_defaults() -> None:
    channel, received = legacy.decode('{"header":{"msg_id":"1","msg_type":"x"}}')
    assert channel == "shell"
    assert list(received.parts) == [b'{"msg_id":"1","msg_type":"x"}', b"{}", b"{}", b"{}"]


def test_empty_parts_are_written_as_empty_objects() -> None:
    data = legacy.encode("iopub", message(HEADER, b"", memoryview(b""), b"{}"))
    _, received = legacy.decode(data)
    assert list(received.parts) == [HEADER, b"{}", b"{}", b"{}"]


def test_a_message_without_content_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="a stream without content"):
        legacy.encode("iopub", message(HEADER, b"", b"", b""))


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        pytest.param('{"a":NaN,"b":[-Infinity]}', '{"a": NaN, "b": [-Infinity]}', id="NaN"),
        pytest.param(r'{"\ud800":"\udc00"}', r'{"\ud800": "\udc00"}', id="lone surrogates"),
        pytest.param('{"a":"é","b":NaN}', r'{"a": "\u00e9", "b": NaN}', id="not ASCII"),
    ],
)
def test_content_that_breaks_the_rules_is_passed_on_by_its_meaning(content, meaning) -> None:
    frame = f'{{"header":{HEADER.decode()},"content":{content},"channel":"iopub"}}'
    channel, received = legacy.decode(frame)
    assert channel == "iopub"
    assert list(received.parts) == [
        b'{"msg_id": "k_1", "msg_type": "stream"}',
        b"{}",
        b"{}",
        meaning.encode(),
    ]


def test_text_that_is_none_is_replaced() -> None:
    sent = legacy.encode("iopub", message(HEADER, b"{}", b"{}", b'{"text":"\xff"}'))
    assert legacy.decode(sent)[1].content == Stream(text="\N{REPLACEMENT CHARACTER}")
    received = LEGACY_GOLDEN.replace("42", "\ud800")
    assert legacy.decode(received)[1].content == Stream(text="?")


def test_names_may_hold_anything() -> None:
    header = rb'{"msg_id":"\"\ud800","msg_type":"\u0000\\"}'
    envelope = json.loads(legacy.encode("iopub", message(header, b"{}", b"{}", b"{}")))
    assert (envelope["msg_id"], envelope["msg_type"]) == ('"\ud800', "\0\\")
    assert envelope["header"]["msg_id"] == envelope["msg_id"]


@pytest.mark.parametrize(
    "forgery",
    [
        b'{}, "channel": "shell"',
        b'{}, "channel": "shell", "header": {"msg_id":"forged","msg_type":"x"}, "msg_id": "forged"',
        b'{}, "channel": "shell"}',
        b'{}, "channel": "shell", "x": {"y": {}',
        b'{}, "channel": "shell", "x": "',
        b'{}, "channel": "shell", "x": "\\',
        b'{}, "channel": "shell", "x',
    ],
)
def test_content_cannot_forge_its_envelope(forgery) -> None:
    for metadata, content in ((b"{}", forgery), (forgery, b"{}"), (forgery, forgery)):
        data = legacy.encode("iopub", message(HEADER, PARENT, metadata, content))
        try:
            envelope = json.loads(data)
        except ValueError:
            continue
        assert (envelope["channel"], envelope["msg_id"]) == ("iopub", "k_1")
        assert envelope["header"] == json.loads(HEADER)


def test_message_that_is_too_large_for_the_legacy_framing(tmp_path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(2**32)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as huge,
        memoryview(huge) as buffer,
        pytest.raises(LocalProtocolError, match="too large"),
    ):
        legacy.encode("iopub", Message(HEAD, None, [*PARTS, buffer, b"buffer"]))


# Channels.


def with_channel(framing: Framing, name: str) -> bytes | str:
    return framing.encode(name, message(*PARTS))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FROM_CLIENT)
@both
def test_channels_of_a_client(framing: Framing, name) -> None:
    assert type(framing)().decode(with_channel(framing, name))[0] == name


@pytest.mark.parametrize("name", FROM_SERVER)
@both
def test_channels_of_a_server(framing: Framing, name) -> None:
    assert framing.decode(with_channel(framing, name))[0] == name


@pytest.mark.parametrize("name", ["", "Shell", "shell ", "shell1", "stream", "é", "x" * 10_000])
@both
def test_unknown_channel(framing: Framing, name) -> None:
    with pytest.raises(MalformedMessage, match="channel") as caught:
        framing.decode(with_channel(framing, name))
    assert len(str(caught.value)) < 100


@pytest.mark.parametrize("name", sorted(set(CHANNEL_NAMES) - set(FROM_CLIENT)))
@both
def test_forged_channel(framing: Framing, name) -> None:
    with pytest.raises(MalformedMessage, match=name):
        type(framing)().decode(with_channel(framing, name))


@both
def test_heartbeats_are_not_accepted(framing: Framing) -> None:
    with pytest.raises(MalformedMessage, match="hb"):
        framing.decode(with_channel(framing, "hb"))


def test_channel_that_is_no_text() -> None:
    with pytest.raises(MalformedMessage, match="channel"):
        v1.decode(v1_frame([b"\xff\xfe", *PARTS]))


@pytest.mark.parametrize("channel", ["1", "[]", '["shell"]', '{"shell":1}', "true", "NaN", '""'])
def test_legacy_channel_that_is_no_name(channel) -> None:
    with pytest.raises(MalformedMessage, match="channel"):
        legacy.decode(f'{{"header":{HEADER.decode()},"channel":{channel}}}')


@pytest.mark.parametrize("frame", ['{"header":%s}', '{"header":%s,"channel":null}'])
def test_legacy_channel_is_shell_when_none_is_named(frame) -> None:
    assert legacy.decode(frame % HEADER.decode())[0] == "shell"


# Bad frames.


def u64(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def u32(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def v1_frame(parts: Sequence[bytes], **changed: int) -> bytes:
    """Return a frame, with some of the numbers in its table ("n", "o0", "o1" ...) changed."""
    offsets = list(accumulate(map(len, parts), initial=8 * (2 + len(parts))))
    numbers = {"n": len(offsets), **{f"o{i}": offset for i, offset in enumerate(offsets)}}
    return u64(*(numbers | changed).values()) + b"".join(parts)


def legacy_frame(parts: Sequence[bytes], **changed: int) -> bytes:
    offsets = list(accumulate(map(len, parts), initial=4 * (1 + len(parts))))[:-1]
    numbers = {"n": len(offsets), **{f"o{i}": offset for i, offset in enumerate(offsets)}}
    return u32(*(numbers | changed).values()) + b"".join(parts)


SHELL = [b"shell", *PARTS]  # the parts begin at 56, 61, 97, 142, 144; the frame ends at 173
GOOD_V1 = v1_frame(SHELL)

BAD_V1 = {
    "nothing": b"",
    "a text frame": GOOD_V1.decode("latin-1"),
    "no whole number": GOOD_V1[:7],
    "a number alone": GOOD_V1[:8],
    "half a table": GOOD_V1[:40],
    "table without parts": GOOD_V1[:56],
    "a byte too few": GOOD_V1[:-1],
    "a byte too many": GOOD_V1 + b" ",
    "no parts": u64(0),
    "one offset": u64(1, 16),
    "no content": v1_frame(SHELL[:-1]),
    "count too small": v1_frame(SHELL, n=5),
    "count too large": v1_frame(SHELL, n=7),
    "count beyond the frame": v1_frame(SHELL, n=1000),
    "absurd count": v1_frame(SHELL, n=2**64 - 1),
    "absurd count, times 8 it is small": v1_frame(SHELL, n=2**61 + 6),
    "first part inside the table": v1_frame(SHELL, o0=48),
    "first part cut short": v1_frame(SHELL, o0=57),
    "gap behind the table": u64(6, 57, 62, 98, 143, 145, 174) + b" " + b"".join(SHELL),
    "header ends before it begins": v1_frame(SHELL, o2=60),
    "buffer ends before it begins": v1_frame([*SHELL, b"ab", b""], o6=172),
    "offset beyond the end": v1_frame(SHELL, o3=174),
    "absurd offset": v1_frame(SHELL, o3=2**64 - 1),
    "frame ends before its last part": v1_frame(SHELL, o5=172),
    "frame ends beyond itself": v1_frame(SHELL, o5=174),
    "header is empty": v1_frame(SHELL, o2=61),
    "header is no JSON": v1_frame([b"shell", b"garbage", *PARTS[1:]]),
    "header is no object": v1_frame([b"shell", b"[]", *PARTS[1:]]),
    "header without msg_type": v1_frame([b"shell", b'{"msg_id":"1"}', *PARTS[1:]]),
    "parent header is no JSON": v1_frame([b"shell", HEADER, b"garbage", *PARTS[2:]]),
    "parent header is no header": v1_frame([b"shell", HEADER, b'{"msg_id":[]}', *PARTS[2:]]),
    "header is a bomb": v1_frame([b"shell", b'{"a":' * 100_000, *PARTS[1:]]),
}


@pytest.mark.parametrize("data", BAD_V1.values(), ids=BAD_V1)
def test_bad_v1_frame(data) -> None:
    assert V1Framing().decode(GOOD_V1)[0] == "shell"
    with pytest.raises(MalformedMessage):
        V1Framing().decode(data)


JSON = LEGACY_GOLDEN.replace("iopub", "shell").encode()
GOOD_LEGACY = legacy_frame([JSON, b"\xff" * 9])  # the parts begin at 12 and 256

BAD_LEGACY = {
    "nothing": b"",
    "empty text": "",
    "white space": " ",
    "NUL": "\0",
    "no whole number": GOOD_LEGACY[:3],
    "a number alone": GOOD_LEGACY[:4],
    "half a table": GOOD_LEGACY[:10],
    "table without parts": GOOD_LEGACY[:12],
    "half a message": GOOD_LEGACY[:100],
    "no parts": u32(0) + JSON,
    "count too small": legacy_frame([JSON, b"\xff"], n=1),
    "count too large": legacy_frame([JSON, b"\xff"], n=3),
    "absurd count": legacy_frame([JSON, b"\xff"], n=2**24 - 1),
    "absurd count, no table": legacy_frame([JSON, b"\xff"], n=2**32 - 1),
    "first part inside the table": legacy_frame([JSON, b"\xff"], o0=11),
    "gap behind the table": legacy_frame([b" " + JSON, b"\xff"], o0=13),
    "JSON ends before it begins": legacy_frame([JSON, b"\xff", b""], o1=11),
    "buffer ends before it begins": legacy_frame([JSON, b"ab", b""], o2=255),
    "offset beyond the end": legacy_frame([JSON, b"\xff"], o1=1000),
    "absurd offset": legacy_frame([JSON, b"\xff"], o1=2**32 - 1),
    "JSON is cut short": legacy_frame([JSON, b"\xff"], o1=200),
    "garbage": "garbage",
    "JSON, and more": JSON.decode() + "{}",
    "null": "null",
    "a number": "42",
    "a string": '"shell"',
    "an array": "[{}]",
    "no header": '{"channel":"shell","content":{}}',
    "header is null": '{"header":null,"channel":"shell"}',
    "header is no object": '{"header":[],"channel":"shell"}',
    "header is a string": '{"header":"{}","channel":"shell"}',
    "header without msg_type": '{"header":{"msg_id":"1"},"channel":"shell"}',
    "msg_id is no string": '{"header":{"msg_id":{},"msg_type":"x"},"channel":"shell"}',
    "parent header is no object": JSON.replace(PARENT, b'"s_1"'),
    "parent header is no header": JSON.replace(PARENT, b'{"msg_id":[]}'),
    "name is no UTF-8": JSON.replace(b"header", b"\xff"),
    "not a text": b"\xff\xfe" + JSON,
    "content is a bomb": JSON.replace(STREAM, b"[" * 100_000),
    "frame is a bomb": '{"a":' * 100_000,
    "endless number": JSON.replace(STREAM, b"[NaN," + b"1" * 10_000 + b"]"),
}


@pytest.mark.parametrize("data", BAD_LEGACY.values(), ids=BAD_LEGACY)
def test_bad_legacy_frame(data) -> None:
    assert LegacyFraming().decode(GOOD_LEGACY)[0] == "shell"
    assert LegacyFraming().decode(JSON)[0] == "shell"
    with pytest.raises(MalformedMessage):
        LegacyFraming().decode(data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param(V1Framing, GOOD_V1, id="v1"),
        pytest.param(LegacyFraming, GOOD_LEGACY, id="legacy"),
        pytest.param(LegacyFraming, JSON.decode(), id="legacy text"),
    ],
)
def test_frame_may_be_as_large_as_the_limit(kind, data) -> None:
    assert kind(max_size=len(data)).decode(data)[0] == "shell"
    with pytest.raises(MalformedMessage, match=f"size {len(data)}; at most {len(data) - 1}"):
        kind(max_size=len(data) - 1).decode(data)


@pytest.mark.parametrize(
    ("framing", "data"),
    [
        pytest.param(v1, v1_frame([*SHELL, *[b""] * 200_000]), id="v1"),
        pytest.param(legacy, legacy_frame([JSON, *[b""] * 200_000]), id="legacy"),
        pytest.param(v1, u64(2**40) + bytes(10**6), id="v1, count beyond the frame"),
        pytest.param(V1Framing(max_size=10**5), GOOD_V1 + bytes(10**6), id="v1 too large"),
        pytest.param(LegacyFraming(max_size=10**5), " " * 10**6, id="legacy too large"),
    ],
)
def test_small_frame_does_not_become_a_large_list(framing: Framing, data) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(MalformedMessage):
            framing.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 50_000
    finally:
        tracemalloc.stop()


# Whatever comes.


names = st.text(max_size=20)
contents = st.dictionaries(names, st.none() | st.integers() | names | st.lists(names, max_size=3))
headers = st.builds(Header, msg_id=st.text(min_size=1), msg_type=names)
messages = st.builds(
    lambda header, parent, content, metadata, buffers: Message.build(
        header,
        content,
        parent=parent and Message.build(parent, {}),
        metadata=metadata,
        buffers=buffers,
    ),
    headers,
    st.none() | headers,
    contents,
    contents,
    st.lists(st.binary(), max_size=4),
)


@given(sent=messages, channel=st.sampled_from(FROM_SERVER))
@both
def test_round_trip(framing: Framing, sent, channel) -> None:
    data = framing.encode(channel, sent)
    assert isinstance(data, str) == (framing is legacy and not sent.buffers)
    received_channel, received = framing.decode(data)
    assert received_channel == channel
    assert received.header == sent.header
    assert received.parent_header == sent.parent_header
    assert received.parts == sent.parts


@given(st.binary() | st.binary().map(lambda data: b"\0\0\0\1\0\0\0\x08" + data) | st.text())
@example(u64(6))
@both
def test_arbitrary_frames_are_refused(framing: Framing, data) -> None:
    with pytest.raises(MalformedMessage):
        framing.decode(data)


edits = st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=2), st.integers(0, 8)))


@given(
    original=st.sampled_from([V1_GOLDEN, GOOD_V1, LEGACY_GOLDEN_WITH_BUFFERS, GOOD_LEGACY, JSON]),
    edits=edits,
)
@example(original=V1_GOLDEN, edits=[(133, b" \x80", 2)])  # not valid UTF-8
def test_damaged_frames_raise_nothing_else(original, edits) -> None:
    data = original
    for place, inserted, removed in edits:
        data = data[:place] + inserted + data[place + removed :]
    for framing in (v1, legacy):
        try:
            channel, received = framing.decode(data)
        except MalformedMessage:
            continue
        assert channel in FROM_SERVER
        assert len(received.parts) >= 4
        if framing is v1:  # there is one way to write a message
            written = v1.encode(channel, received)
            if written != data:  # bytes that are not valid UTF-8 were replaced
                with pytest.raises(UnicodeDecodeError):
                    b"".join(received.parts[:4]).decode()
                data = written
            assert v1.encode(*v1.decode(data)) == data


@pytest.mark.parametrize("place", [0, 1])
def test_size_of_headers_is_bounded(place: int) -> None:
    parts = [b'{"msg_id": "1", "msg_type": "x"}', b"{}", b"{}", b"{}"]
    for size, accepted in ((65_536, True), (65_537, False)):
        parts[place] = parts[place].ljust(size)
        message = Message(Header(msg_id="1", msg_type="x"), None, tuple(parts))
        framing = server_framing([V1_SUBPROTOCOL])
        frame = framing.encode("shell", message)
        if accepted:
            assert framing.decode(frame)[1].msg_id == "1"
        else:
            with pytest.raises(MalformedMessage, match="a header of 65537 bytes; at most 65536"):
                framing.decode(frame)
