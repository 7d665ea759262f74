"""What is kept for clients that are slow, are gone, or have come back."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.fanout.replay_log import Cursor, ReplayLog
from kernelproto.wire.message import Header, Message

SECONDS = 60.0


def ring_of(limit: int = 2**20) -> ReplayLog:
    return ReplayLog(limit, SECONDS)


def output(name: str, *, size: int = 0, cause: str | None = None) -> Message:
    parent = None
    if cause is not None:
        parent = Message.build(Header(msg_id=cause, msg_type="execute_request"), {})
    header = Header(msg_id=name, msg_type="stream")
    return Message.build(header, {"text": "x" * size}, parent=parent)


def reply(name: str, session: str) -> Message:
    request = Message.build(
        Header(msg_id="request", msg_type="execute_request", session=session), {}
    )
    return Message.build(Header(msg_id=name, msg_type="execute_reply"), {}, parent=request)


def send(ring: ReplayLog, *names: str, size: int = 0) -> None:
    for name in names:
        ring.append(output(name, size=size), "iopub")


def read(ring: ReplayLog, cursor: Cursor, count: float = math.inf) -> list[str]:
    """Hand messages to a client's socket; return their names."""
    names: list[str] = []
    while len(names) < count and (kept := ring.next(cursor)) is not None:
        names.append(kept.message.msg_id)
        ring.advance(cursor)
    return names


def test_clients_get_what_comes_after_them() -> None:
    ring = ring_of()
    send(ring, "0")
    first = ring.join("a")
    send(ring, "1", "2")
    second = ring.join("b")
    send(ring, "3")
    assert read(ring, first) == ["1", "2", "3"]
    assert read(ring, second) == ["3"]
    assert ring.next(first) is None


@pytest.mark.parametrize("session", ["a", "new", ""])
def test_goes_on_where_the_last_one_was_lost(session: str) -> None:
    ring = ring_of()
    cursor = ring.join("a")
    send(ring, "1", "2", "3", "4")
    assert read(ring, cursor, 3) == ["1", "2", "3"]
    ring.acknowledge(cursor, 2)
    ring.leave(cursor, now=0)
    send(ring, "5")
    back = ring.join(session)
    assert back.lost == 0
    assert read(ring, back) == ["3", "4", "5"]  # 3 was under way
    assert read(ring, ring.join("another")) == []  # the cursor is taken


def test_one_whose_place_was_taken_goes_on_there_as_well() -> None:
    ring = ring_of()
    cursor = ring.join("a")
    send(ring, "1")
    assert read(ring, cursor) == ["1"]
    ring.acknowledge(cursor, 1)
    ring.leave(cursor, now=0)
    send(ring, "2")
    ring.append(reply("3", "a"), "shell")
    stranger = ring.join("b")
    assert read(ring, stranger) == ["2", "3"]
    ring.acknowledge(stranger, 3)
    ring.leave(stranger, now=1)
    back = ring.join("a")
    assert (read(ring, back), back.lost) == (["2", "3"], 0)


def test_places_that_were_taken_are_bounded() -> None:
    ring = ring_of()
    for number in range(150):
        ring.leave(ring.join(f"{number}"), now=0)
    send(ring, "1")
    assert read(ring, ring.join("new")) == ["1"]
    assert read(ring, ring.join("10")) == []
    assert read(ring, ring.join("140")) == ["1"]


def test_one_that_was_not_told_of_a_loss_is_told_next_time() -> None:
    ring = ring_of(limit=3000)
    cursor = ring.join("a")
    for session in ("a", "b"):  # its own, and that of the page that was loaded again
        ring.leave(cursor, now=0)
        send(ring, *"12345", size=1000)
        cursor = ring.join(session)
        read(ring, cursor)
    assert cursor.lost == 9
    ring.acknowledge(cursor, ring.end)
    ring.leave(cursor, now=0)
    assert ring.join("b").lost == 0


def test_one_that_says_what_it_has_gets_what_follows() -> None:
    ring = ring_of()
    cursor = ring.join("a")
    send(ring, "1", "2", "3", "4")
    read(ring, cursor)
    ring.acknowledge(cursor, 4)  # by its socket, which was lost before the client had read it all
    ring.leave(cursor, now=0)
    send(ring, "5")
    back = ring.join("b", "2")
    assert (back.lost, read(ring, back)) == (0, ["3", "4", "5"])


def test_one_that_has_what_nobody_knows_gets_all_there_is_and_is_told() -> None:
    ring = ring_of()
    ring.join("a")
    send(ring, "1", "2")
    back = ring.join("b", "nonsense")
    assert (back.lost, read(ring, back)) == (None, ["1", "2"])


def test_one_that_is_back_before_its_loss_is_known_gets_its_replies() -> None:
    ring = ring_of()
    other, cursor = ring.join("other"), ring.join("a")
    ring.append(reply("0", "other"), "shell")
    send(ring, "1", "2")
    read(ring, cursor)
    back = ring.join("b", "1")
    ring.append(reply("3", "a"), "shell")
    ring.append(reply("4", "other"), "shell")
    assert read(ring, back) == ["2", "3"]
    assert (read(ring, other), other.retired) == (["0", "1", "2", "4"], False)


def test_client_that_reloads_twice_before_its_first_loss_is_known_gets_all_replies() -> None:
    ring = ring_of()
    first = ring.join("a")
    send(ring, "0")
    read(ring, first)
    second = ring.join("b", last_msg_id="0")
    send(ring, "1")
    read(ring, first)  # a socket takes messages until the server knows that it is lost
    read(ring, second)
    ring.leave(first, 0)
    ring.leave(second, 0)
    third = ring.join("c", last_msg_id="1")
    for session in ("a", "b", "c"):
        ring.append(reply(f"reply to {session}", session), "shell")
    assert read(ring, third) == ["reply to a", "reply to b", "reply to c"]


def test_sessions_that_a_client_inherits_are_bounded() -> None:
    ring = ring_of()
    send(ring, "0")
    for number in range(150):
        first = ring.join(f"{number}")
        send(ring, f"message {number}")
        read(ring, first)
        ring.join(f"again {number}", last_msg_id=f"message {number}")
    assert len(ring.join("last", last_msg_id="message 149").sessions) <= 100


def test_one_that_says_what_it_has_does_not_take_the_place_of_who_never_got_that() -> None:
    ring = ring_of()
    gone = ring.join("a")
    send(ring, "1")
    read(ring, gone)
    ring.leave(gone, now=0)
    first = ring.join("b")
    send(ring, "2", "3")
    assert read(ring, first, 2) == ["1", "2"]  # it has taken that cursor
    later = ring.join("c")
    ring.leave(later, now=1)
    send(ring, "4")
    read(ring, first)
    ring.leave(first, now=2)
    back = ring.join("d", "4")
    assert first.retired
    assert not later.retired
    ring.append(reply("5", "b"), "shell")
    assert read(ring, back) == ["5"]


def test_own_place_comes_before_the_one_that_was_left_first() -> None:
    ring = ring_of()
    first, second = ring.join("a"), ring.join("b")
    ring.leave(first, now=1)
    send(ring, "1")
    ring.leave(second, now=2)
    send(ring, "2")
    assert read(ring, ring.join("b")) == ["1", "2"]
    send(ring, "3")
    assert read(ring, ring.join("c")) == ["1", "2", "3"]


def test_session_that_comes_again_takes_the_place_of_one_that_is_not_known_to_be_lost() -> None:
    ring = ring_of()
    cursor = ring.join("a")
    send(ring, "1", "2")
    read(ring, cursor)
    again = ring.join("a")
    assert cursor.retired
    assert read(ring, again) == ["1", "2"]
    ring.leave(cursor, now=0)
    assert read(ring, ring.join("b")) == []


def test_replies_belong_to_the_sessions_that_have_asked() -> None:
    ring = ring_of()
    cursor, other = ring.join("a"), ring.join("b")
    cursor.note_session("used by a")
    ring.append(reply("1", "a"), "shell")
    ring.append(reply("2", "used by a"), "control")
    ring.append(reply("3", "b"), "stdin")
    ring.append(reply("4", "nobody's"), "shell")
    assert ring.end == 3
    assert read(ring, other) == ["3"]
    ring.leave(cursor, now=0)
    assert read(ring, ring.join("new")) == ["1", "2"]


def test_sessions_of_a_client_are_bounded() -> None:
    ring = ring_of()
    cursor = ring.join("a")
    for number in range(150):
        cursor.note_session(f"{number}")
    assert len(cursor.sessions) == 100
    assert "149" in cursor.sessions


def test_notice_is_handed_over_once_at_the_most() -> None:
    """Clients reconnect because of one: they would do so for ever."""
    ring = ring_of()
    cursor = ring.join("a")
    ring.append(output("restarting"), "iopub", notice=True)
    send(ring, "1")
    assert read(ring, cursor, 1) == ["restarting"]
    cursor = ring.join("a")
    ring.append(output("dead"), "iopub", notice=True)
    assert read(ring, cursor, 1) == ["1"]
    assert read(ring, ring.join("a")) == ["1", "dead"]


def test_what_is_too_much_goes_and_who_needs_it_is_told() -> None:
    ring = ring_of(limit=100_000)
    slow, gone = ring.join("slow"), ring.join("gone")
    quick = ring.join("quick")
    ring.leave(gone, now=0)
    for number in range(300):
        send(ring, f"{number}", size=1000)
        assert ring.size <= 100_000
        assert read(ring, quick) == [f"{number}"]
        ring.acknowledge(quick, ring.end)
    assert not ring.is_overtaken(quick)
    assert ring.is_overtaken(slow)
    assert ring.next(slow) is None
    back = ring.join("gone")
    assert back.lost == ring.begin > 200
    assert read(ring, back) == [f"{number}" for number in range(ring.begin, 300)]


def test_one_message_has_room_however_large() -> None:
    ring = ring_of(limit=1000)
    cursor = ring.join("a")
    send(ring, "1", size=10_000)
    assert read(ring, cursor) == ["1"]


def test_little_is_kept_that_all_have() -> None:
    ring = ring_of(limit=80_000)
    first, second = ring.join("a"), ring.join("b")
    send(ring, *"123456789", size=5000)
    read(ring, first)
    ring.acknowledge(first, ring.end)
    assert ring.begin == 0
    read(ring, second)
    ring.acknowledge(second, ring.end)
    assert 0 < ring.size <= 10_000


def test_nothing_is_kept_for_ever_for_one_who_does_not_come_back() -> None:
    ring = ring_of()
    assert ring.expires_at == math.inf
    cursor = ring.join("a")
    send(ring, "1")
    ring.leave(cursor, now=100)
    assert ring.expires_at == 100 + SECONDS
    ring.expire(100 + SECONDS - 1)
    assert ring.size > 0
    ring.expire(100 + SECONDS)
    assert (ring.size, ring.expires_at) == (0, math.inf)
    send(ring, "2")
    assert ring.size == 0
    back = ring.join("b")
    assert back.lost == 2
    send(ring, "3")
    assert read(ring, back) == ["3"]


def test_places_that_were_left_are_bounded() -> None:
    ring = ring_of()
    places = [ring.join(f"{number}") for number in range(150)]
    send(ring, "1")
    for cursor in places:
        ring.leave(cursor, now=0)
    taken = [ring.join("new") for _ in range(1)] + [ring.join("") for _ in range(149)]
    assert sum(read(ring, cursor) == ["1"] for cursor in taken) == 100


def test_cause_of_what_goes_on() -> None:
    ring = ring_of()
    cursor = ring.join("a")
    send(ring, "0")
    assert ring.first_of_cause(cursor) is None
    ring.append(output("1", cause="cell"), "iopub")
    heir = ring.first_of_cause(cursor)
    assert heir is not None
    assert heir.msg_id == "1"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.booleans())))
def test_nothing_is_missing_and_nothing_comes_twice(rounds) -> None:
    """A client is lost again and again, while messages are under way, and comes back.

    Either it says what it has, whatever its socket has confirmed, or its socket has confirmed just
    what it has read.
    """
    ring = ring_of()
    cursor = ring.join("0")
    names = map(str, itertools.count())
    sent: list[str] = []
    has: list[str] = []

    def send_some(count: int) -> None:
        new = list(itertools.islice(names, count))
        send(ring, *new)
        sent.extend(new)

    for number, (some, under_way, more, says) in enumerate(rounds, 1):
        send_some(some)
        handed_over = read(ring, cursor)
        unread = min(under_way, len(handed_over))
        has += handed_over[: len(handed_over) - unread]
        last = has[-1] if says and has else None
        ring.acknowledge(cursor, cursor.sent - (0 if last else unread))
        ring.leave(cursor, now=0)
        send_some(more)
        cursor = ring.join(f"{number}", last)
    has += read(ring, cursor)
    assert has == sent
