"""ReplayLog: the last messages of a kernel, for clients that are slow, away or back again. Pure.

Theory of operation
-------------------
All clients of a kernel share one log of numbered messages. Each client has a cursor with three
numbers: every message before ``acked`` has reached the client, every message before ``sent`` was
handed to the socket, and ``high_water`` is the highest ``sent`` so far.

When a client loses the socket, the cursor stays in the log, and a later client continues there. A
client with the same session has priority. A client with a new session takes the cursor that was
left first, because a reloaded page gets a new session. If the previous owner of a cursor returns,
the owner continues there too.

A client continues at ``acked``: the server sends messages in transit a second time rather than lose
one. Only the client knows the messages that it has read. A client that names the last one receives
exactly the later messages, and takes the cursor of the client that received this message, even
before the server notices that this client's socket is lost.

The log keeps acknowledged messages for a while, for clients that name their last message. Beyond
``limit`` bytes the log deletes the oldest messages, even unacknowledged ones. A cursor without a
client for too long keeps no messages but still counts the lost ones, so every client gets a notice
of losses.

The source of the messages may number them, too, and keep them until they are acknowledged; see
``KeepsMessages``. ``unneeded`` says which of them the log no longer needs.
"""

from __future__ import annotations

import heapq
import itertools
import math
from bisect import bisect_right
from collections.abc import Iterator

import msgspec

from kernelproto.fanout.cursor import Cursor
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

# Memory for a message in addition to the bytes.
_OBJECT_BYTES = 1000

# Messages that all clients have acknowledged fill at most one part in this many of the log.
_ACKED_PARTS = 8

# Beyond this number the cursor that was left first is deleted.
_MOST_LEFT = 100


# A message, the channel, and the number at the source; 0 without one.
NumberedMessage = tuple[Message, ChannelName, int]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A message in the log.

    Attributes:
        message: the message.
        channel: the channel.
        notice: whether the server wrote the message. A client is sent a notice at most once.
        offset: the total size of all earlier messages, in bytes.
        source_number: the number of the message at the source, 0 without one; that of the next
            message for a notice.
    """

    message: Message
    channel: ChannelName
    notice: bool
    offset: int
    source_number: int = 0


class ReplayLog:
    """The last messages of one kernel, and the cursors of the kernel's clients.

    Args:
        limit: the maximum size, in bytes; a single larger message is kept too.
        seconds: how long the log keeps messages for a client that has left.

    Attributes:
        begin: the number of the oldest message.
        end: the number of the next message.
        awaits_unknown: whether the log keeps replies to sessions that no cursor has.
    """

    def __init__(self, limit: int, seconds: float) -> None:
        self.begin = 0
        self.end = 0
        self.awaits_unknown = False
        self._limit = limit
        self._seconds = seconds
        self._entries: dict[int, Entry] = {}
        # The msg_id of the message before ``begin``: a client that has read this message has lost
        # nothing.
        self._last_deleted = ""
        # Gap notices, which are not in the log, and the message before each of them.
        self._gap_notices: dict[str, int] = {}
        self._total = 0
        self._connected: dict[Cursor, None] = {}
        self._left: dict[Cursor, None] = {}  # in the order of leaving
        self._by_session: dict[str, Cursor] = {}  # of both; without the sessions that they inherit
        # The first message that a client has not acknowledged; None if there are no clients.
        self._needed: int | None = None
        # Each cursor that needs messages has an entry (acked, number, cursor). Reading an entry
        # corrects it, because ``acked`` may have grown. The entry of a cursor that needs none is
        # then dropped.
        self._by_acked: list[tuple[int, int, Cursor]] = []
        self._entry_numbers = itertools.count()
        # Cursors that a client of another session has taken over, by their own session.
        self._taken: dict[str, Cursor] = {}
        self._source_begin = 0  # the messages before this number are of an earlier source
        self._source_last = 0

    @property
    def size(self) -> int:
        """The size of all messages, in bytes."""
        return self._total - self._offset(self.begin)

    @property
    def clients(self) -> list[list[str]]:
        """The sessions of each client that is connected or may return."""
        return [list(cursor.sessions) for cursor in self._cursors() if not cursor.expired]

    @property
    def positions(self) -> list[int]:
        """For each of the ``clients``, the number at the source of the client's last message."""
        return [self._last_before(each.acked) for each in self._cursors() if not each.expired]

    @property
    def unneeded(self) -> int:
        """The number at the source of the last message before the first that a client needs."""
        return self._last_before(self.end if self._needed is None else self._needed)

    @property
    def expires_at(self) -> float:
        """The time of the next ``expire``, on the clock of ``leave``; infinity for none."""
        left = [c.left_at for c in self._left if c.left_at is not None and not c.expired]
        return min(left) + self._seconds if left else math.inf

    def begin_source(self) -> None:
        """Note that the next messages come from another source, with other numbers."""
        self._source_begin, self._source_last = self.end, 0

    def append(
        self, message: Message, channel: ChannelName, *, notice: bool = False, number: int = 0
    ) -> None:
        """Add a message; ignore a reply to a session that no cursor has, unless one may come.

        Args:
            message: the message.
            channel: the channel.
            notice: whether the server wrote the message.
            number: the number at the source, if there is one.
        """
        self._source_last = max(self._source_last, number)
        entry = Entry(message, channel, notice, self._total, number or self._source_last + 1)
        if not self.awaits_unknown and not any(_is_for(each, entry) for each in self._cursors()):
            return
        self._entries[self.end] = entry
        self.end += 1
        self._total += message.size + _OBJECT_BYTES
        self._trim()

    def join(self, session: str, last_msg_id: str | None = None) -> Cursor:
        """Return the cursor of a client that connects for the first time or again.

        Args:
            session: the client's session; may be empty.
            last_msg_id: the ``msg_id`` of the last message that the client has read, if known.
        """
        cursor = Cursor(session, self.end, self.end, self.end)
        number = self._find(last_msg_id) if last_msg_id else None
        before = self._taken.pop(session, None) or self._take_over(session, number)
        if before is not None:
            cursor.acked, cursor.high_water = before.acked, before.high_water
            cursor.lost = before.lost
            cursor.inherit(before)
        if last_msg_id:  # each may be an earlier connection of this client
            for other in self._cursors():
                if _has_read(other, number):
                    cursor.inherit(other)
        cursor.note_session(session)
        if last_msg_id:
            cursor.acked = self.begin if number is None else number + 1
            cursor.lost = None if number is None else 0
        elif cursor.lost is not None:
            cursor.lost += max(self.begin - cursor.acked, 0)
        cursor.acked = cursor.sent = max(cursor.acked, self.begin)
        cursor.high_water = max(cursor.high_water, cursor.sent)
        self._connected[cursor] = None
        if session:
            self._by_session[session] = cursor
        self._queue(cursor)
        self._update_needed()
        return cursor

    def resume(self, cursor: Cursor, number: int, *, missing: int = 0) -> None:
        """Let a client of an earlier log, which has joined and left, continue after a message.

        Args:
            cursor: the cursor of the client.
            number: the number at the source of the last message that the client has.
            missing: the number of later messages that may be missing in the log.
        """
        # The numbers at the source never fall.
        first = self.begin + bisect_right(
            range(self.begin, self.end), number, key=lambda n: self._entries[n].source_number
        )
        if first > self.begin or not self.begin:  # otherwise join() counts the deleted messages
            cursor.acked = cursor.sent = cursor.high_water = first
        cursor.lost = missing
        self._update_needed()

    def leave(self, cursor: Cursor, now: float) -> None:
        """Keep the next messages for a client that has lost its socket, unless retired."""
        if cursor.retired:
            return
        cursor.left_at = now
        del self._connected[cursor]
        self._left[cursor] = None
        if len(self._left) > _MOST_LEFT:
            first = next(iter(self._left))
            first.expired = True
            self._remove(first)
        self._update_needed()

    def expire(self, now: float) -> None:
        """Delete the messages that only clients which left too long ago still need."""
        for cursor in self._left:
            if cursor.left_at is not None and cursor.left_at + self._seconds <= now:
                cursor.expired = True
        self._update_needed()

    def next(self, cursor: Cursor) -> Entry | None:
        """Return the next message for a client, None if there is none yet.

        Returns the same message until ``advance`` is called.
        """
        while self.begin <= cursor.sent < self.end:
            entry = self._entries[cursor.sent]
            repeated = entry.notice and cursor.sent < cursor.high_water
            if _is_for(cursor, entry) and not repeated:
                return entry
            cursor.acked += cursor.acked == cursor.sent
            self.advance(cursor)
        return None

    def advance(self, cursor: Cursor) -> None:
        """Note that the next message was handed to the client's socket."""
        cursor.sent += 1
        cursor.high_water = max(cursor.high_water, cursor.sent)

    def acknowledge(self, cursor: Cursor, number: int) -> None:
        """Note that every message before a number has reached the client.

        So has the gap notice, which is sent first.
        """
        cursor.acked = max(cursor.acked, number)
        cursor.lost = 0
        self._update_needed()

    def note_gap_notice(self, cursor: Cursor, msg_id: str) -> None:
        """Note the next notice for a client, which a returning client may name."""
        self._gap_notices[msg_id] = cursor.sent - 1
        if len(self._gap_notices) > _MOST_LEFT:
            del self._gap_notices[next(iter(self._gap_notices))]

    def is_overtaken(self, cursor: Cursor) -> bool:
        """Return whether a message was deleted before being sent to a connected client."""
        return cursor.sent < self.begin

    def next_output(self, cursor: Cursor) -> Message | None:
        """Return the next output with a parent that a client will receive; None if none."""
        for number in range(max(cursor.sent, self.begin), self.end):
            entry = self._entries[number]
            if entry.channel == "iopub" and entry.message.parent_header is not None:
                return entry.message
        return None

    def _take_over(self, session: str, number: int | None) -> Cursor | None:
        """Retire and return the cursor that a client continues; None if there is none.

        This is the cursor of the client's session, or else the one that was left first.

        Args:
            session: the client's session.
            number: the number of the client's last message; None if unknown.
        """
        left = [cursor for cursor in self._left if _has_read(cursor, number)]
        own = self._by_session.get(session)
        own = own or next((cursor for cursor in left if session in cursor.sessions), None)
        cursor = own or next(iter(left), None)
        if cursor is not None:
            self._remove(cursor)
            cursor.retired = True
            if cursor.session and own is None:
                self._taken[cursor.session] = cursor
                if len(self._taken) > _MOST_LEFT:
                    del self._taken[next(iter(self._taken))]
        return cursor

    def _cursors(self) -> Iterator[Cursor]:
        return itertools.chain(self._connected, self._left)

    def _remove(self, cursor: Cursor) -> None:
        self._connected.pop(cursor, None)
        self._left.pop(cursor, None)
        self._by_session.pop(cursor.session, None)

    def _find(self, msg_id: str) -> int | None:
        for number in range(self.end - 1, self.begin - 1, -1):
            if self._entries[number].message.msg_id == msg_id:
                return number
        if msg_id == self._last_deleted:
            return self.begin - 1
        before = self._gap_notices.get(msg_id)
        return before if before is not None and before >= self.begin - 1 else None

    def _last_before(self, number: int) -> int:
        """Return the number at the source of the last message before one of the log."""
        number = max(number, self.begin)
        if number < self._source_begin:
            return 0
        return self._source_last if number >= self.end else self._entries[number].source_number - 1

    def _offset(self, number: int) -> int:
        return self._total if number == self.end else self._entries[number].offset

    def _queue(self, cursor: Cursor) -> None:
        entry = cursor.acked, next(self._entry_numbers), cursor
        heapq.heappush(self._by_acked, entry)
        cursors = len(self._connected) + len(self._left)
        if len(self._by_acked) > 2 * cursors:  # most are of cursors that need none
            self._by_acked = [entry for entry in self._by_acked if not _needs_none(entry[2])]
            heapq.heapify(self._by_acked)

    def _update_needed(self) -> None:
        """Find the first message that a client has not acknowledged, in O(log n), amortized."""
        order = self._by_acked
        while order:
            before, number, cursor = order[0]
            if _needs_none(cursor):
                heapq.heappop(order)
            elif cursor.acked > before:
                heapq.heapreplace(order, (cursor.acked, number, cursor))
            else:
                break
        self._needed = order[0][0] if order else None
        self._trim()

    def _trim(self) -> None:
        """Delete messages beyond the limit, and those that all clients have acknowledged."""
        if self._needed is None:
            floor, spare = self.end, 0
        else:
            floor, spare = max(self._needed, self.begin), self._limit // _ACKED_PARTS
        first = max(self._total - self._limit, self._offset(floor) - spare)
        while self.begin < self.end and self._entries[self.begin].offset < first:
            if self.begin + 1 == self.end and self.begin >= floor:
                return  # keep a single message of any size
            self._last_deleted = self._entries.pop(self.begin).message.msg_id
            self.begin += 1


def _needs_none(cursor: Cursor) -> bool:
    return cursor.retired or cursor.expired


def _has_read(cursor: Cursor, number: int | None) -> bool:
    """Return whether the client of a cursor may have read a message, by number if known."""
    return number is None or cursor.sent > number


def _is_for(cursor: Cursor, entry: Entry) -> bool:
    if entry.channel == "iopub":
        return True
    parent = entry.message.parent_header
    return parent is not None and parent.session in cursor.sessions
