from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from kernelproto.transport.raw import COPY_BELOW_BYTES, RawSocket, drain, try_send


@pytest.fixture
def pair() -> Iterator[tuple[RawSocket, RawSocket]]:
    """Give two connected sockets; each holds 10 messages that the other has not received."""
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
        for socket in (one, two):
            socket.set(zmq.SNDHWM, 5)
            socket.set(zmq.RCVHWM, 5)
        one.bind("inproc://here")
        two.connect("inproc://here")
        yield one, two


def test_draining_an_empty_socket_gives_nothing(pair) -> None:
    assert drain(pair[0]) == []


def test_draining_gives_whole_messages_in_order(pair) -> None:
    messages = [[b"%d" % number, b"", b"last"] for number in range(10)]
    assert all(try_send(pair[1], message) for message in messages)
    assert drain(pair[0]) == messages
    assert drain(pair[0]) == []


@pytest.mark.parametrize(
    ("size", "kind"),
    [(0, bytes), (COPY_BELOW_BYTES - 1, bytes), (COPY_BELOW_BYTES, memoryview)],
    ids=["empty", "small", "large"],
)
def test_large_frames_are_not_copied(pair, size, kind) -> None:
    sent = bytes(size)
    assert try_send(pair[1], [b"first", sent, sent])
    ((first, *frames),) = drain(pair[0])
    assert type(first) is bytes
    for frame in frames:
        assert type(frame) is kind
        assert frame == sent
        assert hash(frame) == hash(sent)  # it cannot be changed, as bytes cannot


def test_large_frames_outlive_their_socket() -> None:
    with zmq.Context() as context, context.socket(zmq.PAIR) as one, context.socket(zmq.PAIR) as two:
        one.bind("inproc://here")
        two.connect("inproc://here")
        assert try_send(two, [b"x" * COPY_BELOW_BYTES])
        ((frame,),) = drain(one)
    assert bytes(frame) == b"x" * COPY_BELOW_BYTES


def test_draining_stops_at_a_full_batch(pair) -> None:
    messages = [[b"%d" % number] for number in range(4)]
    assert all(try_send(pair[1], message) for message in messages)
    assert drain(pair[0], most=3) == messages[:3]
    assert drain(pair[0]) == messages[3:]


@pytest.mark.parametrize("size", [0, COPY_BELOW_BYTES], ids=["small", "large"])
def test_messages_with_a_head_are_received_whole(pair, size) -> None:
    messages = [[b"1", b"2", b"3", *[bytes(size)] * more] for more in (1, 2, 5)]
    assert all(try_send(pair[1], message) for message in messages)
    assert drain(pair[0], head=3) == messages


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_message_of_a_head_alone_arrives_with_the_next_one(pair, frames) -> None:
    short, whole = [b"short"] * frames, [b"1", b"2", b"3", b"4"]
    for message in (whole, short, whole, whole, short):
        assert try_send(pair[1], message)
    assert drain(pair[0], head=3) == [whole, short + whole, whole, short]


def test_sending_into_a_full_buffer_sends_nothing(pair) -> None:
    for number in range(10):
        assert try_send(pair[1], [b"%d" % number])
    assert not try_send(pair[1], [b"too", b"many"])
    assert drain(pair[0]) == [[b"%d" % number] for number in range(10)]


def test_frames_may_be_views_of_memory(pair) -> None:
    assert try_send(pair[1], [memoryview(b"whole")[1:3], b"bytes"])
    assert drain(pair[0]) == [[b"ho", b"bytes"]]
