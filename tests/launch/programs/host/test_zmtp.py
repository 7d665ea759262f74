from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.launch.programs.host import zmtp
from kernelproto.launch.programs.host.zmtp import GREETING, ProtocolFault, Receiver, join, split

READY = zmtp.ready(b"ROUTER")
HANDSHAKE = GREETING + READY

messages = st.lists(
    st.lists(st.binary(max_size=300), min_size=1, max_size=8), min_size=1, max_size=8
)


def received(data: bytes, *, most: int = 2**20, cut: int = 2**20) -> list[bytes | None]:
    receiver = Receiver(most)
    found = []
    for at in range(0, len(data), cut):
        found += receiver.feed(data[at : at + cut])
    return found


def test_greeting_has_the_length_of_the_specification() -> None:
    assert len(GREETING) == 64
    assert GREETING[10:12] == b"\x03\x00"
    assert GREETING[12:32].rstrip(b"\0") == b"NULL"


def test_ready_names_type_and_identity() -> None:
    assert zmtp.ready(b"DEALER", b"me") == (
        b"\x04\x2b\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x08Identity\x00\x00\x00\x02me"
    )


@given(messages, st.integers(1, 100))
def test_messages_survive_any_cut(sent, cut) -> None:
    data = HANDSHAKE + b"".join(map(join, sent))
    found = received(data, cut=cut)
    assert [list(map(bytes, split(message or b""))) for message in found] == sent


@pytest.mark.parametrize("size", [0, 255, 256, zmtp._LARGE, 2**17])
def test_frames_of_any_size(size) -> None:
    frames = [b"a", bytes(size), b"", memoryview(b"b" * size)]
    (message,) = received(HANDSHAKE + join(frames))
    assert message is not None
    assert list(map(bytes, split(message))) == list(map(bytes, frames))


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_message_above_the_limit_is_discarded(cut) -> None:
    large = [
        [b"x" * 5000],
        [b"x" * 3000, b"y" * 3000],
        [b"x" * 5000, b"", b"y"],
        [b"z", b"x" * 5000],
    ]
    for frames in large:
        data = HANDSHAKE + join([b"before"]) + join(frames) + join([b"after"])
        assert received(data, most=4096, cut=cut) == [join([b"before"]), None, join([b"after"])]


def test_message_of_huge_size_takes_no_memory() -> None:
    receiver = Receiver(4096)
    receiver.feed(HANDSHAKE + b"\x02" + (2**62).to_bytes(8, "big"))
    for _ in range(100):
        assert receiver.feed(bytes(2**16)) == []
    assert len(receiver._unread) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400",
        b"\xff" + bytes(8) + b"\x7e",
        b"\xff" + bytes(8) + b"\x7f\x01\x00",
        GREETING.replace(b"NULL\0", b"CURVE"),
        GREETING + join([b"too early"]),
        GREETING + b"\x04\x0d\x05ERROR\x06refuse",
        HANDSHAKE + b"\x08\x00",
        HANDSHAKE + b"\x05\x00",
        HANDSHAKE + b"\x01\x00\x04\x00",
        HANDSHAKE + b"\x06" + (2**40).to_bytes(8, "big"),
    ],
)
def test_other_protocols_are_refused(data) -> None:
    with pytest.raises(ProtocolFault):
        received(data)


def test_ping_is_answered() -> None:
    receiver = Receiver(2**20)
    receiver.feed(HANDSHAKE + b"\x04\x0a\x04PING\x00\x10abc")
    assert receiver.answers == b"\x04\x08\x04PONGabc"
    assert receiver.feed(b"\x04\x04\x03ABC" + join([b"a"])) == [join([b"a"])]


def test_handshake_is_noticed() -> None:
    receiver = Receiver(2**20)
    receiver.feed(GREETING[:63])
    assert not receiver.greeted
    receiver.feed(GREETING[63:])
    assert receiver.greeted
    assert not receiver.is_ready
    receiver.feed(READY)
    assert receiver.is_ready


@pytest.mark.parametrize(
    "message", [b"", b"\x00", b"\x00\x05abc", b"\x01\x01a", b"\x00\x01ab", b"\x04\x00", b"\x02\x00"]
)
def test_split_refuses_what_is_no_message(message) -> None:
    with pytest.raises(ProtocolFault):
        split(message)
