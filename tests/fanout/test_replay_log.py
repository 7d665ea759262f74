"""The log of messages for clients that are slow, away or back again."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.fanout.replay_log import Cursor, ReplayLog
from kernelproto.wire.message import Header, Message

SECONDS = 60.0


def log_of(limit: int = 2**20) -> ReplayLog:
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


def send(log: ReplayLog, *names: str, size: int = 0) -> None:
    for name in names:
        log.append(output(name, size=size), "iopub")


def read(log: ReplayLog, cursor: Cursor, count: float = math.inf) -> list[str]:
    """Send the next messages to a client; return their names."""
    names: list[str] = []
    while len(names) < count and (entry := log.next(cursor)) is not None:
        names.append(entry.message.msg_id)
        log.advance(cursor)
    return names


def test_client_receives_the_messages_after_it_has_joined() -> None:
    log = log_of()
    send(log, "0")
    first = log.join("a")
    send(log, "1", "2")
    second = log.join("b")
    send(log, "3")
    assert read(log, first) == ["1", "2", "3"]
    assert read(log, second) == ["3"]
    assert log.next(first) is None


@pytest.mark.parametrize("session", ["a", "new", ""])
def test_client_continues_at_the_last_acknowledged_message(session: str) -> None:
    log = log_of()
    cursor = log.join("a")
    send(log, "1", "2", "3", "4")
    assert read(log, cursor, 3) == ["1", "2", "3"]
    log.acknowledge(cursor, 2)
    log.leave(cursor, now=0)
    send(log, "5")
    back = log.join(session)
    assert back.lost == 0
    assert read(log, back) == ["3", "4", "5"]  # 3 was in flight
    assert read(log, log.join("another")) == []  # the cursor was taken


def test_client_whose_cursor_was_taken_continues_there_too() -> None:
    log = log_of()
    cursor = log.join("a")
    send(log, "1")
    assert read(log, cursor) == ["1"]
    log.acknowledge(cursor, 1)
    log.leave(cursor, now=0)
    send(log, "2")
    log.append(reply("3", "a"), "shell")
    stranger = log.join("b")
    assert read(log, stranger) == ["2", "3"]
    log.acknowledge(stranger, 3)
    log.leave(stranger, now=1)
    back = log.join("a")
    assert (read(log, back), back.lost) == (["2", "3"], 0)


def test_taken_cursors_are_bounded() -> None:
    log = log_of()
    for number in range(150):
        log.leave(log.join(f"{number}"), now=0)
    send(log, "1")
    assert read(log, log.join("new")) == ["1"]
    assert read(log, log.join("10")) == []
    assert read(log, log.join("140")) == ["1"]


def test_loss_counts_until_it_is_acknowledged() -> None:
    log = log_of(limit=3000)
    cursor = log.join("a")
    for session in ("a", "b"):  # its own session, and that of the reloaded page
        log.leave(cursor, now=0)
        send(log, *"12345", size=1000)
        cursor = log.join(session)
        read(log, cursor)
    assert cursor.lost == 9
    log.acknowledge(cursor, log.end)
    log.leave(cursor, now=0)
    assert log.join("b").lost == 0


def test_client_that_names_its_last_message_receives_the_next() -> None:
    log = log_of()
    cursor = log.join("a")
    send(log, "1", "2", "3", "4")
    read(log, cursor)
    log.acknowledge(cursor, 4)  # received by the browser, but not read by the page
    log.leave(cursor, now=0)
    send(log, "5")
    back = log.join("b", "2")
    assert (back.lost, read(log, back)) == (0, ["3", "4", "5"])


def test_last_message_may_have_been_deleted_as_the_last_one() -> None:
    log = log_of(limit=8000)
    cursor = log.join("a")
    send(log, "1", size=2000)  # more than the share of acknowledged messages
    assert read(log, cursor) == ["1"]
    log.acknowledge(cursor, 1)
    log.leave(cursor, now=0)
    send(log, "2")
    assert log.begin == 1
    back = log.join("a", "1")
    assert (read(log, back), back.lost) == (["2"], 0)


def test_unknown_last_message_gives_all_messages_and_an_unknown_loss() -> None:
    log = log_of()
    log.join("a")
    send(log, "1", "2")
    back = log.join("b", "nonsense")
    assert (back.lost, read(log, back)) == (None, ["1", "2"])


def test_client_that_reconnects_before_its_disconnect_is_known_gets_its_replies() -> None:
    log = log_of()
    other, cursor = log.join("other"), log.join("a")
    log.append(reply("0", "other"), "shell")
    send(log, "1", "2")
    read(log, cursor)
    back = log.join("b", "1")
    log.append(reply("3", "a"), "shell")
    log.append(reply("4", "other"), "shell")
    assert read(log, back) == ["2", "3"]
    assert (read(log, other), other.retired) == (["0", "1", "2", "4"], False)


def test_client_that_reloads_twice_before_a_disconnect_is_known_gets_all_replies() -> None:
    log = log_of()
    first = log.join("a")
    send(log, "0")
    read(log, first)
    second = log.join("b", last_msg_id="0")
    send(log, "1")
    read(log, first)  # the server sends until it notices that the socket is lost
    read(log, second)
    log.leave(first, 0)
    log.leave(second, 0)
    third = log.join("c", last_msg_id="1")
    for session in ("a", "b", "c"):
        log.append(reply(f"reply to {session}", session), "shell")
    assert read(log, third) == ["reply to a", "reply to b", "reply to c"]


def test_inherited_sessions_are_bounded() -> None:
    log = log_of()
    send(log, "0")
    for number in range(150):
        first = log.join(f"{number}")
        send(log, f"message {number}")
        read(log, first)
        log.join(f"again {number}", last_msg_id=f"message {number}")
    assert len(log.join("last", last_msg_id="message 149").sessions) <= 100


def test_last_message_selects_a_cursor_that_was_sent_this_message() -> None:
    log = log_of()
    gone = log.join("a")
    send(log, "1")
    read(log, gone)
    log.leave(gone, now=0)
    first = log.join("b")
    send(log, "2", "3")
    assert read(log, first, 2) == ["1", "2"]  # of the cursor that it took
    later = log.join("c")
    log.leave(later, now=1)
    send(log, "4")
    read(log, first)
    log.leave(first, now=2)
    back = log.join("d", "4")
    assert first.retired
    assert not later.retired
    log.append(reply("5", "b"), "shell")
    assert read(log, back) == ["5"]


def test_own_cursor_has_priority_over_the_one_that_was_left_first() -> None:
    log = log_of()
    first, second = log.join("a"), log.join("b")
    log.leave(first, now=1)
    send(log, "1")
    log.leave(second, now=2)
    send(log, "2")
    assert read(log, log.join("b")) == ["1", "2"]
    send(log, "3")
    assert read(log, log.join("c")) == ["1", "2", "3"]


def test_session_takes_its_cursor_before_the_disconnect_is_known() -> None:
    log = log_of()
    cursor = log.join("a")
    send(log, "1", "2")
    read(log, cursor)
    again = log.join("a")
    assert cursor.retired
    assert read(log, again) == ["1", "2"]
    log.leave(cursor, now=0)
    assert read(log, log.join("b")) == []


def test_replies_go_to_the_session_of_the_request() -> None:
    log = log_of()
    cursor, other = log.join("a"), log.join("b")
    cursor.note_session("used by a")
    log.append(reply("1", "a"), "shell")
    log.append(reply("2", "used by a"), "control")
    log.append(reply("3", "b"), "stdin")
    log.append(reply("4", "unknown"), "shell")
    assert log.end == 3
    assert read(log, other) == ["3"]
    log.leave(cursor, now=0)
    assert read(log, log.join("new")) == ["1", "2"]


def test_sessions_of_a_client_are_bounded() -> None:
    log = log_of()
    cursor = log.join("a")
    for number in range(150):
        cursor.note_session(f"{number}")
    assert len(cursor.sessions) == 100
    assert "149" in cursor.sessions


def test_notice_is_sent_at_most_once() -> None:
    """A client may reconnect when it receives a notice, and would then do so for ever."""
    log = log_of()
    cursor = log.join("a")
    log.append(output("restarting"), "iopub", notice=True)
    send(log, "1")
    assert read(log, cursor, 1) == ["restarting"]
    cursor = log.join("a")
    log.append(output("dead"), "iopub", notice=True)
    assert read(log, cursor, 1) == ["1"]
    assert read(log, log.join("a")) == ["1", "dead"]


def test_messages_beyond_the_limit_are_deleted_and_counted_as_lost() -> None:
    log = log_of(limit=100_000)
    slow, gone = log.join("slow"), log.join("gone")
    quick = log.join("quick")
    log.leave(gone, now=0)
    for number in range(300):
        send(log, f"{number}", size=1000)
        assert log.size <= 100_000
        assert read(log, quick) == [f"{number}"]
        log.acknowledge(quick, log.end)
    assert not log.is_overtaken(quick)
    assert log.is_overtaken(slow)
    assert log.next(slow) is None
    back = log.join("gone")
    assert back.lost == log.begin > 200
    assert read(log, back) == [f"{number}" for number in range(log.begin, 300)]


def test_single_message_of_any_size_is_kept() -> None:
    log = log_of(limit=1000)
    cursor = log.join("a")
    send(log, "1", size=10_000)
    assert read(log, cursor) == ["1"]


def test_few_acknowledged_messages_are_kept() -> None:
    log = log_of(limit=80_000)
    first, second = log.join("a"), log.join("b")
    send(log, *"123456789", size=5000)
    read(log, first)
    log.acknowledge(first, log.end)
    assert log.begin == 0
    read(log, second)
    log.acknowledge(second, log.end)
    assert 0 < log.size <= 10_000


def test_messages_for_a_client_that_left_expire() -> None:
    log = log_of()
    assert log.expires_at == math.inf
    cursor = log.join("a")
    send(log, "1")
    log.leave(cursor, now=100)
    assert log.expires_at == 100 + SECONDS
    log.expire(100 + SECONDS - 1)
    assert log.size > 0
    log.expire(100 + SECONDS)
    assert (log.size, log.expires_at) == (0, math.inf)
    send(log, "2")
    assert log.size == 0
    back = log.join("b")
    assert back.lost == 2
    send(log, "3")
    assert read(log, back) == ["3"]


def test_cursors_that_were_left_are_bounded() -> None:
    log = log_of()
    cursors = [log.join(f"{number}") for number in range(150)]
    send(log, "1")
    for cursor in cursors:
        log.leave(cursor, now=0)
    taken = [log.join("new") for _ in range(1)] + [log.join("") for _ in range(149)]
    assert sum(read(log, cursor) == ["1"] for cursor in taken) == 100


def test_next_output_has_a_parent() -> None:
    log = log_of()
    cursor = log.join("a")
    send(log, "0")
    assert log.next_output(cursor) is None
    log.append(output("1", cause="cell"), "iopub")
    found = log.next_output(cursor)
    assert found is not None
    assert found.msg_id == "1"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.booleans())))
def test_each_message_is_read_exactly_once(rounds) -> None:
    """A client disconnects and reconnects repeatedly while messages are in flight.

    It names its last message, or has acknowledged exactly the messages that it has read.
    """
    log = log_of()
    cursor = log.join("0")
    names = map(str, itertools.count())
    sent: list[str] = []
    has: list[str] = []

    def send_some(count: int) -> None:
        new = list(itertools.islice(names, count))
        send(log, *new)
        sent.extend(new)

    for number, (some, under_way, more, says) in enumerate(rounds, 1):
        send_some(some)
        handed_over = read(log, cursor)
        unread = min(under_way, len(handed_over))
        has += handed_over[: len(handed_over) - unread]
        last = has[-1] if says and has else None
        log.acknowledge(cursor, cursor.sent - (0 if last else unread))
        log.leave(cursor, now=0)
        send_some(more)
        cursor = log.join(f"{number}", last)
    has += read(log, cursor)
    assert has == sent


def send_numbered(log: ReplayLog, *numbers: int) -> None:
    for number in numbers:
        log.append(output(str(number)), "iopub", number=number)


def test_source_keeps_what_a_client_has_not_acknowledged() -> None:
    log = log_of()
    send_numbered(log, 1, 2)
    assert log.unneeded == 2  # there is no client
    quick, slow = log.join("a"), log.join("b")
    log.append(reply("3", "unknown"), "shell", number=3)  # it is for no client
    send_numbered(log, 5, 6)
    assert log.unneeded == 4
    log.append(output("notice"), "iopub", notice=True)
    read(log, quick)
    log.acknowledge(quick, log.end)
    assert (log.unneeded, log.positions) == (4, [6, 4])
    log.acknowledge(slow, 1)
    assert log.unneeded == 5
    log.acknowledge(slow, log.end)
    assert log.unneeded == 6
    send_numbered(log, 7)
    log.leave(slow, 0.0)
    log.acknowledge(quick, log.end)
    assert log.unneeded == 6
    log.expire(SECONDS)
    assert log.unneeded == 7


def test_source_need_not_keep_what_is_beyond_the_limit() -> None:
    log = log_of(5_000)
    log.join("a")
    send_numbered(log, *range(1, 101))
    assert 90 < log.unneeded < 100


def test_messages_of_an_earlier_source_hold_no_later_ones() -> None:
    log = log_of()
    cursor = log.join("a")
    send_numbered(log, 1, 2, 3)
    log.begin_source()
    send_numbered(log, 1, 2)
    assert (log.unneeded, log.positions) == (0, [0])
    log.acknowledge(cursor, 4)
    assert (log.unneeded, log.positions) == (1, [1])


@pytest.mark.parametrize(
    ("position", "last", "expected"),
    [(4, None, "56"), (6, None, ""), (4, "3", "456"), (2, "5", "6")],
)
def test_client_of_an_earlier_log_continues(position, last, expected) -> None:
    log = log_of()
    before = log.join("a")
    log.leave(before, 0.0)
    send_numbered(log, *range(2, 7))
    log.resume(before, position)
    assert log.unneeded == position
    cursor = log.join("a", last)
    assert read(log, cursor) == list(expected)
    assert cursor.lost == 0


def test_client_of_an_earlier_log_learns_of_missing_messages() -> None:
    log = log_of(5_000)
    before = log.join("a")
    log.leave(before, 0.0)
    send_numbered(log, *range(1, 11))
    log.resume(before, 2, missing=3)
    cursor = log.join("a")
    assert cursor.lost == log.begin + 3
    assert read(log, cursor)[-1] == "10"
