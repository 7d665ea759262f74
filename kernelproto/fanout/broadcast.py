"""Feed: what a kernel sends, for its clients here, each at its own pace, also after an absence."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple, NoReturn

import anyio

from kernelproto.exceptions import fresh
from kernelproto.fanout.replay_log import Kept, ReplayRing
from kernelproto.fanout.unanswered import Unanswered
from kernelproto.log_counts import LogCounts
from kernelproto.supervise import Died, Kernel
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Content, Status, Stream, message_type
from kernelproto.wire.message import PROTOCOL_VERSION, Header, Message


class Reader:
    """One client of a feed; ``Feed.join`` makes it.

    Attributes:
        feed: what it reads.
        place: how far the client has come.
        cut_off: set when it cannot go on.
        reason: why.
    """

    def __init__(self, feed: Feed, session: str, last_msg_id: str | None) -> None:
        self.place = feed.ring.join(session, last_msg_id)
        self.cut_off = anyio.Event()
        self.reason = ""
        self.feed = feed

    async def next(self) -> Kept:
        """Wait for the next message; it stays the next until ``advance`` is called.

        Raises:
            KernelDied: it was the last one, because the kernel has died.
            ClientClosed: it was the last one, because the kernel was ended.
        """
        while (kept := self.feed.ring.next(self.place)) is None:
            if self.feed.failure is not None:
                raise fresh(self.feed.failure)
            await self.feed.wait()
        return kept

    def advance(self) -> None:
        """Take note that the next message was handed to the client's socket."""
        self.feed.ring.advance(self.place)

    def receive(self, number: int) -> None:
        """Take note that the client has received everything before that number.

        The apology, too, which comes before all: until then it is due.
        """
        self.feed.ring.receive(self.place, number)

    def leave(self) -> None:
        """Leave at once, however long the rest of the goodbye may take."""
        self.feed.leave(self)

    def apology(self) -> Message | None:
        """Return what tells the client that it has lost something; None where it has not.

        It is an output of whatever goes on after the gap, so that it is shown there.
        """
        lost = self.place.lost
        if lost == 0:
            return None
        # What is gone cannot be asked any more whom it was for.
        amount = "messages" if lost is None else f"up to {lost} messages"
        text = f"[{amount} of the kernel were not kept until you came back: outputs are missing]\n"
        notice = build_notice(Stream("stderr", text))
        heir = self.feed.ring.first_of_cause(self.place)
        if heir is None:
            return notice
        header, _, *rest = notice.parts
        return Message(notice.header, heir.parent_header, (header, heir.raw_parent_header, *rest))

    def look(self) -> None:
        """See whether the client can go on."""
        if self.place.retired:
            self._cut("another connection of the same session has taken its place")
        elif self.feed.ring.is_overtaken(self.place):
            self._cut("too slow: more output waits than the server keeps")

    def _cut(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.cut_off.set()


class Feed:
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
        self.ring = ReplayRing(limit, seconds)
        self.failure: Exception | None = None
        self.ended = anyio.Event()
        self.log_counts = LogCounts()
        self._kernel = kernel
        self._on_end = on_end
        self._readers: list[Reader] = []
        self._news = anyio.Event()
        self._somebody_left = anyio.Event()
        self._unanswered = Unanswered()

    @contextmanager
    def join(self, session: str, last_msg_id: str | None) -> Generator[Reader]:
        """Let a client read for the block; what comes afterwards is kept for when it comes back.

        Args:
            session: the client's name for itself; empty where it has none.
            last_msg_id: the ``msg_id`` of the last message that it has; None where it does not say.
        """
        reader = Reader(self, session, last_msg_id)
        self._readers.append(reader)
        self._look()
        try:
            yield reader
        finally:
            self.leave(reader)

    def leave(self, reader: Reader) -> None:
        """Keep what comes from now on for when a client comes back; it may have left already."""
        if reader in self._readers:
            self._readers.remove(reader)
            self.ring.leave(reader.place, anyio.current_time())
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

        The requests to the process before are aborted. A feed that has failed stays so: its
        kernel's next client gets another.
        """
        self.abort()

    def unsent(self) -> list[int]:
        """Return for each client how many messages there are that it was not sent yet."""
        return [self.ring.end - reader.place.position for reader in self._readers]

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
        for reader in self._readers:
            reader.look()


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


class Feeds:
    """The feeds of all kernels that have, or have had, clients here.

    Args:
        limit: as for each feed.
        seconds: the same.
    """

    def __init__(self, *, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._feeds: dict[Kernel, Feed] = {}

    def of(self, kernel: Kernel) -> Feed:
        """Return the feed of a kernel."""
        feed = self._feeds.get(kernel)
        if feed is None:
            feed = Feed(
                kernel,
                limit=self._limit,
                seconds=self._seconds,
                on_end=partial(self._feeds.pop, kernel, None),
            )
            self._feeds[kernel] = feed
            kernel.generations.observers.watch(feed)
            kernel.generations.events.add_callback(feed.note_death, Died)
            if feed.failure is None:
                kernel.generations.start_task(feed.serve)
        return feed

    def backlog(self) -> Backlog:
        """Return what waits for clients now."""
        kept_bytes = sum(feed.ring.size for feed in self._feeds.values())
        unsent = [count for feed in self._feeds.values() for count in feed.unsent()]
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
