"""Broadcast: sends the messages of one kernel to its clients, each at its own pace."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, NoReturn

import anyio

from kernelproto.concurrency.bell import Bell
from kernelproto.exceptions import ClientClosed, KernelDied, KernelProtoError, fresh
from kernelproto.fanout.replay_log import Entry, ReplayLog
from kernelproto.fanout.traffic import Unanswered
from kernelproto.log_counts import LogCounts
from kernelproto.supervise import Died, Kernel
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Content, Status, Stream, message_type
from kernelproto.wire.message import PROTOCOL_VERSION, Header, Message


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

    async def next(self) -> Entry:
        """Wait for the next message; return the same one until ``advance`` is called.

        Raises:
            KernelDied: the kernel has died, and there are no more messages.
            ClientClosed: the kernel was shut down, and there are no more messages.
        """
        while (entry := self.broadcast.log.next(self.cursor)) is None:
            if self.broadcast.failure is not None:
                raise fresh(self.broadcast.failure)
            await self.broadcast.wait()
        return entry

    def advance(self) -> None:
        """Note that the next message was handed to the client's socket."""
        self.broadcast.log.advance(self.cursor)

    def acknowledge(self, number: int) -> None:
        """Note that the client has received every message before a number, and the gap notice."""
        self.broadcast.log.acknowledge(self.cursor, number)

    def note_request(self, message: Message, channel: ChannelName) -> None:
        """Note a message that the client is about to send to the kernel."""
        self.cursor.note_session(message.header.session)
        self.broadcast.note_request(message, channel)

    async def forward(self, message: Message, channel: ChannelName) -> None:
        """Send a client's message to the kernel, or abort it if the kernel has no process.

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
        """Cut the client off if it cannot continue."""
        if self.cursor.retired:
            self._cut("another connection with the same session has replaced this one")
        elif self.broadcast.log.is_overtaken(self.cursor):
            self._cut("too slow: more output waits than the server keeps")

    def _cut(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.cut_off.set()


class Broadcast:
    """The messages of one kernel, from the first client to the end of the kernel.

    Args:
        kernel: the kernel.
        limit: how many bytes of messages are kept for clients that are slow or away.
        seconds: how long messages are kept for a client that has left.
        on_end: called at the end of the kernel.

    Attributes:
        kernel: the kernel.
        log: has the messages.
        failure: the reason for the end of the kernel; None before.
        ended: set at the end of the kernel.
        log_counts: counts repeated log lines about its clients.
    """

    def __init__(
        self, kernel: Kernel, *, limit: int, seconds: float, on_end: Callable[[], object]
    ) -> None:
        self.kernel = kernel
        self.log = ReplayLog(limit, seconds)
        self.failure: Exception | None = None
        self.ended = anyio.Event()
        self.log_counts = LogCounts()
        self._on_end = on_end
        self._subscribers: list[Subscriber] = []
        self._more = Bell()
        self._client_left = Bell()
        self._unanswered = Unanswered()

    @contextmanager
    def join(self, session: str, last_msg_id: str | None) -> Generator[Subscriber]:
        """Let a client read during the block; keep the messages after it until the client returns.

        Args:
            session: the client's session; may be empty.
            last_msg_id: the ``msg_id`` of the last message that the client has read, if it tells.
        """
        subscriber = Subscriber(self, session, last_msg_id)
        self._subscribers.append(subscriber)
        self._check()
        try:
            yield subscriber
        finally:
            self.leave(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Keep the next messages until a client returns; it may have left already."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self.log.leave(subscriber.cursor, anyio.current_time())
            self._client_left.ring()

    async def wait(self) -> None:
        """Wait for another message, or for the end of the kernel."""
        await self._more.wait()

    def offer(self, message: Message, channel: ChannelName) -> None:
        """Add a message of the kernel; part of ``Watcher``."""
        if message.msg_type != "iopub_welcome":  # an answer to the server's subscription
            self._put(message, channel)
            self._unanswered.note_received(message, channel)

    def note_request(self, message: Message, channel: ChannelName) -> None:
        """Note a message that a client is about to send to the kernel."""
        self._unanswered.note_sent(message, channel)

    def abort(self, msg_id: str | None = None) -> None:
        """Answer a request, or all, on behalf of a kernel that no longer can."""
        for request in self._unanswered.take(msg_id):
            if not request.replied:
                header = new_header(request.reply_type)
                reply = Message.build(header, {"status": "aborted"}, parent=request.message)
                self._put(reply, request.channel)
            if not request.idle:
                self._put(build_notice(Status("idle"), parent=request.message), "iopub")

    def note_death(self, death: Died) -> None:
        """Tell the clients that the kernel has died, and whether it is being restarted.

        The output belongs to the request that ran. The status "restarting" precedes the aborted
        replies, because JupyterLab discards all its requests at this status, including a request
        that it sends after an aborted reply. For the same reason clients are not sent this status
        when one of them has requested the restart.
        """
        if self.failure is not None:
            return
        text = f"[the kernel died: {death}]\n"
        self._put(build_notice(Stream("stderr", text), parent=self._unanswered.running), "iopub")
        if self.kernel.state == "restarting":
            self._put(build_notice(Status("restarting")), "iopub", notice=True)
        self.abort()

    def fail(self, error: Exception) -> None:
        """Note the end of the kernel; part of ``Watcher``."""
        if self.failure is None:
            self.abort()
            self.failure = error
            self.ended.set()
            self._more.ring()
            self._on_end()

    def resume(self) -> None:
        """Abort the requests to the previous process; part of ``Watcher``.

        A broadcast that has failed stays failed. The kernel's next client gets a new one.
        """
        self.abort()

    def unsent(self) -> list[int]:
        """Return the number of unsent messages of each client."""
        return [self.log.end - subscriber.cursor.sent for subscriber in self._subscribers]

    async def serve(self) -> NoReturn:
        """Delete messages when their clients have been away for too long."""
        while True:
            with anyio.CancelScope(deadline=self.log.expires_at):
                await self._client_left.wait()
            self.log.expire(anyio.current_time())

    def _put(self, message: Message, channel: ChannelName, *, notice: bool = False) -> None:
        begin = self.log.begin
        self.log.append(message, channel, notice=notice)
        self._more.ring()
        if self.log.begin != begin:
            self._check()

    def _check(self) -> None:
        for subscriber in self._subscribers:
            subscriber.check()


class Backlog(NamedTuple):
    """Messages that wait for clients.

    Attributes:
        kept_bytes: the size of the messages of all kernels, in bytes.
        unsent: the number of messages that wait to be sent to connected clients.
        slowest: the number of messages that wait to be sent to the slowest client.
    """

    kept_bytes: int
    unsent: int
    slowest: int


class Broadcasts:
    """The broadcasts of all kernels that have or have had clients.

    Args:
        limit: as for ``Broadcast``.
        seconds: as for ``Broadcast``.
    """

    def __init__(self, *, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._broadcasts: dict[Kernel, Broadcast] = {}

    def of(self, kernel: Kernel) -> Broadcast:
        """Return the broadcast of a kernel; create it for the first client."""
        broadcast = self._broadcasts.get(kernel)
        if broadcast is None:
            broadcast = Broadcast(
                kernel,
                limit=self._limit,
                seconds=self._seconds,
                on_end=partial(self._broadcasts.pop, kernel, None),
            )
            self._broadcasts[kernel] = broadcast
            kernel.watch(broadcast)
            kernel.add_callback(broadcast.note_death, Died)
            if broadcast.failure is None:
                kernel.start_task(broadcast.serve)
        return broadcast

    def backlog(self) -> Backlog:
        """Return the size of the backlog."""
        kept_bytes = sum(broadcast.log.size for broadcast in self._broadcasts.values())
        unsent = [count for broadcast in self._broadcasts.values() for count in broadcast.unsent()]
        return Backlog(kept_bytes, sum(unsent), max(unsent, default=0))


def build_notice(content: Content, parent: Message | None = None) -> Message:
    """Return a message that the server sends on behalf of the kernel."""
    return Message.build(new_header(message_type(type(content))), content, parent=parent)


def beside(output: Message, notice: Message) -> Message:
    """Return a notice with the parent of an output, so a notebook shows both in the same cell."""
    header, _, *rest = notice.parts
    return Message(notice.header, output.parent_header, (header, output.raw_parent_header, *rest))


def new_header(msg_type: str) -> Header:
    """Return the header of a message that the server sends on behalf of the kernel."""
    return Header(
        msg_id=uuid.uuid4().hex,
        msg_type=msg_type,
        session=uuid.uuid4().hex,
        username="kernel",
        date=datetime.now(UTC).isoformat(),
        version=PROTOCOL_VERSION,
    )
