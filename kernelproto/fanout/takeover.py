"""Takeover: the clients of an earlier server, and the messages for them, taken in parts."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

import anyio
from anyio.lowlevel import checkpoint

from kernelproto.fanout.cursor import Cursor
from kernelproto.fanout.handover import Handover
from kernelproto.fanout.replay_log import NumberedMessage, ReplayLog
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

# A part takes about 5 ms of the event loop.
_MESSAGES_IN_A_PART = 1000


class Takeover:
    """Earlier messages that a broadcast takes in parts, and later ones that wait behind them.

    Args:
        handover: the handover of the earlier server.
        take: takes a message.
        messages: the earlier messages.
        finish: called after the last message.

    Attributes:
        handover: the handover of the earlier server.
        ended: set after the last message.
    """

    def __init__(
        self,
        handover: Handover,
        take: Callable[[Message, ChannelName, int], None],
        messages: Iterable[NumberedMessage],
        finish: Callable[[], None],
    ) -> None:
        self.handover = handover
        self.ended = anyio.Event()
        self._take = take
        self._waiting = deque(messages)
        self._finish = finish

    def offer(self, message: Message, channel: ChannelName, number: int) -> None:
        """Add a message behind all others."""
        self._waiting.append((message, channel, number))

    def advance(self) -> bool:
        """Take a part of the messages; return whether there are no more."""
        for _ in range(min(_MESSAGES_IN_A_PART, len(self._waiting))):
            self._take(*self._waiting.popleft())
        if not self._waiting and not self.ended.is_set():
            self.ended.set()
            self._finish()
        return self.ended.is_set()

    def complete(self) -> None:
        """Take all messages in one step."""
        while not self.advance():
            pass

    async def run(self) -> None:
        """Take all messages; let other tasks run between two parts."""
        while not self.advance():
            await checkpoint()


def join_clients(log: ReplayLog, handover: Handover, now: float, *, is_kept: bool) -> list[Cursor]:
    """Let the clients of an earlier server join a log and leave it; return their cursors.

    The earlier server may have been killed, or have lost the registry, before storing its newest
    clients. If a host has kept the messages, the log keeps the replies to such a client as well.

    Args:
        log: the log.
        handover: the handover of the earlier server.
        now: the time at which they leave.
        is_kept: whether a host has kept the messages. Then the first client gets those that no
            client has received, if the handover has no clients.
    """
    clients = handover.clients or ([[""]] if is_kept else [])
    log.awaits_unknown = is_kept
    # All join before the first one leaves: a new client would continue for one that has left.
    cursors = [log.join(sessions[0]) for sessions in clients]
    for cursor, sessions in zip(cursors, clients, strict=True):
        for session in sessions:
            cursor.note_session(session)
    for cursor in cursors:
        log.leave(cursor, now)
    return cursors
