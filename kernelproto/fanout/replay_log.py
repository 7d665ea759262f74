"""Replay: what a kernel has sent, for clients that are slow, are gone, or have come back. Pure.

Theory of operation
-------------------
A kernel's messages are numbered, and kept in a ring that all its clients share. Each client has a
cursor in it, with three numbers. Everything before ``acked`` has reached the client; everything
before ``sent`` was handed to its socket; ``high_water`` is as far as that has ever come.

A client whose socket is lost leaves its cursor behind, and the next client goes on there. The one
with the same session comes first; otherwise the cursor that was left first is taken, because a page
that was loaded again has a new session. Should whoever has left it come back after all, that one
goes on there as well. A client starts at ``acked`` again: what was under way when the socket was
lost is sent once more, rather than not at all. Only a client knows what it has read. One that names
the last message it has gets exactly what follows, and goes on for somebody who was given that one,
also where nobody knows yet that the socket is lost.

Messages that all clients have received are kept for a little while, for such a client. Beyond
``limit`` bytes the oldest go, whoever needs them. Places that were left for too long hold nothing
any more, but go on counting what they miss. So nobody loses anything without being told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

# What a message takes in memory beside its bytes.
_OBJECT_BYTES = 1000

# How much of the ring messages may take that all clients have received.
_SPARE_PART = 8

# A client has one session; one that has used more than this loses the replies to its first.
_MOST_SESSIONS = 100

# Whoever has left more places than this will not take up the first again.
_MOST_LEFT = 100


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A message in the ring.

    Attributes:
        message: the message.
        channel: where it came from.
        notice: whether it is from the server: it is handed to a client's socket once at the most.
        offset: how many bytes all messages before it have had.
    """

    message: Message
    channel: ChannelName
    notice: bool
    offset: int


@dataclass(slots=True, eq=False)
class Cursor:
    """How far a client has come; ``ReplayLog.join`` makes it.

    Attributes:
        session: the client's own name for itself, empty where it has none.
        acked: everything before this number has reached it.
        sent: everything before this number was handed to its socket.
        high_water: the highest ``sent`` that it, or who had the cursor before, has come to.
        lost: how many messages it has missed for ever, without having been told, those for other
            clients included; None where nobody knows.
        sessions: the client sessions whose replies belong to it, in the order of their first use.
        left_at: when it was left; None while there is somebody.
        expired: whether it was left for so long that nothing is kept for it.
        retired: whether somebody of the same session has taken it over.
    """

    session: str
    acked: int
    sent: int
    high_water: int
    lost: int | None = 0
    sessions: dict[str, None] = field(default_factory=dict[str, None])
    left_at: float | None = None
    expired: bool = False
    retired: bool = False

    def note_session(self, session: str) -> None:
        """Let the replies to a client session belong here."""
        if session and session not in self.sessions:
            self.sessions[session] = None
            if len(self.sessions) > _MOST_SESSIONS:
                del self.sessions[next(iter(self.sessions))]

    def inherit(self, other: Cursor) -> None:
        """Let the replies that belong to another cursor belong here as well."""
        for session in other.sessions:
            self.note_session(session)


class ReplayLog:
    """The last messages of one kernel, bounded in bytes, and the places of its clients.

    Args:
        limit: how many bytes are kept; one message always has room, however large it is.
        seconds: how long messages are kept for a client that does not come back.

    Attributes:
        begin: the number of the oldest message that is kept.
        end: the number that the next message gets.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self.begin = 0
        self.end = 0
        self._limit = limit
        self._seconds = seconds
        self._kept: dict[int, Entry] = {}
        self._total = 0
        self._cursors: list[Cursor] = []
        # The first message that somebody has not received; None where nobody wants any.
        self._needed: int | None = None
        # Those that somebody else has taken over, by the sessions that may still come back.
        self._taken: dict[str, Cursor] = {}

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self._total - self._offset(self.begin)

    @property
    def expires_at(self) -> float:
        """When to call ``expire``, on the clock of ``leave``; infinity means never."""
        left = [p.left_at for p in self._cursors if p.left_at is not None and not p.expired]
        return min(left) + self._seconds if left else math.inf

    def append(self, message: Message, channel: ChannelName, *, notice: bool = False) -> None:
        """Take in a message, unless it is a reply that belongs to nobody here."""
        kept = Entry(message, channel, notice, self._total)
        for cursor in self._cursors:
            if _is_for(cursor, kept):
                break
        else:
            return
        self._kept[self.end] = kept
        self.end += 1
        self._total += sum(map(len, message.parts)) + _OBJECT_BYTES
        self._trim()

    def join(self, session: str, last_msg_id: str | None = None) -> Cursor:
        """Return the cursor of a client that has come, or has come back.

        Args:
            session: its name for itself; empty where it has none.
            last_msg_id: the ``msg_id`` of the last message that it has; None where it does not say.
        """
        cursor = Cursor(session, self.end, self.end, self.end)
        number = self._find(last_msg_id) if last_msg_id else None
        had_it = [p for p in self._cursors if number is None or p.sent > number]
        before = self._taken.pop(session, None) or self._take_over(session, had_it)
        if before is not None:
            cursor.acked, cursor.high_water = before.acked, before.high_water
            cursor.lost = before.lost
            cursor.inherit(before)
        if last_msg_id:  # it may have left several of these, and may have asked under each
            for other in had_it:
                cursor.inherit(other)
        cursor.note_session(session)
        if last_msg_id:
            cursor.acked = self.begin if number is None else number + 1
            cursor.lost = None if number is None else 0
        elif cursor.lost is not None:
            cursor.lost += max(self.begin - cursor.acked, 0)
        cursor.acked = cursor.sent = max(cursor.acked, self.begin)
        cursor.high_water = max(cursor.high_water, cursor.sent)
        self._cursors.append(cursor)
        self._look_who_needs_what()
        return cursor

    def leave(self, cursor: Cursor, now: float) -> None:
        """Keep what comes now for a client whose socket is lost; one that was retired has left."""
        if cursor.retired:
            return
        cursor.left_at = now
        self._cursors.remove(cursor)
        self._cursors.append(cursor)  # they stand in the order in which they were left
        left = self._left()
        if len(left) > _MOST_LEFT:
            self._cursors.remove(left[0])
        self._look_who_needs_what()

    def expire(self, now: float) -> None:
        """Keep nothing any longer for those who have been away for too long."""
        for cursor in self._cursors:
            if cursor.left_at is not None and cursor.left_at + self._seconds <= now:
                cursor.expired = True
        self._look_who_needs_what()

    def next(self, cursor: Cursor) -> Entry | None:
        """Return the next message for a client, None where there is none yet.

        It stays the next until ``advance`` is called.
        """
        while self.begin <= cursor.sent < self.end:
            kept = self._kept[cursor.sent]
            again = kept.notice and cursor.sent < cursor.high_water
            if _is_for(cursor, kept) and not again:
                return kept
            cursor.acked += cursor.acked == cursor.sent
            self.advance(cursor)
        return None

    def advance(self, cursor: Cursor) -> None:
        """Take note that the next message was handed to a client's socket."""
        cursor.sent += 1
        cursor.high_water = max(cursor.high_water, cursor.sent)

    def acknowledge(self, cursor: Cursor, number: int) -> None:
        """Take note that everything before that number has reached a client.

        It knows of what it has lost as well, which it is told before anything else.
        """
        cursor.acked = max(cursor.acked, number)
        cursor.lost = 0
        self._look_who_needs_what()

    def is_overtaken(self, cursor: Cursor) -> bool:
        """Return whether a client was so slow that messages have gone before it got them."""
        return cursor.sent < self.begin

    def first_of_cause(self, cursor: Cursor) -> Message | None:
        """Return the next output for a client that says what has caused it."""
        for number in range(max(cursor.sent, self.begin), self.end):
            kept = self._kept[number]
            if kept.channel == "iopub" and kept.message.parent_header is not None:
                return kept.message
        return None

    def _take_over(self, session: str, among: list[Cursor]) -> Cursor | None:
        """Retire the cursor that a client takes, and return it; None where there is none.

        It is the one of its session, or else one that was left, of those that it may have had.
        """
        left = [cursor for cursor in among if cursor.left_at is not None]
        own = [cursor for cursor in self._cursors if session and cursor.session == session]
        own += [cursor for cursor in left if session in cursor.sessions]
        cursor = next(iter([*own, *left]), None)
        if cursor is not None:
            self._cursors.remove(cursor)
            cursor.retired = True
            if cursor.session and not own:
                self._taken[cursor.session] = cursor
                if len(self._taken) > _MOST_LEFT:
                    del self._taken[next(iter(self._taken))]
        return cursor

    def _left(self) -> list[Cursor]:
        return [cursor for cursor in self._cursors if cursor.left_at is not None]

    def _find(self, msg_id: str) -> int | None:
        for number in range(self.end - 1, self.begin - 1, -1):
            if self._kept[number].message.msg_id == msg_id:
                return number
        return None

    def _offset(self, number: int) -> int:
        return self._total if number == self.end else self._kept[number].offset

    def _look_who_needs_what(self) -> None:
        needed = [cursor.acked for cursor in self._cursors if not cursor.expired]
        self._needed = min(needed, default=None)
        self._trim()

    def _trim(self) -> None:
        """Let go of what is too much, and of what everybody has."""
        if self._needed is None:
            floor, spare = self.end, 0
        else:
            floor, spare = max(self._needed, self.begin), self._limit // _SPARE_PART
        first = max(self._total - self._limit, self._offset(floor) - spare)
        while self.begin < self.end and self._kept[self.begin].offset < first:
            if self.begin + 1 == self.end and self.begin >= floor:
                return  # one message has room, however large
            del self._kept[self.begin]
            self.begin += 1


def _is_for(cursor: Cursor, kept: Entry) -> bool:
    if kept.channel == "iopub":
        return True
    parent = kept.message.parent_header
    return parent is not None and parent.session in cursor.sessions
