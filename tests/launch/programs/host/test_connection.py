"""The connection of a program to the host: when acknowledgements and messages are sent."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kernelproto.launch.programs.host import frames
from kernelproto.launch.programs.host.connection import Connection
from kernelproto.launch.programs.host.frames import Frame, FrameReader
from kernelproto.launch.programs.host.kernel import Kernel, Place
from kernelproto.launch.programs.host.message_log import Limits

SMALL = 100


class Owned:
    """A kernel, the connection of its owner, and the owner's end."""

    def __init__(self, folder: Path, near: socket.socket, far: socket.socket) -> None:
        self.kernel = Kernel("k", Place(str(folder), {}), Limits(), None, 0.0)
        self.connection = Connection(near, lambda connection, request, number: None)
        self.kernel.attach(self.connection, "claim", "a")
        self.connection.attach(self.kernel, 0)
        self._far = far
        self._reader = FrameReader(frames.MESSAGE_BYTES)
        self.connection.flush()
        self.arrived()  # the version

    def arrived(self) -> list[Frame]:
        """Return the frames that the owner has got since the last call."""
        found: list[Frame] = []
        while True:
            try:
                found += self._reader.feed(self._far.recv(2**16))
            except BlockingIOError:
                return found


class FastReader(socket.socket):
    """The host's end for a program that reads everything before the host sends the next bytes.

    Attributes:
        read: the frames that the program has read.
    """

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        super().__init__(fileno=near.detach())
        self.setblocking(False)
        far.setblocking(False)
        self.read: list[Frame] = []
        self._far = far
        self._reader = FrameReader(frames.MESSAGE_BYTES)

    def sendmsg(self, buffers: Iterable[Any], *arguments: Any) -> int:
        left = sent = super().sendmsg(buffers, *arguments)
        while left:
            data = self._far.recv(left)
            self.read += self._reader.feed(data)
            left -= len(data)
        return sent


@pytest.fixture
def owned(tmp_path: Path) -> Iterator[Owned]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        owned = Owned(tmp_path, near, far)
        yield owned
        owned.kernel.log.close()


def ack(channel: int, number: int) -> Frame:
    return Frame(frames.ACK, channel, number, b"")


def test_acknowledgement_goes_in_front_of_the_next_message(owned: Owned) -> None:
    before = time.monotonic()
    owned.connection.passed(frames.SHELL, 1, SMALL)
    owned.connection.passed(frames.SHELL, 2, SMALL)
    owned.connection.passed(frames.CONTROL, 1, SMALL)
    owned.connection.finish()
    owned.connection.pump()
    assert owned.arrived() == []
    assert owned.connection.due is not None
    assert before < owned.connection.due <= time.monotonic() + 0.05
    owned.kernel.log.append(frames.IOPUB, b"busy")
    owned.connection.pump()
    message = Frame(frames.MESSAGE, frames.IOPUB, 1, b"busy")
    assert owned.arrived() == [ack(frames.SHELL, 2), ack(frames.CONTROL, 1), message]
    assert owned.connection.due is None


def test_acknowledgement_that_is_due_is_sent_alone(owned: Owned) -> None:
    owned.connection.passed(frames.SHELL, 1, SMALL)
    owned.connection.acknowledge()
    assert owned.arrived() == [ack(frames.SHELL, 1)]
    assert owned.connection.due is None
    owned.connection.acknowledge()
    assert owned.arrived() == []


def test_acknowledgement_of_many_bytes_does_not_wait(owned: Owned) -> None:
    """Otherwise a program that fills the window would wait for the time."""
    for number in range(1, 9):
        owned.connection.passed(frames.SHELL, number, 2**17)
    owned.connection.finish()
    assert owned.arrived() == [ack(frames.SHELL, 8)]
    owned.connection.passed(frames.SHELL, 9, SMALL)
    owned.connection.finish()
    assert owned.arrived() == []


def test_messages_wait_for_room_even_if_the_program_reads_all_at_once(tmp_path: Path) -> None:
    near, far = socket.socketpair()
    with FastReader(near, far) as reader, far:
        owned = Owned(tmp_path, reader, far)
        for _ in range(60):
            owned.kernel.log.append(frames.IOPUB, bytes(100_000))
        owned.connection.pump()
        turns = 0
        while owned.connection.wants_to_write:
            owned.connection.flush()
            owned.connection.pump()
            turns += 1
        messages = [frame.number for frame in reader.read if frame.kind == frames.MESSAGE]
        assert messages == list(range(1, 61))
        assert turns > 3  # other programs have their turns meanwhile
        owned.kernel.log.close()


def test_messages_of_a_removed_kernel_are_not_waited_for(owned: Owned) -> None:
    for _ in range(20):
        owned.kernel.log.append(frames.IOPUB, bytes(100_000))
    owned.connection.pump()
    owned.kernel.owner = None
    while owned.arrived():
        owned.connection.flush()
        owned.connection.pump()
    assert not owned.connection.wants_to_write
