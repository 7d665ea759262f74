"""KernelClient: sends requests to a running kernel, and receives the kernel's messages."""

from __future__ import annotations

import uuid
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any

from anyio.abc import TaskGroup

from kernelproto.client.comms import Comms, OnCommOpen
from kernelproto.client.dispatcher import Dispatcher
from kernelproto.client.execution import Execution, ExecutionOptions
from kernelproto.client.executions import Executions
from kernelproto.client.observers import (
    Observable,
    Observers,
)
from kernelproto.client.page import Displays
from kernelproto.client.quirks import apply_quirks
from kernelproto.client.readiness import Readiness
from kernelproto.client.reply import ask
from kernelproto.client.requests import Requests, content_of
from kernelproto.concurrency.task_groups import background_tasks, start_logged
from kernelproto.exceptions import (
    ClientClosed,
    KernelProtoError,
    LocalProtocolError,
)
from kernelproto.interfaces import Channels, OpenChannels
from kernelproto.timeouts import Timeouts
from kernelproto.transport import open_channels as open_zmq_channels
from kernelproto.wire import content
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.content import message_type
from kernelproto.wire.conversation import Event
from kernelproto.wire.message import Frame, Message

OUTPUT_LIMIT = 256 * 2**20

_DEFAULT_TIMEOUTS = Timeouts()

_COMM_MESSAGES = frozenset(("comm_open", "comm_msg", "comm_close"))


class KernelClient(Requests, Observable):
    """Talks to one running kernel; ``open_client`` and ``connect_kernel`` make a client.

    The client refuses malformed messages, wrong signatures and replays: they are counted in
    ``refused``, and logged as warnings. If the client can tell which of its requests a malformed
    message belongs to, that request reports the loss: a lost output leaves a RefusedOutput, a lost
    reply raises MalformedMessage.

    There are three ways to receive messages beside those of your own requests: iterate over
    ``messages``, have a function called by ``add_handler``, or, for the debugger, iterate over
    ``debug_events``.

    Attributes:
        connection_info: the kernel's addresses and keys.
        session: the client session id.
        interrupter: interrupts the kernel for ``execute``; by default with an interrupt_request.
        comms: the comms of this client.
        executions: sends and interrupts executions, and finds lost replies.
        observers: the observers of messages; all clients of a Kernel share them.
    """

    def __init__(
        self,
        info: ConnectionInfo,
        *,
        session: str,
        output_limit: int,
        timeouts: Timeouts,
        observers: Observers | None,
        comm_targets: dict[str, OnCommOpen],
    ) -> None:
        self.connection_info = info
        self.session = session
        self._info: content.KernelInfoReply | None = None
        self.interrupter: Callable[[], Awaitable[object]] = self.request_interrupt
        self.comms = Comms(self, comm_targets)
        self._output_limit = output_limit
        self._dispatcher = Dispatcher(info, session, self._note, self._reads)
        self.executions = Executions(
            self._dispatcher, self.start_task, self._interrupt, timeouts, Displays(output_limit)
        )
        self._readiness = Readiness()
        self._own_observers = observers is None
        self.observers = Observers(self.start_task) if observers is None else observers
        self._tasks: TaskGroup

    def attach(self, channels: Channels, tasks: TaskGroup) -> None:
        """Send on *channels* and run handlers in *tasks*; called by ``open_client``."""
        self._tasks = tasks
        self._dispatcher.attach(channels, self.start_task)

    @property
    def refused(self) -> Mapping[str, int]:
        """The number of refused messages, by the name of the exception."""
        return self._dispatcher.refused

    @property
    def info(self) -> content.KernelInfoReply | None:
        """The kernel_info_reply that ``wait_for_ready`` has received; None before."""
        return self._info

    @property
    def failure(self) -> KernelProtoError | None:
        """The error of every call once the client is closed or the kernel has died."""
        return self._dispatcher.failure

    @property
    def busy(self) -> bool:
        """Whether the kernel works on a request of any client, as far as this client knows."""
        return self._dispatcher.conversation.kernel_busy

    @property
    def waiting(self) -> bool:
        """Whether a request of this client is open."""
        return len(self._dispatcher.conversation) > 0

    @property
    def awaited(self) -> str:
        """The current or last phase of ``wait_for_ready``; see ``KernelNotReady.phase``."""
        return self._readiness.awaited

    async def wait_for_ready(self) -> content.KernelInfoReply:
        """Wait until the kernel answers and outputs arrive; set a deadline around the call.

        A kernel that answers only on control is busy with another client's request: ``busy`` is
        then True until the kernel answers on shell.

        Returns:
            The kernel_info_reply.

        Raises:
            KernelDied: the kernel's process has ended.
            ClientClosed: the client was closed.
        """
        asked: dict[str, ChannelName] = {}

        async def ask(channel: ChannelName) -> None:
            message = self._dispatcher.factory.message(
                "kernel_info_request", content.KernelInfoRequest()
            )
            asked[message.msg_id] = channel
            await self._dispatcher.send(message, channel, self._readiness.answer_on(channel))

        try:
            answer = await self._readiness.wait(ask)
            if not self._readiness.shell_answers:
                on_shell = [msg_id for msg_id, channel in asked.items() if channel == "shell"]
                self._dispatcher.conversation.assume_busy(on_shell[-1])
        finally:
            for msg_id in asked:
                self._dispatcher.forget(msg_id)
        self._info = content_of(answer, content.KernelInfoReply)
        apply_quirks(self._dispatcher.conversation, self._info.implementation)
        return self._info

    async def request(
        self,
        msg_type: str,
        content: content.Request | Mapping[str, Any],
        channel: ChannelName = "shell",
        *,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
        subshell_id: str | None = None,
    ) -> Message:
        if not msg_type.endswith("_request"):
            raise LocalProtocolError(f"{msg_type!r} is not a request, so no reply would come")
        if channel not in ("shell", "control"):
            raise LocalProtocolError(f"send requests on shell or control, not on {channel}")
        message = self._dispatcher.factory.message(
            msg_type, content, metadata=metadata, buffers=buffers, subshell_id=subshell_id
        )
        name = self._info.implementation if self._info is not None else ""
        return await ask(self._dispatcher, message, channel, kernel=name or "the kernel")

    def new_execution(
        self, request: content.ExecuteRequest, options: ExecutionOptions
    ) -> Execution:
        if options.on_timeout == "restart":
            raise LocalProtocolError(
                'on_timeout="restart" needs a Kernel: a KernelClient cannot restart its kernel'
            )
        limit = self._output_limit
        return Execution(self.executions, request, options=options, output_limit=limit)

    async def interrupt(self) -> content.InterruptReply:
        """Ask the kernel to interrupt the running code. Specification: "Kernel interrupt"."""
        return await self.executions.interrupt(self.request_interrupt)

    async def request_interrupt(self) -> content.InterruptReply:
        """Send the interrupt_request and do nothing else; for ``interrupter``."""
        return await self._ask(content.InterruptRequest(), content.InterruptReply, "control")

    async def shutdown(
        self, restart: bool = False, *, channel: ChannelName = "control"
    ) -> content.ShutdownReply:
        """Ask the kernel to end. Specification: "Kernel shutdown".

        Args:
            restart: tells the kernel whether a restart follows.
            channel: "control", or "shell" for kernels that support the request only there.
        """
        request = content.ShutdownRequest(restart=restart)
        return await self._ask(request, content.ShutdownReply, channel)

    async def heartbeat(self) -> float:
        """Send a heartbeat and wait for the echo. Specification: "Heartbeat for kernels".

        Returns:
            The delay in seconds.
        """
        return await self._dispatcher.heartbeat()

    def deliver(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        """Take in a message that has arrived on *channel*; called by the channels."""
        self._dispatcher.deliver(channel, frames)

    def fail(self, error: KernelProtoError) -> None:
        """End every wait, because the kernel has ended.

        Every wait, now or later, raises a copy of *error*. Only the first call counts.
        """
        self._dispatcher.abandon()
        self.close(error)

    def close(self, error: KernelProtoError | None = None) -> None:
        """End every wait; the channels stay open until ``open_client`` closes them.

        Every wait, now or later, raises a copy of *error*, by default ClientClosed. Only the first
        call counts.
        """
        if self._dispatcher.failure is not None:
            return
        failure = error or ClientClosed("the client is closed")
        self._dispatcher.fail(failure)
        self._readiness.fail(failure)
        if self._own_observers:
            self.observers.fail(failure)
        self.comms.fail(failure)

    async def settle(self) -> None:
        """Wait until nothing more arrives from a kernel whose process has ended."""
        await self._dispatcher.settle()

    async def interrupt_kernel(self) -> None:
        """Interrupt the running code with ``interrupter``."""
        await self.executions.interrupt_kernel()

    async def send_comm(
        self,
        content: content.CommOpen | content.CommMessage | content.CommClose,
        metadata: Mapping[str, Any] | None,
        buffers: Sequence[Frame],
    ) -> None:
        """Send a comm message; part of ``CommSender``."""
        msg_type = message_type(type(content))
        message = self._dispatcher.factory.message(
            msg_type, content, metadata=metadata, buffers=buffers
        )
        await self._dispatcher.send(message, "shell")

    async def forward(self, message: Message, channel: ChannelName) -> None:
        """Send another client's message unchanged; the replies come with ``messages``."""
        await self._dispatcher.send(message, channel)

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function while the client is open; part of ``CommSender``."""
        start_logged(self._tasks, function, *args)

    async def _interrupt(self) -> None:
        await self.interrupter()

    def _reads(self, message: Message, channel: ChannelName) -> bool:
        """Return whether this client reads the content of a message."""
        parent = message.parent_header
        pending = None if parent is None else self._dispatcher.pending_for(parent.msg_id)
        if channel != "iopub":
            return pending is not None
        if message.msg_type in _COMM_MESSAGES and self.comms:
            return True
        if message.msg_type == "update_display_data" and self.executions.show_displays:
            return True
        return self.observers.read_contents or (
            isinstance(pending, Execution) and pending.options.on_output is None
        )

    def _note(self, event: Event, channel: ChannelName) -> None:
        """Hand a message to observers, comms and displays."""
        message = event.message
        if channel == "iopub":
            self._readiness.subscribed.set(True)
        elif channel == "shell":
            self.executions.note_shell()
        if self.observers:
            self.observers.offer(message, channel, self._dispatcher.session.unread)
        msg_type = message.header.msg_type
        if msg_type in _COMM_MESSAGES:
            self.comms.receive(message)
        elif msg_type == "update_display_data":
            self.executions.update_displays(message)


@asynccontextmanager
async def open_client(
    info: ConnectionInfo,
    *,
    open_channels: OpenChannels = open_zmq_channels,
    output_limit: int = OUTPUT_LIMIT,
    timeouts: Timeouts = _DEFAULT_TIMEOUTS,
    observers: Observers | None = None,
    comm_targets: dict[str, OnCommOpen] | None = None,
) -> AsyncGenerator[KernelClient]:
    """Open a client for a kernel, which may begin to listen later; leaving the block closes it.

    Args:
        info: the kernel's addresses and keys.
        open_channels: opens the channels to the kernel; ZeroMQ by default.
        output_limit: the size of each execution's buffer for unread outputs, in bytes; see
            Execution.
        timeouts: only ``interrupt`` applies to a client.
        observers: receive the messages, and outlive this client; None means new ones.
        comm_targets: the comm targets that are registered already.
    """
    session = uuid.uuid4().hex
    # The kernel sends its welcome message to this client because no other client has this topic.
    topics = (b"", uuid.uuid4().hex.encode())
    client = KernelClient(
        info,
        session=session,
        output_limit=output_limit,
        timeouts=timeouts,
        observers=observers,
        comm_targets={} if comm_targets is None else comm_targets,
    )
    async with (
        open_channels(info, client.deliver, identity=session.encode(), topics=topics) as channels,
        background_tasks() as tasks,
    ):
        client.attach(channels, tasks)
        try:
            yield client
        finally:
            client.close()
