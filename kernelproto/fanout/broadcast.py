"""Broadcast: the messages of one kernel for its subscribers, each of them at its own pace."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, NoReturn

import anyio

from kernelproto.exceptions import fresh
from kernelproto.fanout.replay_log import Entry, ReplayLog
from kernelproto.fanout.unanswered import Unanswered
from kernelproto.log_counts import LogCounts
from kernelproto.supervise import Died, Kernel
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Content, Status, Stream, message_type
from kernelproto.wire.message import PROTOCOL_VERSION, Header, Message


class Subscriber:
    """One client of a broadcast; ``Broadcast.join`` makes it.

    Attributes:
        broadcast: what it reads.
        cursor: how far the client has come.
        cut_off: set when it cannot go on.
        reason: why.
    """

    def __init__(self, broadcast: Broadcast, session: str, last_msg_id: str | None) -> None:
        self.cursor = broadcast.ring.join(session, last_msg_id)
        self.cut_off = anyio.Event()
        self.reason = ""
        self.broadcast = broadcast

    async def next(self) -> Entry:
        """Wait for the next message; it stays the next until ``advance`` is called.

        Raises:
            KernelDied: it was the last one, because the kernel has died.
            ClientClosed: it was the last one, because the kernel was ended.
        """
        while (kept := self.broadcast.ring.next(self.cursor)) is None:
            if self.broadcast.failure is not None:
                raise fresh(self.broadcast.failure)
            await self.broadcast.wait()
        return kept

    def advance(self) -> None:
        """Take note that the next message was handed to the client's socket."""
        self.broadcast.ring.advance(self.cursor)

    def acknowledge(self, number: int) -> None:
        """Take note that the client has received everything before that number.

        The apology, too, which comes before all: until then it is due.
        """
        self.broadcast.ring.acknowledge(self.cursor, number)

    def leave(self) -> None:
        """Leave at once, however long the rest of the goodbye may take."""
        self.broadcast.leave(self)

    def apology(self) -> Message | None:
        """Return what tells the client that it has lost something; None where it has not.

        It is an output of whatever goes on after the gap, so that it is shown there.
        """
        lost = self.cursor.lost
        if lost == 0:
            return None
        # What is gone cannot be asked any more whom it was for.
        amount = "messages" if lost is None else f"up to {lost} messages"
        text = f"[{amount} of the kernel were not kept until you came back: outputs are missing]\n"
        notice = build_notice(Stream("stderr", text))
        heir = self.broadcast.ring.first_of_cause(self.cursor)
        if heir is None:
            return notice
        header, _, *rest = notice.parts
        return Message(notice.header, heir.parent_header, (header, heir.raw_parent_header, *rest))

    def look(self) -> None:
        """See whether the client can go on."""
        if self.cursor.retired:
            self._cut("another connection of the same session has taken its cursor")
        elif self.broadcast.ring.is_overtaken(self.cursor):
            self._cut("too slow: more output waits than the server keeps")

    def _cut(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.cut_off.set()


class Broadcast:
    """What one kernel sends, from when its first client came until it ends.

    Args:
        kernel: the kernel.
        limit: how many bytes are kept for clients that are slow or away.
        seconds: how long they are kept for a client that does not come back.
        on_end: called when there is no kernel any more.

    Attributes:
        ring: has the messages.
        failure: why there will be none any more.
        ended: set when there is a failure.
        log_counts: counts the log lines of its clients.
    """

    def __init__(
        self, kernel: Kernel, *, limit: int, seconds: float, on_end: Callable[[], object]
    ) -> None:
        self.ring = ReplayLog(limit, seconds)
        self.failure: Exception | None = None
        self.ended = anyio.Event()
        self.log_counts = LogCounts()
        self._kernel = kernel
        self._on_end = on_end
        self._subscribers: list[Subscriber] = []
        self._news = anyio.Event()
        self._somebody_left = anyio.Event()
        self._unanswered = Unanswered()

    @contextmanager
    def join(self, session: str, last_msg_id: str | None) -> Generator[Subscriber]:
        """Let a client read for the block; what comes afterwards is kept for when it comes back.

        Args:
            session: the client's name for itself; empty where it has none.
            last_msg_id: the ``msg_id`` of the last message that it has; None where it does not say.
        """
        subscriber = Subscriber(self, session, last_msg_id)
        self._subscribers.append(subscriber)
        self._look()
        try:
            yield subscriber
        finally:
            self.leave(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Keep what comes from now on for when a client comes back; it may have left already."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self.ring.leave(subscriber.cursor, anyio.current_time())
            self._somebody_left.set()

    async def wait(self) -> None:
        """Wait until there is more, or the end."""
        if self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

    def offer(self, message: Message, channel: ChannelName) -> None:
        """Take in a message; part of ``Watcher``."""
        if message.msg_type != "iopub_welcome":  # that one greets the server
            self._put(message, channel)
            self._unanswered.note_received(message, channel)

    def note_request(self, message: Message, channel: ChannelName) -> None:
        """Take note of a message that a client is about to send to the kernel's process."""
        self._unanswered.note_sent(message, channel)

    def abort(self, msg_id: str | None = None) -> None:
        """Answer a request, or all, in the name of a process that cannot do so any more."""
        for request in self._unanswered.take(msg_id):
            if not request.replied:
                header = new_header(request.reply_type)
                reply = Message.build(header, {"status": "aborted"}, parent=request.message)
                self._put(reply, request.channel)
            if not request.idle:
                self._put(build_notice(Status("idle"), parent=request.message), "iopub")

    def note_death(self, death: Died) -> None:
        """Tell the clients that the kernel has died, and whether it is being restarted.

        The output goes to the cell that ran. "restarting" comes before the replies: JupyterLab
        drops all its requests at that status, also one that it would send after an aborted reply.
        Therefore clients are not told of a restart that a client has asked for.
        """
        if self.failure is not None:
            return
        text = f"[the kernel died: {death}]\n"
        self._put(build_notice(Stream("stderr", text), parent=self._unanswered.running), "iopub")
        if self._kernel.state == "restarting":
            self._put(build_notice(Status("restarting")), "iopub", notice=True)
        self.abort()

    def fail(self, error: Exception) -> None:
        """Take note that there is no kernel any more; part of ``Watcher``."""
        if self.failure is None:
            self.abort()
            self.failure = error
            self.ended.set()
            self._news.set()
            self._on_end()

    def resume(self) -> None:
        """Take note that there is a kernel again; part of ``Watcher``.

        The requests to the process before are aborted. A broadcast that has failed stays so: its
        kernel's next client gets another.
        """
        self.abort()

    def unsent(self) -> list[int]:
        """Return for each client how many messages there are that it was not sent yet."""
        return [self.ring.end - subscriber.cursor.sent for subscriber in self._subscribers]

    async def serve(self) -> NoReturn:
        """Forget the messages for which no client has come back."""
        while True:
            self._somebody_left = anyio.Event()
            with anyio.CancelScope(deadline=self.ring.expires_at):
                await self._somebody_left.wait()
            self.ring.expire(anyio.current_time())

    def _put(self, message: Message, channel: ChannelName, *, notice: bool = False) -> None:
        begin = self.ring.begin
        self.ring.append(message, channel, notice=notice)
        self._news.set()
        if self.ring.begin != begin:
            self._look()

    def _look(self) -> None:
        for subscriber in self._subscribers:
            subscriber.look()


class Backlog(NamedTuple):
    """What waits for clients.

    Attributes:
        kept_bytes: how much of all kernels' messages is kept.
        unsent: how many messages wait to be sent to clients that are here.
        slowest: for how many of them the slowest client is the reason.
    """

    kept_bytes: int
    unsent: int
    slowest: int


class Broadcasts:
    """The broadcasts of all kernels that have, or have had, clients here.

    Args:
        limit: as for each broadcast.
        seconds: the same.
    """

    def __init__(self, *, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._feeds: dict[Kernel, Broadcast] = {}

    def of(self, kernel: Kernel) -> Broadcast:
        """Return the broadcast of a kernel."""
        broadcast = self._feeds.get(kernel)
        if broadcast is None:
            broadcast = Broadcast(
                kernel,
                limit=self._limit,
                seconds=self._seconds,
                on_end=partial(self._feeds.pop, kernel, None),
            )
            self._feeds[kernel] = broadcast
            kernel.watch(broadcast)
            kernel.add_callback(broadcast.note_death, Died)
            if broadcast.failure is None:
                kernel.start_task(broadcast.serve)
        return broadcast

    def backlog(self) -> Backlog:
        """Return what waits for clients now."""
        kept_bytes = sum(broadcast.ring.size for broadcast in self._feeds.values())
        unsent = [count for broadcast in self._feeds.values() for count in broadcast.unsent()]
        return Backlog(kept_bytes, sum(unsent), max(unsent, default=0))


def build_notice(content: Content, parent: Message | None = None) -> Message:
    """Return a message of the server's own, in the name of the kernel."""
    return Message.build(new_header(message_type(type(content))), content, parent=parent)


def new_header(msg_type: str) -> Header:
    """Return the header of a message that the server sends in the name of the kernel."""
    return Header(
        msg_id=uuid.uuid4().hex,
        msg_type=msg_type,
        session=uuid.uuid4().hex,
        username="kernel",
        date=datetime.now(UTC).isoformat(),
        version=PROTOCOL_VERSION,
    )
