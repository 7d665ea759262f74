"""Broadcast: sends the messages of one kernel to all clients, of different speeds."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import NoReturn

import anyio

from kernelproto.concurrency.bell import Bell
from kernelproto.exceptions import ClientClosed, KernelProtoError
from kernelproto.fanout.handover import Handover, reply_content
from kernelproto.fanout.notices import build_notice, new_header
from kernelproto.fanout.replay_log import NumberedMessage, ReplayLog
from kernelproto.fanout.subscriber import Subscriber
from kernelproto.fanout.takeover import Takeover, join_clients
from kernelproto.fanout.traffic import Request, Unanswered
from kernelproto.kept_messages import KeepsMessages
from kernelproto.log_counts import LogCounts
from kernelproto.supervise import Died, Kernel
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Status, Stream
from kernelproto.wire.message import Message

# For clients with a running cell during the replacement of the server.
_AWAY = "[the server was restarted: earlier outputs of this cell may be missing]\n"
_LOST = "[this cell ended while no server was running: its last outputs and its result are lost]\n"
_UNSENT = "[the server was restarted before the kernel received this cell: execute it again]\n"


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
        log_counts: counts repeated log lines about the clients.
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
        self._client_left = Bell()
        self._unanswered = Unanswered()
        self._inherits = False
        self._has_all = False
        self._on_change: Callable[[], object] | None = None
        self._source: KeepsMessages | None = None
        self._takeover: Takeover | None = None
        kernel.observers.hold()

    def store_with(self, on_change: Callable[[], object]) -> None:
        """Call a function whenever ``handover`` would return something else."""
        self._on_change = on_change

    def handover(self) -> Handover:
        """Return the clients and their open requests, for the next server."""
        if self._takeover is not None:
            return self._takeover.handover
        source = "" if self._source is None else self._source.kernel_id
        return Handover.of(
            self.log.clients, self._unanswered, source=source, positions=self.log.positions
        )

    def take_over(
        self, handover: Handover, messages: Iterable[NumberedMessage] = (), *, missing: int = 0
    ) -> None:
        """Serve the clients of an earlier server on, before any client joins; see ``until_ready``.

        Args:
            handover: the handover of the earlier server.
            messages: the messages that the kernel has sent to this server before. If a host runs
                the kernel, they begin with some that the clients have already.
            missing: the number of messages before that no client has received, and that are lost.
        """
        self._source = source = self.kernel.observers.source
        self._has_all = source is not None and not missing
        acknowledged = 0 if source is None else source.acknowledged
        cursors = join_clients(self.log, handover, anyio.current_time(), is_kept=source is not None)
        self._client_left.ring()
        for request in handover.open_requests():
            self._unanswered.inherit(request)
        self._inherits = len(self._unanswered) > 0

        def finish() -> None:
            self._takeover = None
            if source is not None:
                for place, cursor in enumerate(cursors):
                    position = handover.position_of(place, source.kernel_id)
                    self.log.resume(cursor, max(position, acknowledged), missing=missing)
                self._confirm()
            if self._inherits:
                self.kernel.start_task(self._end_inherited)

        self._takeover = Takeover(handover, self._take, messages, finish)
        if not self._takeover.advance():
            self.kernel.start_task(self._takeover.run)

    async def until_ready(self) -> None:
        """Wait until all messages that were taken over can be sent; ``join`` does not wait."""
        if self._takeover is not None:
            await self._takeover.ended.wait()

    def _complete_takeover(self) -> None:
        if self._takeover is not None:
            self._takeover.complete()

    @contextmanager
    def join(self, session: str, last_msg_id: str | None) -> Generator[Subscriber]:
        """Let a client read during the block; afterwards, keep messages until the client returns.

        Args:
            session: the client's session; may be empty.
            last_msg_id: the ``msg_id`` of the last message that the client has read, if known.
        """
        self._complete_takeover()
        subscriber = Subscriber(self, session, last_msg_id)
        self._subscribers.append(subscriber)
        self._check()
        self._note_change()
        try:
            yield subscriber
        finally:
            self.leave(subscriber)

    def leave(self, subscriber: Subscriber) -> None:
        """Keep the next messages until a client returns; may be called again."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            self.log.leave(subscriber.cursor, anyio.current_time())
            self._client_left.ring()
            self._confirm()
            self._note_change()

    def acknowledge(self, subscriber: Subscriber, number: int) -> None:
        """Note the messages that a client has received; see ``Subscriber.acknowledge``."""
        self.log.acknowledge(subscriber.cursor, number)
        if self._source is not None:
            self._confirm()
            if len(self.log.clients) > 1:  # otherwise the source has the position of the client
                self._note_change()

    def offer(self, message: Message, channel: ChannelName) -> None:
        """Add a message of the kernel; part of ``Watcher``."""
        if self._takeover is not None:
            self._takeover.offer(message, channel, self.kernel.observers.number)
            return
        if (source := self.kernel.observers.source) is not self._source:
            self._source = source
            self.log.begin_source()
        self._take(message, channel, self.kernel.observers.number)

    def _take(self, message: Message, channel: ChannelName, number: int) -> None:
        if message.msg_type != "iopub_welcome":  # an answer to the server's subscription
            request = self._unanswered.resume(message) if self._inherits else None
            if request is not None and self._source is None:
                self._put(build_notice(Stream("stderr", _AWAY), parent=request.message), "iopub")
            self._put(message, channel, number=number)
            if self._unanswered.note_received(message, channel):
                self._note_change()

    def note_request(self, message: Message, channel: ChannelName) -> None:
        """Note a message that a client is about to send to the kernel."""
        self._unanswered.note_sent(message, channel)
        self._note_change()

    def abort(self, msg_id: str | None = None) -> None:
        """Answer a request, or all, on behalf of a kernel that no longer can."""
        for request in self._unanswered.take(msg_id):
            self._answer(request, {"status": "aborted"})
        self._note_change()

    def note_death(self, death: Died) -> None:
        """Tell the clients that the kernel has died, and whether a restart follows.

        The output belongs to the request that ran. The status "restarting" precedes the aborted
        replies, because JupyterLab discards all its requests at this status, including a request
        sent after an aborted reply. For the same reason clients are not sent this status when one
        of them has requested the restart.
        """
        if self.failure is not None:
            return
        self._complete_takeover()
        text = f"[the kernel died: {death}]\n"
        self._put(build_notice(Stream("stderr", text), parent=self._unanswered.running), "iopub")
        if self.kernel.state == "restarting":
            self._put(build_notice(Status("restarting")), "iopub", notice=True)
        self.abort()

    def fail(self, error: Exception) -> None:
        """Note the end of the kernel; part of ``Watcher``.

        Requests to a kernel that goes on stay open: the kernel will reply to its next owner.
        """
        if self.failure is None:
            self._complete_takeover()
            if not (isinstance(error, ClientClosed) and error.goes_on):
                self.abort()
            self.failure = error
            self.kernel.observers.holds = False  # until the kernel has another client
            self.ended.set()
            for subscriber in self._subscribers:
                subscriber.wake()
            self._on_end()

    def resume(self) -> None:
        """Abort the requests to the previous process; part of ``Watcher``.

        A broadcast that has failed stays failed. The kernel's next client gets a new one.
        """
        self._complete_takeover()
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
            self._confirm()

    def _answer(self, request: Request, content: Mapping[str, object]) -> None:
        """End a request on behalf of the kernel."""
        if not request.replied:
            header = new_header(request.reply_type)
            self._put(Message.build(header, content, parent=request.message), request.channel)
        if not request.idle:
            self._put(build_notice(Status("idle"), parent=request.message), "iopub")

    async def _end_inherited(self) -> None:
        """End the requests of an earlier server.

        The kernel handles the requests of one connection in order, and those of several connections
        in turn. So behind a reply to this server come no replies to earlier requests that have
        ended. Once two such replies have arrived without any message about an inherited request in
        between, none of them waits in the kernel, so the others have ended while no server ran.
        """
        quiet = 0
        while quiet < 2 and any(request.inherited for request in self._unanswered):
            before = self._unanswered.inherited_traffic
            try:
                await self.kernel.kernel_info()
            except KernelProtoError:
                return  # the death, restart or end of the kernel has aborted all requests
            quiet = quiet + 1 if self._unanswered.inherited_traffic == before else 0
            for request in self._unanswered:
                if request.inherited and (request.idle or quiet == 2):
                    self._end_lost(request)
        self._inherits = False

    def _end_lost(self, request: Request) -> None:
        """End a request after its reply went to an earlier server."""
        for _ in self._unanswered.take(request.message.msg_id):
            if not request.idle and request.message.msg_type == "execute_request":
                text = _UNSENT if self._has_all else _LOST
                self._put(build_notice(Stream("stderr", text), parent=request.message), "iopub")
            self._answer(request, reply_content(request))
        self._note_change()

    def _note_change(self) -> None:
        if self._on_change is not None:
            self._on_change()

    def _put(
        self, message: Message, channel: ChannelName, *, notice: bool = False, number: int = 0
    ) -> None:
        begin = self.log.begin
        self.log.append(message, channel, notice=notice, number=number)
        self._confirm()
        for subscriber in self._subscribers:
            subscriber.note_more()
        if self.log.begin != begin:
            self._check()

    def _confirm(self) -> None:
        """Confirm the messages that the log no longer needs."""
        if self._source is not None and self.failure is None:
            self._source.confirm(self.log.unneeded)

    def _check(self) -> None:
        for subscriber in self._subscribers:
            subscriber.check()
