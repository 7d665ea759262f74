"""Comms: messages between a frontend and objects in the kernel, such as widgets.

Specification: "Custom Messages".
"""

from __future__ import annotations

import inspect
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from kernelproto.client.observers import IOPUB, STREAM_LIMIT, MessageStream
from kernelproto.exceptions import KernelProtoError, LocalProtocolError
from kernelproto.log_counts import LogCounts
from kernelproto.wire.content import CommClose, CommMessage, CommOpen
from kernelproto.wire.message import Frame, Message

logger = logging.getLogger(__name__)

MOST_COMMS = 10_000
"""The number of open comms above which the client ignores comms that the kernel opens."""

OnCommOpen = Callable[["Comm", Message], Awaitable[None] | None]


class CommSender(Protocol):
    """Sends the messages of comms; implemented by the client."""

    async def send_comm(
        self,
        content: CommOpen | CommMessage | CommClose,
        metadata: Mapping[str, Any] | None,
        buffers: Sequence[Frame],
    ) -> None:
        """Send a comm message on shell."""
        ...

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function while the client is open; exceptions are logged."""
        ...


class Comm:
    """One comm; ``Comms.open`` and the kernel open comms.

    Iterate over a comm to receive the kernel's messages; the iteration ends when the kernel closes
    the comm. Leaving the block of a comm closes it. A comm ends with its client.

    Iterating raises, after the messages received before:
        OutputOverflow: more than 64 MiB were waiting to be read.
        KernelDied: the kernel's process has ended.
        ClientClosed: the client was closed.

    Attributes:
        comm_id: the id of the comm on both sides.
        target_name: the name of the comm's target.
        closed: whether either side has closed the comm.
    """

    def __init__(self, comms: Comms, comm_id: str, target_name: str) -> None:
        self.comm_id = comm_id
        self.target_name = target_name
        self.closed = False
        self._comms = comms
        self._stream = MessageStream(IOPUB, None, limit=STREAM_LIMIT, overflow="raise")

    async def send(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
    ) -> None:
        """Send a message to the kernel's side.

        Args:
            data: a JSON object.
            metadata: a JSON object.
            buffers: binary frames; you may change them after the call, which has copied them.

        Raises:
            LocalProtocolError: the comm is closed.
        """
        self._raise_closed()
        content = CommMessage(comm_id=self.comm_id, data=dict(data or {}))
        await self._comms.sender.send_comm(content, metadata, buffers)

    async def close(self, data: Mapping[str, Any] | None = None) -> None:
        """Close the comm, unless already closed."""
        if self.closed:
            return
        self.closed = True
        self._comms.discard(self)
        content = CommClose(comm_id=self.comm_id, data=dict(data or {}))
        await self._comms.sender.send_comm(content, None, ())

    def receive(self, message: Message) -> None:
        """Take in a message that the kernel has sent on this comm; called by Comms."""
        if isinstance(message.content, CommClose):
            self.closed = True
        self._stream.offer(message, "iopub")

    def fail(self, error: Exception) -> None:
        """End the iteration with *error*; called by Comms."""
        self.closed = True
        self._stream.fail(error)

    def __aiter__(self) -> Comm:
        return self

    async def __anext__(self) -> Message:
        message, _ = await anext(self._stream)
        if isinstance(message.content, CommClose):
            self._stream.offer(message, "iopub")  # so that the next iteration ends as well
            raise StopAsyncIteration
        return message

    async def __aenter__(self) -> Comm:
        return self

    async def __aexit__(self, *exception: object) -> None:
        with suppress(KernelProtoError):
            await self.close()

    def _raise_closed(self) -> None:
        if self.closed:
            raise LocalProtocolError(f"the comm {self.comm_id} to {self.target_name!r} is closed")


class Comms:
    """The comms of one client, opened by the client or by the kernel.

    Args:
        sender: the client.
        targets: the registered targets, by name; the successive clients of a kernel share them.
    """

    def __init__(self, sender: CommSender, targets: dict[str, OnCommOpen]) -> None:
        self.sender = sender
        self._open: dict[str, Comm] = {}
        self._targets = targets
        self._log_counts = LogCounts()

    def __bool__(self) -> bool:
        """Whether any message of a comm may be for this client."""
        return bool(self._open or self._targets)

    async def open(
        self,
        target_name: str,
        data: Mapping[str, Any] | None = None,
        *,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
    ) -> Comm:
        """Open a comm to a target that the kernel has registered.

        Args:
            target_name: the target; a kernel without this target closes the comm at once.
            data: a JSON object for the target.
            metadata: a JSON object.
            buffers: binary frames; you may change them after the call, which has copied them.
        """
        comm = self._add(uuid.uuid4().hex, target_name)
        content = CommOpen(comm_id=comm.comm_id, target_name=target_name, data=dict(data or {}))
        try:
            await self.sender.send_comm(content, metadata, buffers)
        except BaseException:
            self.discard(comm)
            raise
        return comm

    def attach(self, comm_id: str, target_name: str) -> Comm:
        """Join a comm that is open already, as listed by ``comm_info``."""
        return self._open.get(comm_id) or self._add(comm_id, target_name)

    def register_target(self, target_name: str, on_open: OnCommOpen) -> None:
        """Let the kernel open comms to a target of this client.

        A comm to an unregistered target is ignored: it may belong to another client. While 10,000
        comms are open, further ones are ignored, and a warning is logged.

        Args:
            target_name: the target.
            on_open: called with the comm and the comm_open message, in a task of the client; an
                async function may run as long as the client is open. Exceptions are logged.
        """
        self._targets[target_name] = on_open

    def unregister_target(self, target_name: str) -> None:
        """Ignore new comms to *target_name*; open comms stay open."""
        self._targets.pop(target_name, None)

    def receive(self, message: Message) -> None:
        """Take in a comm message; called by the client.

        Without comms and targets the content is not decoded, so a stored message takes less memory.

        Raises:
            MalformedMessage: the content cannot be read.
        """
        if not self:
            return
        content = message.content
        comm = self._open.get(content.comm_id)
        if isinstance(content, CommOpen):
            on_open = self._targets.get(content.target_name)
            if on_open is not None and comm is None and self._has_room():
                opened = self._add(content.comm_id, content.target_name)
                self.sender.start_task(self._call, on_open, opened, message)
        elif comm is not None:
            comm.receive(message)
            if isinstance(content, CommClose):
                self.discard(comm)

    def fail(self, error: Exception) -> None:
        """End every comm with *error*; called by the client."""
        for comm in self._open.values():
            comm.fail(error)
        self._open.clear()

    def discard(self, comm: Comm) -> None:
        """Deliver nothing more to a comm."""
        self._open.pop(comm.comm_id, None)

    def _has_room(self) -> bool:
        if len(self._open) < MOST_COMMS:
            return True
        text = "ignored a comm that the kernel opened: %d comms are open, the maximum; close some"
        self._log_counts.log(logger, logging.WARNING, "many", text, MOST_COMMS)
        return False

    def _add(self, comm_id: str, target_name: str) -> Comm:
        comm = self._open[comm_id] = Comm(self, comm_id, target_name)
        return comm

    async def _call(self, on_open: OnCommOpen, comm: Comm, message: Message) -> None:
        try:
            outcome = on_open(comm, message)
            if inspect.isawaitable(outcome):
                await outcome
        except Exception:
            # The client has registered this name, so the kernel cannot add keys without limit.
            text = "%r failed on a comm"
            self._log_counts.log(
                logger, logging.ERROR, comm.target_name, text, on_open, exc_info=True
            )
