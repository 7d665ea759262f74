"""Dispatcher: the I/O around a Session; sends the Session's frames and wakes waiting calls."""

from __future__ import annotations

import itertools
import logging
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.process_owner import LoopOwner
from kernelproto.concurrency.task_groups import StartTask
from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import (
    ClientClosed,
    KernelProtoError,
    RemoteProtocolError,
    fresh,
)
from kernelproto.interfaces import Channels
from kernelproto.log_counts import LogCounts
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.conversation import Event, Origin
from kernelproto.wire.message import Frame, Message, MessageFactory, timestamp
from kernelproto.wire.request import Request
from kernelproto.wire.session import Refusal, Session
from kernelproto.wire.transitions import Signal, State

logger = logging.getLogger(__name__)

# A name of the module is read faster than a member of an enumeration.
_DONE = State.DONE

# The last messages of a dead kernel may still be in libzmq's own thread.
_SETTLING_SECONDS = 0.005
_MOST_SETTLING_ROUNDS = 20

# Above this size of unread messages the client no longer lets other tasks run between the steps.
_MOST_UNREAD_BYTES = 256 * 2**20

# The number of unread messages that the client reads before it lets other tasks run.
_MOST_AT_ONCE = 64


class Pending(Protocol):
    """Receives the messages that belong to one request."""

    def receive(self, event: Event) -> None:
        """Receive a message, or the end of a request after the loss of the reply or "idle"."""
        ...

    def fail(self, error: Exception) -> None:
        """End with *error*: no more messages will arrive."""
        ...


class Dispatcher:
    """Sends the messages of one client session, and hands arriving messages to their requests.

    Malformed messages, wrong signatures and replays are refused, counted, and logged as LogCounts
    says. If the client can tell which of its requests a malformed message belongs to, that request
    reports the loss: an output leaves a RefusedOutput, a refused reply or question ends the request
    with MalformedMessage.

    Args:
        info: the kernel's address and key.
        session_id: the client session id.
        on_event: called for every message that arrives, after the message's request has received
            it.
        needs_content: whether the client reads the content of a message.

    Large contents are read in steps, and the messages after them wait; see ``wire/session.py``. If
    more than 256 MiB wait, the client reads a large content at once, and the event loop waits.

    Attributes:
        session: encodes and decodes the messages.
        factory: makes the messages of this session.
        conversation: the open requests and their states.
        refused: the number of refused messages, by the name of the exception.
        failure: the error of every call once the client is closed or the kernel has died.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        session_id: str,
        on_event: Callable[[Event, ChannelName], None],
        needs_content: Callable[[Message, ChannelName], bool],
    ) -> None:
        self.refused: Counter[str] = Counter()
        self.failure: KernelProtoError | None = None
        self._log_counts = LogCounts()
        self._on_event = on_event
        count = itertools.count(1)
        self.factory = MessageFactory(
            session=session_id,
            username=os.environ.get("USER") or os.environ.get("USERNAME") or "kernelproto",
            new_id=lambda: f"{session_id}_{next(count)}",
            now=lambda: timestamp(datetime.now(UTC)),
        )
        self.session = Session(self.factory, info.signer(), needs_content)
        self.conversation = self.session.conversation
        self._channels: Channels
        self._owner: LoopOwner
        self._pending: dict[str, Pending] = {}
        self._echoes: dict[bytes, Waiter[float]] = {}
        self._arrivals = 0
        self._start_task: StartTask | None = None
        self._reading = False
        self._read = 0
        self._news = Bell()

    def attach(self, channels: Channels, start_task: StartTask) -> None:
        """Send on *channels*, and run tasks, from now on; called when they are open."""
        self._channels = channels
        self._owner = LoopOwner()
        self._start_task = start_task
        self._read_on_if_needed()

    async def send(
        self, message: Message, channel: ChannelName, pending: Pending | None = None
    ) -> None:
        """Send a message.

        Args:
            message: the message.
            channel: the channel of the message.
            pending: receives every message that belongs to the request, until the request is over
                or forgotten. None if the client expects no reply.
        """
        if pending is None:
            frames = self.session.encode(message)
        else:
            frames = self.session.send(message, channel)
            self._pending[message.msg_id] = pending
        try:
            await self._send_frames(channel, frames)
        except BaseException:
            self.forget(message.msg_id)
            raise

    def forget(self, msg_id: str) -> None:
        """Forget a request; an unknown msg_id is ignored."""
        self._pending.pop(msg_id, None)
        self.conversation.forget(msg_id)

    def pending_for(self, msg_id: str) -> Pending | None:
        """Return the receiver of a request's messages; None if the request is not open."""
        return self._pending.get(msg_id)

    async def heartbeat(self) -> float:
        """Send a heartbeat and wait for the echo; return the delay in seconds."""
        beat = uuid.uuid4().bytes
        echo = self._echoes[beat] = Waiter[float]()
        sent_at = time.perf_counter()
        try:
            await self._send_frames("hb", [b"", beat])
            return await echo.wait() - sent_at
        finally:
            self._echoes.pop(beat, None)

    def deliver(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        """Take in a message that has arrived on *channel*; called by the channels."""
        self._arrivals += 1
        if channel == "hb":
            echo = self._echoes.get(bytes(frames[-1]))
            if echo is not None:
                echo.set(time.perf_counter())
            return
        if self.failure is not None:
            return
        for event in self.session.receive(channel, frames):
            self._act_on(event, channel)
        if self.session.unread:
            self._read_on_if_needed()

    def give_up(self, request: Request) -> None:
        """End a request to which the kernel will not reply; ignore a forgotten request."""
        if self.pending_for(request.message.msg_id) is not None:
            self.conversation.give_up(request)
            self._end(request)

    def fail(self, error: KernelProtoError) -> None:
        """End every wait: each call, now or later, raises a copy of *error*."""
        self.failure = error
        for msg_id, pending in self._pending.items():
            pending.fail(error)
            self.conversation.forget(msg_id)
        for echo in self._echoes.values():
            echo.fail(error)
        self._pending.clear()
        self.session.discard_unread()
        self._news.ring()

    def abandon(self) -> None:
        """Discard unsent messages when the client closes."""
        self._channels.abandon()

    async def catch_up(self) -> bool:
        """Wait until the messages that have arrived are read; return whether any was unread.

        For a task after its deadline: the awaited message may be among the unread ones.
        """
        unread = self.session.unread
        last = self._read + unread
        while self.session.unread and self._read < last:
            await self._news.wait()
        return unread > 0

    async def settle(self) -> None:
        """Wait until no more messages arrive from a kernel after the end of the process."""
        before = -1
        for _ in range(_MOST_SETTLING_ROUNDS):
            await self.catch_up()
            if before == self._arrivals:
                return
            before = self._arrivals
            await anyio.sleep(_SETTLING_SECONDS)

    def _read_on_if_needed(self) -> None:
        while self.session.unread_bytes > _MOST_UNREAD_BYTES:
            self._read_on()
        if self.session.unread and self._start_task is not None and not self._reading:
            self._reading = True
            self._start_task(self._read_unread)

    async def _read_unread(self) -> None:
        """Read the unread messages, and let other tasks run in between."""
        try:
            while self.session.unread:
                self._read_on()
                await checkpoint()
        finally:
            self._reading = False

    def _read_on(self) -> None:
        """Read a step of a large content, or up to the next one of many small messages."""
        try:
            for _ in range(_MOST_AT_ONCE):
                channel, events = self.session.read_on()
                self._read += bool(events)
                for event in events:
                    self._act_on(event, channel)
                if not events or not self.session.unread:
                    break
        finally:
            self._news.ring()

    def _act_on(self, event: Event | Refusal, channel: ChannelName) -> None:
        if isinstance(event, Event):
            self._hand_over(event, channel)
        else:
            self._note_refusal(event.error, channel)
            if event.lost_by in self._pending:
                self._pending.pop(event.lost_by).fail(event.error)

    def _hand_over(self, event: Event, channel: ChannelName) -> None:
        try:
            try:
                for earlier in event.ended:
                    self._end(earlier)
                request = event.request
                if request is not None:
                    msg_id = request.message.header.msg_id
                    pending = self._pending[msg_id]
                    if request.state is _DONE:
                        del self._pending[msg_id]
                    pending.receive(event)
            finally:
                self._on_event(event, channel)
        except RemoteProtocolError as error:
            self._note_refusal(error, channel)

    def _note_refusal(self, error: RemoteProtocolError, channel: ChannelName) -> None:
        name = type(error).__name__
        self.refused[name] += 1
        text = "refused a message on %s: %s"
        self._log_counts.log(logger, logging.WARNING, name, text, channel, error)

    async def _send_frames(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        self._raise_failure()
        try:
            await self._channels.send(channel, frames)
        except ClientClosed:
            self._raise_failure()  # the reason why the channels are closed
            raise

    def _end(self, request: Request) -> None:
        """End a request after the loss of the reply or "idle"."""
        pending = self._pending.pop(request.message.msg_id)
        pending.receive(Event(Signal.LATER_REPLY, Origin.OWN, request.message, request))

    def _raise_failure(self) -> None:
        self._owner.check("client")
        if self.failure is not None:
            raise fresh(self.failure)
