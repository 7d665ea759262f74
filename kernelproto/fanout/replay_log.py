"""Replay: what a kernel has sent, for clients that are slow, are gone, or have come back. Pure.

Theory of operation
-------------------
A kernel's messages are numbered, and kept in a ring that all its clients share. Each client has a
place in it, with three numbers. Everything before ``received`` has reached the client; everything
before ``position`` was handed to its socket; ``reached`` is as far as that has ever come.

A client whose socket is lost leaves its place behind, and whoever comes next goes on there. The one
with the same session comes first; otherwise the place that was left first is taken, because a page
that was loaded again has a new session. Should whoever has left it come back after all, that one
goes on there as well. A client starts at ``received`` again: what was under way when the socket was
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


class Kept(msgspec.Struct, frozen=True, gc=False):
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
class Place:
    """How far a client has come; ``ReplayRing.join`` makes it.

    Attributes:
        session: the client's own name for itself, empty where it has none.
        received: everything before this number has reached it.
        position: everything before this number was handed to its socket.
        reached: the highest ``position`` that it, or who had the place before, has come to.
        lost: how many messages it has missed for ever, without having been told, those for other
            clients included; None where nobody knows.
        sessions: the client sessions whose replies belong to it, in the order of their first use.
        left_at: when it was left; None while there is somebody.
        expired: whether it was left for so long that nothing is kept for it.
        retired: whether somebody of the same session has taken it over.
    """

    session: str
    received: int
    position: int
    reached: int
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

    def inherit(self, other: Place) -> None:
        """Let the replies that belong to another place belong here as well."""
        for session in other.sessions:
            self.note_session(session)


class ReplayRing:
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
        self._kept: dict[int, Kept] = {}
        self._total = 0
        self._places: list[Place] = []
        # The first message that somebody has not received; None where nobody wants any.
        self._needed: int | None = None
        # Those that somebody else has taken over, by the sessions that may still come back.
        self._taken: dict[str, Place] = {}

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self._total - self._offset(self.begin)

    @property
    def expires_at(self) -> float:
        """When to call ``expire``, on the clock of ``leave``; infinity means never."""
        left = [p.left_at for p in self._places if p.left_at is not None and not p.expired]
        return min(left) + self._seconds if left else math.inf

    def append(self, message: Message, channel: ChannelName, *, notice: bool = False) -> None:
        """Take in a message, unless it is a reply that belongs to nobody here."""
        kept = Kept(message, channel, notice, self._total)
        for place in self._places:
            if _is_for(place, kept):
                break
        else:
            return
        self._kept[self.end] = kept
        self.end += 1
        self._total += sum(map(len, message.parts)) + _OBJECT_BYTES
        self._trim()

    def join(self, session: str, last_msg_id: str | None = None) -> Place:
        """Return the place of a client that has come, or has come back.

        Args:
            session: its name for itself; empty where it has none.
            last_msg_id: the ``msg_id`` of the last message that it has; None where it does not say.
        """
        place = Place(session, self.end, self.end, self.end)
        number = self._find(last_msg_id) if last_msg_id else None
        had_it = [p for p in self._places if number is None or p.position > number]
        before = self._taken.pop(session, None) or self._take_over(session, had_it)
        if before is not None:
            place.received, place.reached = before.received, before.reached
            place.lost = before.lost
            place.inherit(before)
        if last_msg_id:  # it may have left several of these, and may have asked under each
            for other in had_it:
                place.inherit(other)
        place.note_session(session)
        if last_msg_id:
            place.received = self.begin if number is None else number + 1
            place.lost = None if number is None else 0
        elif place.lost is not None:
            place.lost += max(self.begin - place.received, 0)
        place.received = place.position = max(place.received, self.begin)
        place.reached = max(place.reached, place.position)
        self._places.append(place)
        self._look_who_needs_what()
        return place

    def leave(self, place: Place, now: float) -> None:
        """Keep what comes now for a client whose socket is lost; one that was retired has left."""
        if place.retired:
            return
        place.left_at = now
        self._places.remove(place)
        self._places.append(place)  # they stand in the order in which they were left
        left = self._left()
        if len(left) > _MOST_LEFT:
            self._places.remove(left[0])
        self._look_who_needs_what()

    def expire(self, now: float) -> None:
        """Keep nothing any longer for those who have been away for too long."""
        for place in self._places:
            if place.left_at is not None and place.left_at + self._seconds <= now:
                place.expired = True
        self._look_who_needs_what()

    def next(self, place: Place) -> Kept | None:
        """Return the next message for a client, None where there is none yet.

        It stays the next until ``advance`` is called.
        """
        while self.begin <= place.position < self.end:
            kept = self._kept[place.position]
            again = kept.notice and place.position < place.reached
            if _is_for(place, kept) and not again:
                return kept
            place.received += place.received == place.position
            self.advance(place)
        return None

    def advance(self, place: Place) -> None:
        """Take note that the next message was handed to a client's socket."""
        place.position += 1
        place.reached = max(place.reached, place.position)

    def receive(self, place: Place, number: int) -> None:
        """Take note that everything before that number has reached a client.

        It knows of what it has lost as well, which it is told before anything else.
        """
        place.received = max(place.received, number)
        place.lost = 0
        self._look_who_needs_what()

    def is_overtaken(self, place: Place) -> bool:
        """Return whether a client was so slow that messages have gone before it got them."""
        return place.position < self.begin

    def first_of_cause(self, place: Place) -> Message | None:
        """Return the next output for a client that says what has caused it."""
        for number in range(max(place.position, self.begin), self.end):
            kept = self._kept[number]
            if kept.channel == "iopub" and kept.message.parent_header is not None:
                return kept.message
        return None

    def _take_over(self, session: str, among: list[Place]) -> Place | None:
        """Retire the place that a client takes, and return it; None where there is none.

        It is the one of its session, or else one that was left, of those that it may have had.
        """
        left = [place for place in among if place.left_at is not None]
        own = [place for place in self._places if session and place.session == session]
        own += [place for place in left if session in place.sessions]
        place = next(iter([*own, *left]), None)
        if place is not None:
            self._places.remove(place)
            place.retired = True
            if place.session and not own:
                self._taken[place.session] = place
                if len(self._taken) > _MOST_LEFT:
                    del self._taken[next(iter(self._taken))]
        return place

    def _left(self) -> list[Place]:
        return [place for place in self._places if place.left_at is not None]

    def _find(self, msg_id: str) -> int | None:
        for number in range(self.end - 1, self.begin - 1, -1):
            if self._kept[number].message.msg_id == msg_id:
                return number
        return None

    def _offset(self, number: int) -> int:
        return self._total if number == self.end else self._kept[number].offset

    def _look_who_needs_what(self) -> None:
        needed = [place.received for place in self._places if not place.expired]
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


def _is_for(place: Place, kept: Kept) -> bool:
    if kept.channel == "iopub":
        return True
    parent = kept.message.parent_header
    return parent is not None and parent.session in place.sessions
