from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from kernelproto.transport.raw import MOST_AT_ONCE, RawSocket, drain, try_send


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
    assert drain(pair[0], []) == []


def test_draining_gives_whole_messages_in_order(pair) -> None:
    messages = [[b"%d" % number, b"", b"last"] for number in range(10)]
    assert all(try_send(pair[1], message) for message in messages)
    assert drain(pair[0], []) == messages
    assert drain(pair[0], []) == []


def test_draining_adds_to_the_batch_and_returns_it(pair) -> None:
    batch = [[b"here already"]]
    try_send(pair[1], [b"new"])
    assert drain(pair[0], batch) is batch
    assert batch == [[b"here already"], [b"new"]]


def test_draining_stops_at_a_full_batch(pair) -> None:
    batch = [[b""]] * (MOST_AT_ONCE - 1)
    assert all(try_send(pair[1], [b"%d" % number]) for number in range(2))
    assert len(drain(pair[0], batch)) == MOST_AT_ONCE
    assert drain(pair[0], []) == [[b"1"]]


def test_sending_into_a_full_buffer_sends_nothing(pair) -> None:
    for number in range(10):
        assert try_send(pair[1], [b"%d" % number])
    assert not try_send(pair[1], [b"too", b"many"])
    assert drain(pair[0], []) == [[b"%d" % number] for number in range(10)]


def test_frames_may_be_views_of_memory(pair) -> None:
    assert try_send(pair[1], [memoryview(b"whole")[1:3], b"bytes"])
    assert drain(pair[0], []) == [[b"ho", b"bytes"]]
