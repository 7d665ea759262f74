"""Dispatcher: sends messages, and hands arriving messages to the calls that wait for them."""

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

from kernelproto.client.refusals import stand_in
from kernelproto.concurrency.process_owner import LoopOwner
from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import (
    ClientClosed,
    KernelProtoError,
    MalformedMessage,
    RemoteProtocolError,
    fresh,
)
from kernelproto.interfaces import Channels
from kernelproto.log_counts import LogCounts
from kernelproto.wire.adapter_v4 import AdapterV4, needs_adapter, protocol_version
from kernelproto.wire.codec import Codec
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.content import Stream
from kernelproto.wire.conversation import Conversation, Event, Origin, Request
from kernelproto.wire.message import Frame, Message, MessageFactory, timestamp
from kernelproto.wire.transitions import Signal, State

logger = logging.getLogger(__name__)

# The last messages of a dead kernel may still be in libzmq's own thread.
_SETTLING_SECONDS = 0.005
_MOST_SETTLING_ROUNDS = 20


class Pending(Protocol):
    """Receives the messages that belong to one request."""

    def receive(self, event: Event) -> None:
        """Take in an arrival, or the end of a request of which the kernel has lost a message."""
        ...

    def fail(self, error: Exception) -> None:
        """Give up: nothing more will arrive."""
        ...


class Dispatcher:
    """Sends the messages of one client session, and hands arriving messages to their requests.

    Messages that are no messages, carry a wrong signature or were received before are refused:
    counted, and logged as LogCounts says. If the headers of a refused message can be trusted, its
    request is told: an output leaves a RefusedOutput, a refused reply or question ends the request
    with MalformedMessage. The first kernel_info_reply decides whether the kernel is spoken to in
    version 4 of the specification.

    Args:
        info: where the kernel is, and the key.
        session: the client session id.
        on_event: called for every message that arrives, after its request has received it.

    Attributes:
        factory: makes the messages of this session.
        conversation: the open requests and their states.
        refused: how many messages were refused, by the name of the exception.
        failure: the error of every call once the client is closed or the kernel has died.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        session: str,
        on_event: Callable[[Event, ChannelName], None],
    ) -> None:
        self.conversation = Conversation(session)
        self.refused: Counter[str] = Counter()
        self.failure: KernelProtoError | None = None
        self._log_counts = LogCounts()
        self._on_event = on_event
        self._codec = Codec(signer=info.signer())
        count = itertools.count(1)
        self.factory = MessageFactory(
            session=session,
            username=os.environ.get("USER") or os.environ.get("USERNAME") or "kernelproto",
            new_id=lambda: f"{session}_{next(count)}",
            now=lambda: timestamp(datetime.now(UTC)),
        )
        self._adapter: AdapterV4 | None = None
        self._negotiated = False
        self._channels: Channels
        self._owner: LoopOwner
        self._pending: dict[str, Pending] = {}
        self._echoes: dict[bytes, Waiter[float]] = {}
        self._arrivals = 0

    def attach(self, channels: Channels) -> None:
        """Send on *channels* from now on; called once they are open."""
        self._channels = channels
        self._owner = LoopOwner()

    async def send(
        self, message: Message, channel: ChannelName, pending: Pending | None = None
    ) -> None:
        """Send a message.

        Args:
            message: what to send.
            channel: where.
            pending: receives every message that belongs to the request, until it is over or
                forgotten.
        """
        if self._adapter is not None:
            frames = self._codec.encode(self._adapter.to_kernel(message))
        else:
            frames = self._codec.encode(message)
        if pending is not None:
            # Before it is sent: the reply may be here before this task runs again.
            self._pending[message.msg_id] = pending
            self.conversation.sent(message, channel)
        try:
            await self._send_frames(channel, frames)
        except BaseException:
            self.forget(message.msg_id)
            raise

    def forget(self, msg_id: str) -> None:
        """Give up a request; one that is not there is ignored."""
        self._pending.pop(msg_id, None)
        self.conversation.forget(msg_id)

    def pending_for(self, request: Request) -> Pending | None:
        """Return the receiver of a request's messages; None for a request that is not open."""
        return self._pending.get(request.message.msg_id)

    async def heartbeat(self) -> float:
        """Send a heartbeat and wait for its echo; return how long it took, in seconds."""
        beat = uuid.uuid4().bytes
        echo = self._echoes[beat] = Waiter[float]()
        sent_at = time.perf_counter()
        try:
            await self._send_frames("hb", [b"", beat])
            return await echo.wait() - sent_at
        finally:
            self._echoes.pop(beat, None)

    def deliver(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        """Take in what has arrived on *channel*; called by the channels."""
        self._arrivals += 1
        if channel == "hb":
            echo = self._echoes.get(bytes(frames[-1]))
            if echo is not None:
                echo.set(time.perf_counter())
            return
        if self.failure is not None:
            return
        try:
            message = self._decode(frames)
        except RemoteProtocolError as error:
            self._note_refusal(error, channel)
            if isinstance(error, MalformedMessage):
                self._report_loss(frames, channel, error)
        else:
            self._route(message, channel)

    def give_up(self, request: Request) -> None:
        """End a request to which the kernel will not reply, unless it was forgotten."""
        if self.pending_for(request) is not None:
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

    def abandon(self) -> None:
        """Discard unsent messages when the client closes."""
        self._channels.abandon()

    async def settle(self) -> None:
        """Wait until nothing more arrives from a kernel whose process has ended."""
        before = -1
        for _ in range(_MOST_SETTLING_ROUNDS):
            if before == self._arrivals:
                return
            before = self._arrivals
            await anyio.sleep(_SETTLING_SECONDS)

    def _route(self, message: Message, channel: ChannelName) -> None:
        try:
            event = self.conversation.received(message, channel)
        except MalformedMessage as error:
            # A status that cannot be read changes nothing here. Observers may be able to read it.
            self._note_refusal(error, channel)
            self._on_event(Event(Signal.OTHER, Origin.KERNEL, message), channel)
            return
        try:
            try:
                for earlier in event.ended:
                    self._end(earlier)
                if event.request is not None:
                    self._hand_over(event, event.request)
            finally:
                self._on_event(event, channel)
        except RemoteProtocolError as error:
            self._note_refusal(error, channel)

    def _note_refusal(self, error: RemoteProtocolError, channel: ChannelName) -> None:
        name = type(error).__name__
        self.refused[name] += 1
        text = "refused a message on %s: %s"
        self._log_counts.log(logger, logging.WARNING, name, text, channel, error)

    def _report_loss(
        self, frames: Sequence[Frame], channel: ChannelName, error: MalformedMessage
    ) -> None:
        """Tell the request that a refused message belongs to, if its parent can be read."""
        refused = self._codec.salvage(frames)
        if refused is None or refused.parent_header is None:
            return
        msg_id = refused.parent_header.msg_id
        if channel == "iopub":
            header = self.factory.message("stream", Stream(), parent=refused).header
            output = stand_in(refused, header, error)
            if output is not None:
                self._route(output, channel)
        elif (pending := self._pending.get(msg_id)) is not None:
            # A reply or a question: no other message would end the wait.
            self.forget(msg_id)
            pending.fail(error)

    def _decode(self, frames: Sequence[Frame]) -> Message:
        message = self._codec.decode(frames)
        if not self._negotiated and message.msg_type == "kernel_info_reply":
            self._negotiated = True
            if needs_adapter(protocol_version(message)):
                self._adapter = AdapterV4()
        return message if self._adapter is None else self._adapter.from_kernel(message)

    async def _send_frames(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        self._raise_failure()
        try:
            await self._channels.send(channel, frames)
        except ClientClosed:
            self._raise_failure()  # the reason why they are closed
            raise

    def _hand_over(self, event: Event, request: Request) -> None:
        msg_id = request.message.header.msg_id
        pending = self._pending[msg_id]
        if request.state is State.DONE:
            del self._pending[msg_id]
        pending.receive(event)

    def _end(self, request: Request) -> None:
        """End a request of which a message is missing; nothing more will come."""
        pending = self._pending.pop(request.message.msg_id)
        pending.receive(Event(Signal.LATER_REPLY, Origin.OWN, request.message, request))

    def _raise_failure(self) -> None:
        self._owner.check("client")
        if self.failure is not None:
            raise fresh(self.failure)
