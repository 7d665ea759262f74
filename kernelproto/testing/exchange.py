"""Exchange: one request to a FakeKernel, and the messages of the answer."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import msgspec

from kernelproto.testing.faults import Faults, Outgoing
from kernelproto.transport.memory import MemoryTransport
from kernelproto.wire import content as contents
from kernelproto.wire.codec import Codec
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Frame, Message, MessageFactory

AnyContent = msgspec.Struct | Mapping[str, Any]

_DATE = "2026-01-01T00:00:00Z"  # of every message


class Outbox:
    """Creates and sends the messages of a FakeKernel.

    Attributes:
        faults: the faults that apply to messages.
        links: the connected clients.
        closed: whether the kernel is dead; then messages are discarded.
    """

    def __init__(self, codec: Codec) -> None:
        self.faults = Faults(codec)
        self.links: list[MemoryTransport] = []
        self.closed = False
        session = uuid.uuid4().hex
        count = itertools.count(1)
        self._factory = MessageFactory(
            session=session,
            username="kernel",
            new_id=lambda: f"{session}_{next(count)}",
            now=lambda: _DATE,
        )

    def send(
        self,
        channel: ChannelName,
        msg_type: str,
        content: AnyContent,
        *,
        to: MemoryTransport | None = None,
        topic: bytes | None = None,
        parent: Message | None = None,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
    ) -> Message:
        """Send a message *to* one client, or to all clients with a subscription to the *topic*."""
        message = self._factory.message(
            msg_type, content, parent=parent, metadata=metadata, buffers=buffers
        )
        if channel == "iopub":
            message.identities = [f"kernel.{msg_type}".encode() if topic is None else topic]
        links = [to] if to else [link for link in self.links if _subscribed(link, message)]
        if not self.closed:
            self.faults.send(Outgoing(channel, message, links))
        return message


class Exchange:
    """One request to a FakeKernel, with methods for the answer; the argument of handlers.

    The kernel publishes "busy" before the handler runs, and execute_input for an execute_request.
    After the handler the kernel sends an "ok" reply if the handler sent none, and publishes "idle".
    Only ``input`` waits; all other methods send immediately.

    Attributes:
        request: the request's message.
        channel: the channel of the request.
        execution_count: the number of this execution.
        status: the status of the reply; None before the reply.
    """

    def __init__(
        self,
        outbox: Outbox,
        client: MemoryTransport,
        channel: ChannelName,
        request: Message,
    ) -> None:
        self.request = request
        self.channel: ChannelName = channel
        self.execution_count = 0
        self.status: str | None = None
        self._outbox = outbox
        self._client = client
        self._question: Message | None = None
        self._answered = anyio.Event()
        self._answer = ""

    @property
    def content(self) -> Any:
        """The request's content."""
        return self.request.content

    @property
    def code(self) -> str:
        """The code of an execute_request."""
        code: str = self.request.content.code
        return code

    def stream(self, text: str, name: str = "stdout") -> None:
        """Write *text* to standard output, or to ``"stderr"``."""
        self.publish(contents.Stream(name, text))

    def display(
        self,
        data: str | Mapping[str, Any],
        *,
        metadata: Mapping[str, Any] | None = None,
        display_id: str | None = None,
        update: bool = False,
    ) -> None:
        """Display data.

        Args:
            data: a MIME bundle, or plain text.
            metadata: metadata of the MIME bundle.
            display_id: an id for later updates.
            update: whether to update the display with this display_id.
        """
        kind = contents.UpdateDisplayData if update else contents.DisplayData
        transient = {} if display_id is None else {"display_id": display_id}
        self.publish(kind(_bundle(data), dict(metadata or {}), transient))

    def result(
        self, data: str | Mapping[str, Any], *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Publish the value of the code's last expression, a MIME bundle or plain text."""
        self.publish(
            contents.ExecuteResult(
                _bundle(data), dict(metadata or {}), execution_count=self.execution_count
            )
        )

    def clear(self, wait: bool = False) -> None:
        """Clear the outputs; with *wait* only when the next output arrives."""
        self.publish(contents.ClearOutput(wait))

    def error(self, ename: str, evalue: str = "", traceback: Sequence[str] = ()) -> None:
        """Send an error reply; for an execute_request publish the exception first."""
        lines = list(traceback or [f"{ename}: {evalue}"])
        if self.request.msg_type == "execute_request":
            self.publish(contents.ErrorOutput(ename, evalue, lines))
        self.reply(status="error", ename=ename, evalue=evalue, traceback=lines)

    async def input(self, prompt: str = "", *, password: bool = False) -> str:
        """Request a line of text from the client, and wait for the answer.

        Raises:
            CodeError: the request does not allow input.
        """
        if not self.content.allow_stdin:
            raise CodeError("StdinNotImplementedError", "this client does not support input")
        self._answered = anyio.Event()
        self._question = self.send("stdin", contents.InputRequest(prompt, password))
        try:
            await self._answered.wait()
        finally:
            self._question = None
        return self._answer

    def answer(self, reply: Message) -> None:
        """Accept an input_reply to the pending input_request; ignore others."""
        asked = None if self._question is None else self._question.header
        if asked is not None and asked == reply.parent_header:
            self._answer = reply.content.value
            self._answered.set()

    def reply(self, content: AnyContent | None = None, /, **fields: Any) -> None:
        """Send the reply.

        Args:
            content: the content; None means an empty reply of the right type.
            fields: fields of that empty reply to set, such as ``status="aborted"``.
        """
        msg_type = self.request.msg_type.removesuffix("_request") + "_reply"
        if msg_type == "execute_reply":
            fields = {"execution_count": self.execution_count, **fields}
        kind = contents.content_type(msg_type)
        reply: AnyContent = kind(**fields) if content is None else content
        self.status = _status(reply)
        self.send(self.channel, reply, msg_type)

    def publish(
        self,
        content: AnyContent,
        msg_type: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
    ) -> None:
        """Send a message to all clients, on iopub; arguments as for ``send``."""
        self.send("iopub", content, msg_type, metadata=metadata, buffers=buffers)

    def send(
        self,
        channel: ChannelName,
        content: AnyContent,
        msg_type: str | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
    ) -> Message:
        """Send a message with the request as the parent; on iopub to all clients.

        Args:
            channel: the channel.
            content: a Struct of ``kernelproto.wire.content``, or a mapping.
            msg_type: the message type; only needed with a mapping.
            metadata: the message's metadata.
            buffers: binary frames that follow the content.

        Returns:
            The message.
        """
        return self._outbox.send(
            channel,
            msg_type or type_of(content),
            content,
            to=None if channel == "iopub" else self._client,
            parent=self.request,
            metadata=metadata,
            buffers=buffers,
        )


class CodeError(Exception):
    """An exception of executed code; raised in a handler, it sends an error reply.

    Args:
        ename: the exception's name.
        evalue: the text.
    """

    def __init__(self, ename: str, evalue: str = "") -> None:
        super().__init__(ename, evalue)
        self.ename = ename
        self.evalue = evalue


def type_of(content: AnyContent) -> str:
    """Return the msg_type of a content.

    Raises:
        TypeError: the content is not a Struct of ``kernelproto.wire.content``.
    """
    if isinstance(content, contents.Content):
        return contents.message_type(type(content))
    raise TypeError(f"msg_type is required: it cannot be derived from a {type(content).__name__}")


def _subscribed(link: MemoryTransport, message: Message) -> bool:
    (topic,) = message.identities
    return any(bytes(topic).startswith(subscription) for subscription in link.topics)


def _status(reply: AnyContent) -> str:
    named = reply if isinstance(reply, Mapping) else msgspec.structs.asdict(reply)
    return str(named.get("status", "ok"))


def _bundle(data: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"text/plain": data} if isinstance(data, str) else dict(data)
