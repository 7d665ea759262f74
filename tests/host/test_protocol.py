from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.exceptions import RemoteProtocolError
from kernelproto.host import protocol
from kernelproto.host.protocol import HostProtocol, KernelExit
from kernelproto.launch.programs.host import frames, zmtp
from kernelproto.launch.programs.host.frames import Frame, FrameReader, pack, pack_json

HELLO = pack_json(frames.ANSWER, {"ok": {"version": frames.VERSION}})


class Host:
    """The host's side of one connection, and what the client has delivered."""

    def __init__(self, *, replays: bool = False) -> None:
        self.client = HostProtocol(
            {"op": "start", "argv": []},
            kernel_id="k",
            claim="secret",
            attachment="a",
            replays=replays,
        )
        self.delivered: list[tuple[str, list[bytes]]] = []
        self.reader = FrameReader(frames.MESSAGE_BYTES)
        self.client.deliver_to(self.deliver)

    def deliver(self, channel: str, parts: Sequence[bytes | memoryview]) -> None:
        self.delivered.append((channel, list(map(bytes, parts))))

    def sent(self) -> list[Frame]:
        """Return what the client has sent since the last call."""
        return self.reader.feed(self.client.output())

    def attach(self, **answer: object) -> Frame:
        """Connect, and accept the first request, which is returned."""
        self.client.connected()
        self.reader = FrameReader(frames.MESSAGE_BYTES)
        self.client.receive(HELLO)
        (request,) = self.sent()
        self.client.receive(pack_json(frames.ANSWER, {"ok": answer}))
        return request

    def message(self, number: int, channel: int = frames.IOPUB) -> bytes:
        body = zmtp.join([b"topic", str(number).encode()])
        return pack(frames.MESSAGE, body, channel=channel, number=number)

    @property
    def numbers(self) -> list[int]:
        return [int(parts[-1]) for _, parts in self.delivered]


@pytest.fixture
def host() -> Host:
    return Host()


def test_first_connection_starts_and_later_ones_attach(host) -> None:
    assert host.attach().json() == {
        "op": "start",
        "argv": [],
        "kernel": "k",
        "claim": "secret",
        "attachment": "a",
    }
    host.client.receive(host.message(1) + host.message(2))
    host.client.disconnected()
    assert host.attach().json() == {
        "op": "attach",
        "kernel": "k",
        "claim": "secret",
        "attachment": "a",
        "after": 2,
    }


def test_first_request_is_repeated_until_it_is_answered(host) -> None:
    host.client.connected()
    host.client.receive(HELLO)
    host.client.connected()
    host.client.receive(HELLO)
    (request,) = FrameReader(0).feed(host.client.output())
    assert request.json()["op"] == "start"


@given(st.integers(1, 40))
def test_answers_and_messages_survive_any_cut(cut) -> None:
    host = Host()
    data = HELLO + pack_json(frames.ANSWER, {"ok": {"after": 3}})
    data += b"".join(map(host.message, range(4, 10)))
    host.client.connected()
    answers = []
    for at in range(0, len(data), cut):
        answers += host.client.receive(data[at : at + cut])
    assert [answer.ok for answer in answers] == [{"after": 3}]
    assert host.numbers == list(range(4, 10))
    assert host.client.lost == 0


def test_doubles_are_dropped_and_gaps_counted(host) -> None:
    host.attach()
    for number in (1, 2, 2, 1, 3, 7):
        host.client.receive(host.message(number))
    assert host.numbers == [1, 2, 3, 7]
    assert host.client.lost == 3
    assert host.client.last == 7


def test_acknowledgements_are_coalesced(host) -> None:
    host.attach()
    host.client.receive(host.message(1) + host.message(2))
    assert host.sent() == []
    host.client.acknowledge()
    host.client.acknowledge()
    assert host.sent() == [Frame(frames.ACK, 0, 2, b"")]
    for number in range(3, 1000):
        host.client.receive(host.message(number))
    assert 0 < len(host.sent()) < 5


def test_what_the_kernel_has_not_is_sent_again(host) -> None:
    host.client.send("shell", b"1")
    host.attach()
    host.client.send("shell", b"2")
    host.client.send("control", b"c")
    assert [frame.body for frame in host.sent()] == [b"1", b"2", b"c"]
    host.client.receive(pack(frames.ACK, channel=frames.SHELL, number=1))
    host.client.disconnected()
    host.client.send("shell", b"3")
    assert host.sent() == []
    host.attach(passed=[1, 0, 0, 0, 0])
    found = [(frame.channel, frame.number, frame.body) for frame in host.sent()]
    assert found == [(0, 2, b"2"), (0, 3, b"3"), (3, 1, b"c")]


def test_window(host) -> None:
    host.attach()
    assert host.client.has_room("shell", 10**9)
    host.client.send("shell", bytes(frames.WINDOW_BYTES - 100))
    assert host.client.has_room("shell", 50)
    assert not host.client.has_room("shell", 200)
    assert host.client.has_room("control", 200)
    host.client.receive(pack(frames.ACK, channel=frames.SHELL, number=1))
    assert host.client.has_room("shell", 200)


def test_heartbeats_are_neither_kept_nor_numbered(host) -> None:
    host.client.send("hb", b"lost")
    host.attach()
    host.client.send("hb", b"beat")
    assert host.sent() == [Frame(frames.MESSAGE, frames.HB, 0, b"beat")]
    echo = pack(frames.MESSAGE, zmtp.join([b"", b"beat"]), channel=frames.HB)
    host.client.receive(echo)
    assert host.delivered == [("hb", [b"", b"beat"])]
    assert host.client.to_acknowledge == 0


def test_requests_are_answered_and_repeated_on_the_next_connection(host) -> None:
    number = host.client.request("status", {})
    host.attach()
    assert [frame.number for frame in host.sent()] == [number]
    host.client.disconnected()
    host.attach()
    (frame,) = host.sent()
    assert frame.json() == {"op": "status", "kernel": "k", "claim": "secret"}
    refusal = {"kind": "full", "reason": "no room"}
    (answer,) = host.client.receive(pack_json(frames.ANSWER, {"error": refusal}, number=number))
    assert (answer.number, answer.ok, answer.error) == (number, None, refusal)
    host.attach()
    assert host.sent() == []


def test_withdrawn_requests_are_not_repeated(host) -> None:
    host.client.withdraw(host.client.request("signal", {"number": 2}))
    host.attach()
    assert host.sent() == []


def test_messages_without_channels_are_held(host) -> None:
    host.client.deliver_to(None)
    host.attach()
    host.client.receive(host.message(1) + host.message(2))
    assert host.client.last == 0
    host.client.deliver_to(host.deliver)
    assert host.numbers == [1, 2]


def test_more_messages_without_channels_are_requested_again(host, monkeypatch) -> None:
    monkeypatch.setattr(protocol, "_HELD_BYTES", 20)
    host.client.deliver_to(None)
    host.attach()
    for number in range(1, 10):
        host.client.receive(host.message(number))
    assert host.client.is_stale
    assert host.client._held == []
    host.client.deliver_to(host.deliver)
    host.client.receive(host.message(10))
    assert host.attach().json()["after"] == 0
    host.client.receive(b"".join(map(host.message, range(1, 11))))
    assert host.numbers == list(range(1, 11))
    assert host.client.lost == 0


def test_exit_and_close(host) -> None:
    host.attach()
    end = {"returncode": -9, "cpu_seconds": 1, "peak_memory": 5, "tail": "bye", "more": 1}
    host.client.receive(pack_json(frames.EXITED, end))
    assert host.client.exit == KernelExit(-9, 1.0, 5, "bye")
    host.client.receive(pack_json(frames.CLOSED, {"error": {"kind": "replaced"}}))
    assert host.client.closed == {"kind": "replaced"}


def test_discarded_messages_are_not_sent_again(host) -> None:
    host.attach()
    host.client.send("shell", b"1")
    host.client.discard()
    assert host.client.has_room("shell", 10**9)
    host.attach()
    assert host.sent() == []


@pytest.mark.parametrize(
    "data",
    [
        pack_json(frames.ANSWER, {"ok": {"version": 99}}),
        pack_json(frames.ANSWER, {"ok": {}}),
        pack_json(frames.REQUEST, {}),
        pack(frames.MESSAGE, b"\x00\x00", number=1),
        b"HTTP/1.1 400 Bad Request",
        HELLO + pack_json(frames.ANSWER, {"ok": {}}) + pack(frames.MESSAGE, b"", number=1),
        HELLO + pack_json(frames.ANSWER, {"ok": {}}) + pack(frames.EXITED, b"[]"),
        HELLO
        + pack_json(frames.ANSWER, {"ok": {}})
        + pack_json(frames.EXITED, {"returncode": "a"}),
    ],
)
def test_broken_hosts_are_refused(host, data) -> None:
    host.client.connected()
    with pytest.raises(RemoteProtocolError, match="broken"):
        host.client.receive(data)


def test_claim_is_in_no_repr(host) -> None:
    assert "secret" not in repr(host.client)
    assert json.loads(host.attach().body)["claim"] == "secret"


def test_held_messages_are_acknowledged_when_they_are_confirmed(host) -> None:
    host.attach()
    host.client.receive(host.message(1))
    host.client.acknowledge()
    host.sent()
    host.client.hold()
    for number in range(2, 1000):
        host.client.receive(host.message(number))
    host.client.acknowledge()
    assert host.sent() == []
    assert host.client.to_acknowledge == 0
    for number in (700, 5):
        host.client.confirm(number)
        host.client.acknowledge()
    assert host.sent() == [Frame(frames.ACK, 0, 700, b"")]
    host.client.confirm(5000)  # messages that have not arrived are not acknowledged
    host.client.acknowledge()
    assert host.sent() == [Frame(frames.ACK, 0, 999, b"")]
    host.client.receive(host.message(1000))
    host.client.acknowledge()
    assert host.sent() == [Frame(frames.ACK, 0, 1000, b"")]


def test_confirmations_wait_for_the_connection(host) -> None:
    host.attach()
    host.client.hold()
    host.client.receive(host.message(1) + host.message(2))
    host.client.disconnected()
    host.client.confirm(2)
    host.client.acknowledge()
    assert host.client.to_acknowledge == 2
    assert host.attach().json()["after"] == 2
    host.client.acknowledge()
    assert host.sent() == [Frame(frames.ACK, 0, 2, b"")]


@pytest.mark.parametrize(
    ("oldest", "acknowledged", "lost"),
    [(1, 5, 0), (4, 5, 0), (6, 5, 0), (8, 5, 2), (1, 0, 0), (3, 0, 2)],
)
def test_replay_begins_with_the_oldest_message(oldest, acknowledged, lost) -> None:
    host = Host(replays=True)
    host.attach(after=0, lost=oldest - 1, acknowledged=acknowledged)
    for number in range(oldest, 10):
        host.client.receive(host.message(number))
    host.client.acknowledge()
    assert host.numbers == list(range(oldest, 10))
    assert host.client.lost == lost
    assert host.client.acknowledged == acknowledged
    assert host.sent() == []  # the client holds them
    host.client.confirm(9)
    host.client.acknowledge()
    assert host.sent() == [Frame(frames.ACK, 0, 9, b"")]
