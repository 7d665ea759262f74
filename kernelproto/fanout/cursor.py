"""Cursor: the position of one client in a replay log. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

# Usually a client has one session. Beyond this number, the replies to the first session are lost.
_MOST_SESSIONS = 100


@dataclass(slots=True, eq=False)
class Cursor:
    """The position of a client in the log; ``ReplayLog.join`` returns one.

    Attributes:
        session: the session that the client sent on joining; may be empty.
        acked: every message before this number has reached the client.
        sent: every message before this number was handed to the client's socket.
        high_water: the highest ``sent`` of this cursor and of the continued cursor.
        lost: an upper bound of the messages that were deleted before the client received them,
            since the last gap notice; None if unknown.
        sessions: the sessions of the replies that the client receives, oldest first.
        left_at: when the client left; None while connected.
        expired: whether the log keeps no messages for the client, because the client left too long
            ago or too many others left later.
        retired: whether another client has taken over this cursor.
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
        """Receive the replies to a session, too."""
        if session and session not in self.sessions:
            self.sessions[session] = None
            if len(self.sessions) > _MOST_SESSIONS:
                del self.sessions[next(iter(self.sessions))]

    def inherit(self, other: Cursor) -> None:
        """Receive the replies to the sessions of another cursor, too."""
        for session in other.sessions:
            self.note_session(session)
