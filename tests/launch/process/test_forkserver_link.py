from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kernelproto.launch.process.forkserver_link import Link, Posted

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60


@pytest.fixture
def ends() -> Iterator[tuple[Link, socket.socket]]:
    """Give a link and the other end of its sockets."""
    end, other = socket.socketpair()
    other.settimeout(GUARD_SECONDS)
    link = Link(end)
    yield link, other
    link.close()
    other.close()


def run(link: Link, received: list[Any]) -> threading.Thread:
    """Run the link in a thread until its other end is closed."""
    thread = threading.Thread(target=link.run, args=[received.append, lambda *_: False, 0.1])
    thread.start()
    return thread


def test_messages_arrive_in_order_with_their_descriptors(ends) -> None:
    link, other = ends
    with open(os.devnull) as file:
        link.post(Posted({"number": 1}, [os.dup(file.fileno())]))
        link.post(Posted({"number": 2}))
        data, descriptors, _, _ = socket.recv_fds(other, 4096, 2)
        while data.count(b"\n") < 2:
            data += other.recv(4096)
        assert [json.loads(line)["number"] for line in data.splitlines()] == [1, 2]
        (descriptor,) = descriptors
        assert os.fstat(descriptor) == os.fstat(file.fileno())
        os.close(descriptor)


def test_messages_of_the_server_are_taken_whole(ends) -> None:
    link, other = ends
    received: list[Any] = []
    thread = run(link, received)
    for piece in (b'{"ready"', b": true}\n{", b'"ended": 1}\n'):
        other.sendall(piece)
    other.shutdown(socket.SHUT_WR)
    thread.join(GUARD_SECONDS)
    assert received == [{"ready": True}, {"ended": 1}]


def test_message_that_does_not_fit_is_sent_later(ends) -> None:
    link, other = ends
    text = "x" * 4_000_000
    link.post(Posted({"text": text}))
    thread = run(link, [])
    data = b""
    while not data.endswith(b"\n"):
        data += other.recv(1_000_000)
    assert json.loads(data) == {"text": text}
    link.shut_down()
    thread.join(GUARD_SECONDS)
    assert not thread.is_alive()


def test_withdrawn_message_is_not_sent(ends) -> None:
    link, other = ends
    link.post(Posted({"text": "x" * 4_000_000}))
    with open(os.devnull) as file:
        withdrawn = Posted({"number": 1}, [os.dup(file.fileno())])
        link.post(withdrawn)
        link.withdraw(withdrawn)
    link.post(Posted({"number": 2}))
    thread = run(link, [])
    data = b""
    while data.count(b"\n") < 2:
        data += other.recv(1_000_000)
    assert json.loads(data.splitlines()[1]) == {"number": 2}
    assert withdrawn.descriptors == []
    link.shut_down()
    thread.join(GUARD_SECONDS)


def test_closed_link_discards_messages(ends) -> None:
    link, other = ends
    link.close()
    with open(os.devnull) as file:
        posted = Posted({"number": 1}, [os.dup(file.fileno())])
        link.post(posted)
    assert posted.descriptors == []
    assert other.recv(1) == b""
