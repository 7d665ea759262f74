"""Session: one client's messages to and from a kernel, without I/O.

Theory of operation
===================

The session turns messages into frames and frames into events. The caller does the I/O:

- Before sending a message, the caller calls ``send`` for a request that awaits a reply, or
  ``encode`` for any other message, and then writes the frames to a channel.
- For each multipart message that arrives, the caller calls ``receive`` and acts on the events in
  order.
- While messages are ``unread``, the caller calls ``read_on`` again and again, lets other code run
  in between, and acts on the events.
- While executions are open, the caller checks ``fences`` twice a second.

The session signs and verifies, detects replays, keeps the state of every open request
(``Conversation``), and finds the executions with a lost reply (``Fences``). The first
kernel_info_reply tells the kernel's version of the specification. If that is version 4, the session
translates every later message in both directions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from kernelproto.exceptions import MalformedMessage, RemoteProtocolError
from kernelproto.wire.adapter_v4 import AdapterV4, name_in_v5, needs_adapter, protocol_version
from kernelproto.wire.codec import Codec, frames_after_fragment
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import Stream
from kernelproto.wire.conversation import Conversation, Event, Origin
from kernelproto.wire.fences import Fences
from kernelproto.wire.large_json import LARGE_BYTES, is_large
from kernelproto.wire.message import Frame, Message, MessageFactory
from kernelproto.wire.refusals import stand_in
from kernelproto.wire.signing import Signer
from kernelproto.wire.transitions import Signal

_END = object()


class Refusal(msgspec.Struct, frozen=True):
    """A received message that the session refused.

    Attributes:
        error: the reason.
        lost_by: the msg_id of the request to which this reply or question belonged. No other
            message would end the wait, so the session has forgotten the request. None if unknown.
    """

    error: RemoteProtocolError
    lost_by: str | None = None


class _Large(NamedTuple):
    """A message with a partly read content."""

    channel: ChannelName
    message: Message
    steps: Iterator[None]


class Session:
    """The messages of one client session; see the module for the calls to make.

    Args:
        factory: makes the messages of the session.
        signer: signs and verifies them.
        needs_content: whether the owner reads the content of a message.

    Attributes:
        factory: the same.
        conversation: the open requests and their states.
        fences: finds the executions to which the kernel will not reply.
        unread: the number of received messages that wait for ``read_on``.
        unread_bytes: their size.
    """

    def __init__(
        self,
        factory: MessageFactory,
        signer: Signer,
        needs_content: Callable[[Message, ChannelName], bool] = lambda message, channel: True,
    ) -> None:
        self.factory = factory
        self.unread = 0
        self.unread_bytes: int = 0
        self._needs_content = needs_content
        self._large: _Large | None = None
        self._waiting: deque[tuple[ChannelName, Sequence[Frame]]] = deque()
        self.conversation = Conversation(factory.session)
        self.fences = Fences(self.conversation, factory)
        self._codec = Codec(signer=signer)
        self._adapter: AdapterV4 | None = None
        self._negotiated = False

    def send(self, request: Message, channel: ChannelName) -> list[Frame]:
        """Open a request; return the frames to send.

        Call ``send`` before the I/O, because the reply may arrive before the sending task runs
        again. If the I/O fails, forget the request: ``conversation.forget``.

        Raises:
            MalformedMessage: a header of the message is no JSON object, and the kernel speaks
                version 4.
        """
        frames = self.encode(request)
        self.conversation.sent(request, channel)
        return frames

    def encode(self, message: Message) -> list[Frame]:
        """Return the frames of a message to which no reply is expected; raises as ``send`` does."""
        if self._adapter is not None:
            message = self._adapter.to_kernel(message)
        return self._codec.encode(message)

    def receive(self, channel: ChannelName, frames: Sequence[Frame]) -> tuple[Event | Refusal, ...]:
        """Process a received multipart message; return the events, nearly always one.

        A refused message gives a Refusal. An Event may follow: a RefusedOutput in place of an
        unreadable output, or the message if only the content is unreadable. There are no events yet
        if the message has a large content, or follows an unread one.
        """
        if self.unread:
            self._waiting.append((channel, frames))
            self.unread += 1
            self.unread_bytes += sum(map(len, frames))
            return ()
        return self._take_in(channel, frames)

    def read_on(self) -> tuple[ChannelName, tuple[Event | Refusal, ...]]:
        """Read a step of a large content, or the next unread message.

        Returns:
            The channel of a message, and the events if the message was read.
        """
        if self._large is not None:
            channel, message, steps = self._large
            if next(steps, _END) is not _END:
                return channel, ()
            self._large = None
            self.unread -= 1
            self.unread_bytes -= message.size
            return channel, self._received(channel, message)
        channel, frames = self._waiting.popleft()
        self.unread -= 1
        self.unread_bytes -= sum(map(len, frames))
        return channel, self._take_in(channel, frames)

    def discard_unread(self) -> None:
        """Discard the unread messages, when the client closes."""
        self._large = None
        self._waiting.clear()
        self.unread = self.unread_bytes = 0

    def _take_in(
        self, channel: ChannelName, frames: Sequence[Frame]
    ) -> tuple[Event | Refusal, ...]:
        try:
            message = self._decode(frames)
        except MalformedMessage as error:
            return self._refuse(channel, frames, error)
        except RemoteProtocolError as error:
            return (Refusal(error), *self._receive_after_fragment(channel, frames))
        if is_large(message.parts[3]) and self._reads_content(message, channel):
            self._large = _Large(channel, message, message.read_content())
            self.unread += 1
            self.unread_bytes += message.size
            return ()
        return self._received(channel, message)

    def _reads_content(self, message: Message, channel: ChannelName) -> bool:
        return message.header.msg_type == "status" or self._needs_content(message, channel)

    def _received(self, channel: ChannelName, message: Message) -> tuple[Event | Refusal, ...]:
        try:
            return (self.conversation.received(message, channel),)
        except MalformedMessage as error:
            # An unreadable status changes nothing here. Observers may be able to read it.
            return (Refusal(error), Event(Signal.OTHER, Origin.KERNEL, message))

    def _decode(self, frames: Sequence[Frame]) -> Message:
        message = self._codec.decode(frames)
        if not self._negotiated and message.header.msg_type == "kernel_info_reply":
            size = len(message.raw_content)
            if size > LARGE_BYTES:
                raise MalformedMessage(f"has {size} bytes; at most {LARGE_BYTES} are accepted")
            self._negotiated = True
            if needs_adapter(protocol_version(message)):
                self._adapter = AdapterV4()
        return message if self._adapter is None else self._adapter.from_kernel(message)

    def _refuse(
        self, channel: ChannelName, frames: Sequence[Frame], error: MalformedMessage
    ) -> tuple[Event | Refusal, ...]:
        """Return the events of a malformed message, for the message's request as well."""
        refused = self._codec.salvage(frames)
        if refused is None or refused.parent_header is None:
            return (Refusal(error), *self._receive_after_fragment(channel, frames))
        if channel == "iopub":
            msg_type = refused.msg_type
            if self._adapter is not None:
                msg_type = name_in_v5(msg_type)
            header = self.factory.message("stream", Stream(), parent=refused).header
            output = stand_in(refused, msg_type, header, error)
            if output is None:
                return (Refusal(error),)
            return (Refusal(error), self.conversation.received(output, channel))
        msg_id = refused.parent_header.msg_id
        self.conversation.forget(msg_id)
        return (Refusal(error, lost_by=msg_id),)

    def _receive_after_fragment(
        self, channel: ChannelName, frames: Sequence[Frame]
    ) -> tuple[Event, ...]:
        """Return the event of a message that arrived joined to an incomplete one.

        A kernel that is interrupted between two frames sends the next message as further frames of
        the first. The transport also joins a message that has too few frames to the next one.
        """
        after = frames_after_fragment(frames)
        if after is None:
            return ()
        try:
            return (self.conversation.received(self._decode(after), channel),)
        except RemoteProtocolError:
            return ()
