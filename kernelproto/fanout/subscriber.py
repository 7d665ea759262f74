"""Subscriber: one client of a broadcast, which reads at its own pace."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import anyio

from kernelproto.concurrency.bell import Bell
from kernelproto.exceptions import ClientClosed, KernelDied, KernelProtoError, fresh
from kernelproto.fanout.notices import beside, build_notice
from kernelproto.fanout.replay_log import Entry
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Stream
from kernelproto.wire.message import Message

if TYPE_CHECKING:
    from kernelproto.fanout.broadcast import Broadcast

# Sends a message to a client at once; returns False, and sends nothing, if the client is not ready.
SendAtOnce: TypeAlias = Callable[[Entry], bool]


class Subscriber:
    """One client of a broadcast; ``Broadcast.join`` returns one.

    Attributes:
        broadcast: the broadcast.
        cursor: the client's position in the log.
        cut_off: set when the client cannot continue.
        reason: the reason for that, in words.
    """

    def __init__(self, broadcast: Broadcast, session: str, last_msg_id: str | None) -> None:
        self.cursor = broadcast.log.join(session, last_msg_id)
        self.cut_off = anyio.Event()
        self.reason = ""
        self.broadcast = broadcast
        self._more = Bell()
        self._send_at_once: SendAtOnce | None = None

    @property
    def has_more(self) -> bool:
        """Whether ``next`` returns a message at once."""
        return self.broadcast.log.next(self.cursor) is not None

    async def next(self, send_at_once: SendAtOnce | None = None) -> Entry:
        """Wait for the next message; return the same one until ``advance`` is called.

        Args:
            send_at_once: called during the wait for each message that the kernel sends, which saves
                a turn of the event loop. Messages that it sends are not returned. If it refuses a
                message, or raises an exception, that message is returned.

        Raises:
            KernelDied: the kernel has died, and there are no more messages.
            ClientClosed: the kernel was shut down, and there are no more messages.
        """
        while (entry := self.broadcast.log.next(self.cursor)) is None:
            if self.broadcast.failure is not None:
                raise fresh(self.broadcast.failure)
            self._send_at_once = send_at_once
            try:
                await self._more.wait()
            finally:
                self._send_at_once = None
        return entry

    def note_more(self) -> None:
        """Send the next message at once, or wake ``next``; called for each new message."""
        if self._send_at_once is None or not self._sends(self._send_at_once):
            self.wake()

    def wake(self) -> None:
        """Wake ``next``, which then looks for messages and for the end of the kernel."""
        self._more.ring()

    def advance(self) -> None:
        """Note that the next message was handed to the client's socket."""
        self.broadcast.log.advance(self.cursor)

    def acknowledge(self, number: int) -> None:
        """Note that the client has received every message before a number, and the gap notice."""
        self.broadcast.acknowledge(self, number)

    def note_request(self, message: Message, channel: ChannelName) -> None:
        """Note a message that the client is about to send to the kernel."""
        self.cursor.note_session(message.header.session)
        self.broadcast.note_request(message, channel)

    async def forward(self, message: Message, channel: ChannelName) -> None:
        """Send a client's message to the kernel; abort the message if there is no process.

        After the end of the kernel the client may still have outputs to receive, so every message
        is aborted then.

        Raises:
            KernelProtoError: the message cannot be sent, although the kernel has not ended.
        """
        was_noted = False
        try:
            client = await self.broadcast.kernel.current_client()
            self.note_request(message, channel)
            was_noted = True
            await client.forward(message, channel)
        except KernelProtoError as error:
            if self.broadcast.failure is None and not isinstance(error, (ClientClosed, KernelDied)):
                raise
            if not was_noted:
                self.note_request(message, channel)
            self.broadcast.abort(message.msg_id)

    def leave(self) -> None:
        """Leave before the end of the block, for example while the WebSocket is being closed."""
        self.broadcast.leave(self)

    def gap_notice(self) -> Message | None:
        """Return the output that tells the client of lost messages; None if there are none.

        The notice has the parent of the next output, so a notebook shows both in the same cell.
        """
        lost = self.cursor.lost
        if lost == 0:
            return None
        # The lost messages can't be attributed to a client: some were for others.
        amount = "messages" if lost is None else f"up to {lost} messages"
        text = f"[outputs are missing: the server deleted {amount} before you reconnected]\n"
        notice = build_notice(Stream("stderr", text))
        self.broadcast.log.note_gap_notice(self.cursor, notice.msg_id)
        output = self.broadcast.log.next_output(self.cursor)
        return notice if output is None else beside(output, notice)

    def check(self) -> None:
        """Disconnect a client that cannot continue."""
        if self.cursor.retired:
            self._cut("another connection with the same session has replaced this one")
        elif self.broadcast.log.is_overtaken(self.cursor):
            self._cut("too slow: more output waits than the server keeps")

    def _sends(self, send_at_once: SendAtOnce) -> bool:
        while (entry := self.broadcast.log.next(self.cursor)) is not None:
            try:
                if not send_at_once(entry):
                    return False
            except Exception:  # the task of the client sends the message again, and raises it there
                return False
            self.advance()
        return True

    def _cut(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.cut_off.set()
