"""Slices of received data, and which connection is next; the event loop is a list of callbacks."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from kernelproto.server.program import pacing
from kernelproto.server.program.pacing import SLICE_BYTES, PacedTransport, Pacer


class Loop:
    """An event loop that runs one turn at a time."""

    def __init__(self) -> None:
        self.ready: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []

    def call_soon(self, function: Callable[..., None], *args: Any) -> None:
        self.ready.append(lambda: function(*args))

    def call_later(self, seconds: float, function: Callable[[], None]) -> Any:
        self.later.append(function)
        return self

    def cancel(self) -> None:
        self.later.clear()

    def turn(self) -> None:
        ready, self.ready = self.ready, []
        for function in ready:
            function()


class Wire:
    """A transport that records the calls."""

    def __init__(self) -> None:
        self.is_reading = True
        self.has_ended = False
        self.is_closed = False
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def is_closing(self) -> bool:
        return self.is_closed

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Connection:
    """A paced transport with a protocol that records its slices."""

    def __init__(self, loop: Loop, pacer: Pacer, *, lingers: bool = False) -> None:
        self.wire = Wire()
        self.slices: list[bytes] = []
        self.paced = PacedTransport(self.wire, loop, pacer, self.take, lambda: lingers)

    def take(self, data: bytearray) -> None:
        self.slices.append(bytes(data))

    def received(self, size: int) -> None:
        assert self.wire.is_reading
        self.paced.receive(bytes(size))

    @property
    def sizes(self) -> list[int]:
        return [len(data) for data in self.slices]


@pytest.fixture(autouse=True)
def one_slice_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "TURN_SECONDS", 0.0)


def test_slices_add_up_to_the_received_data() -> None:
    loop, data = Loop(), bytes(range(256)) * 100
    connection = Connection(loop, Pacer())
    connection.paced.receive(data)
    assert not connection.wire.is_reading
    for number in range(2, 13):  # only the first turn had priority
        loop.turn()
        assert len(connection.slices) == number
    assert not connection.wire.is_reading
    loop.turn()
    assert b"".join(connection.slices) == data
    assert max(connection.sizes) == SLICE_BYTES
    assert connection.wire.is_reading
    assert loop.ready == []


def test_turn_goes_on_while_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "TURN_SECONDS", 60.0)
    loop = Loop()
    connection = Connection(loop, Pacer())
    connection.received(100 * SLICE_BYTES)
    loop.turn()
    assert connection.sizes == [SLICE_BYTES] * 100


def test_clients_that_send_little_have_priority() -> None:
    loop, pacer = Loop(), Pacer()
    greedy = [Connection(loop, pacer) for _ in range(50)]
    for connection in greedy:
        connection.received(100 * SLICE_BYTES)
    for _ in range(60):
        loop.turn()
    modest = Connection(loop, pacer)
    before = sum(map(len, (connection.slices for connection in greedy)))
    modest.received(10)
    loop.turn()
    assert modest.sizes == [10]
    assert sum(map(len, (connection.slices for connection in greedy))) == before + 1


def test_clients_that_send_much_take_turns() -> None:
    loop, pacer = Loop(), Pacer()
    modest, first, second = (Connection(loop, pacer) for _ in range(3))
    for connection in (first, second):
        connection.received(5 * SLICE_BYTES)
    for _ in range(12):
        modest.received(1)
        loop.turn()
    assert first.sizes == second.sizes == [SLICE_BYTES] * 5


def test_protocol_that_pauses_gets_nothing_until_it_resumes() -> None:
    loop = Loop()
    connection = Connection(loop, Pacer())
    connection.received(4 * SLICE_BYTES)
    loop.turn()
    connection.paced.pause_reading()
    loop.turn()
    assert len(connection.slices) == 2
    assert loop.ready == []
    connection.paced.resume_reading()
    assert not connection.wire.is_reading  # two slices are left
    loop.turn()
    loop.turn()
    assert len(connection.slices) == 4
    assert connection.wire.is_reading


def test_pause_stops_the_transport_when_data_arrives() -> None:
    """A pause without data takes no system call; later data is neither passed on nor followed."""
    loop = Loop()
    connection = Connection(loop, Pacer())
    connection.paced.pause_reading()
    assert connection.wire.is_reading
    connection.paced.resume_reading()
    connection.paced.pause_reading()
    connection.received(1)
    loop.turn()
    assert not connection.wire.is_reading
    assert connection.slices == []
    connection.paced.resume_reading()
    loop.turn()
    assert connection.sizes == [1]
    assert connection.wire.is_reading


@pytest.mark.parametrize(("most", "count"), [(None, 4), (1, 1)])
def test_lost_connection_passes_on_buffered_data(most: int | None, count: int) -> None:
    loop = Loop()
    connection = Connection(loop, Pacer())
    connection.received(4 * SLICE_BYTES)
    connection.paced.pause_reading()
    connection.wire.close()
    connection.paced.drain(most)
    assert connection.sizes == [SLICE_BYTES] * count
    loop.turn()
    assert connection.sizes == [SLICE_BYTES] * count


def test_new_protocol_gets_only_new_data() -> None:
    loop = Loop()
    connection = Connection(loop, Pacer())
    slices: list[bytes] = []
    connection.received(2 * SLICE_BYTES)
    connection.paced.hand_over(lambda data: slices.append(bytes(data)), lambda: False)
    connection.paced.receive(b"head")
    for _ in range(3):
        loop.turn()
    assert connection.slices == []
    assert slices == [b"head"]
    assert connection.wire.is_reading


def test_close_waits_for_a_client_that_is_still_sending() -> None:
    loop = Loop()
    connection = Connection(loop, Pacer(), lingers=True)
    connection.received(10 * SLICE_BYTES)
    loop.turn()
    count = len(connection.slices)
    connection.paced.close()
    assert connection.paced.is_closing()
    assert connection.wire.has_ended
    assert not connection.wire.is_closed
    for _ in range(5):  # it is thrown away, some in each turn
        connection.received(100 * SLICE_BYTES)
        assert not connection.wire.is_reading
        loop.turn()
    (give_up,) = loop.later
    give_up()
    assert connection.wire.is_closed
    connection.paced.drain()
    assert loop.later == []
    assert len(connection.slices) == count


def test_close_does_not_fail_when_the_client_has_reset_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = Loop()
    connection = Connection(loop, Pacer(), lingers=True)

    def write_eof() -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(connection.wire, "write_eof", write_eof)
    connection.paced.close()
    assert connection.wire.is_closed
    connection.paced.drain()
    assert loop.later == []


def test_second_close_does_not_wait() -> None:
    loop = Loop()
    connection = Connection(loop, Pacer(), lingers=True)
    connection.paced.close()
    connection.paced.close()
    assert connection.wire.is_closed


def test_failing_protocol_does_not_stop_the_others() -> None:
    loop, pacer = Loop(), Pacer()
    failing, working = Connection(loop, pacer), Connection(loop, pacer)

    def fail(data: bytearray) -> None:
        raise RuntimeError

    failing.paced.hand_over(fail, lambda: False)
    failing.received(1)
    working.received(1)
    with pytest.raises(RuntimeError):
        loop.turn()
    loop.turn()
    assert working.sizes == [1]
