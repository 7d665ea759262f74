"""FakeKernel: a scripted Jupyter kernel in this process."""

from __future__ import annotations

import math
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal, NamedTuple, TypeVar

import anyio
from anyio import AsyncContextManagerMixin, create_memory_object_stream
from anyio.abc import TaskGroup, TaskStatus

from kernelproto.client import KernelClient, open_client
from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.reachability import Reachability
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import ClientClosed, KernelDied, RemoteProtocolError
from kernelproto.interfaces import Channels, Deliver
from kernelproto.launch.failures import describe_exit
from kernelproto.testing.behaviour import Behaviour, Handler, playing, replying
from kernelproto.testing.exchange import AnyContent, Exchange, Outbox, type_of
from kernelproto.transport.memory import MemoryTransport
from kernelproto.wire import content as contents
from kernelproto.wire.codec import Codec
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import PROTOCOL_VERSION, Frame, Message

ContentT = TypeVar("ContentT", bound=contents.Content)

_KILLED = -9

_KERNEL_INFO = contents.KernelInfoReply(
    protocol_version=PROTOCOL_VERSION,
    implementation="fake",
    implementation_version="1",
    language_info=contents.LanguageInfo(name="fake", version="1", file_extension=".txt"),
    banner="a fake kernel",
)


class Received(NamedTuple):
    """A message that a FakeKernel has received, and the channel."""

    channel: ChannelName
    message: Message


class FakeKernel(AsyncContextManagerMixin):
    """A kernel without a process, for the block: ``async with FakeKernel() as fake``.

    By default a FakeKernel behaves like a correct kernel: it welcomes clients, echoes heartbeats,
    answers shell requests one after the other and control requests beside them, keeps a history,
    aborts queued executions after an error, and exits on shutdown_request. Code without a script
    has no outputs. A request of an unknown type gets no reply.

    An exception of a handler, other than CodeError, is raised by the block.

    Args:
        kernel_info: the reply to kernel_info_request.
        transport: the transport in the ConnectionInfo; no socket exists there.
        cwd: kept as the attribute ``cwd``, for assertions.
        env: kept as the attribute ``env``, for assertions.

    Attributes:
        kernel_id: a UUID.
        connection_info: the ConnectionInfo, with the key that signs messages.
        faults: the faults of sent messages.
        deaf: the channels on which the kernel ignores messages.
        received: the messages received so far, in order, including ignored ones; no heartbeats.
        refused: the number of invalid messages, by the name of the exception.
        reachability: whether clients can reach the kernel; see ``cut``.
        returncode: the exit status after the death, negative for a signal; None before.
    """

    def __init__(
        self,
        *,
        kernel_info: contents.KernelInfoReply = _KERNEL_INFO,
        transport: Literal["tcp", "ipc"] = "ipc",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.kernel_id = str(uuid.uuid4())
        self.connection_info = _fake_address(self.kernel_id, transport)
        self.cwd = cwd
        self.env = dict(env or {})
        self.deaf: set[ChannelName] = set()
        self.received: list[Received] = []
        self.refused: Counter[str] = Counter()
        self.returncode: int | None = None
        self.reachability = Reachability()
        self._codec = Codec(signer=self.connection_info.signer())
        self._outbox = Outbox(self._codec)
        self.faults = self._outbox.faults
        self._behaviour = Behaviour(
            kernel_info,
            received=lambda: [message for _, message in self.received],
            die=lambda: self.die(0),
        )
        self._clients: list[KernelClient] = []
        self._queues: dict[ChannelName, Callable[[Exchange], None]] = {}
        self._tasks: TaskGroup | None = None
        self._life = anyio.CancelScope()
        self._end = anyio.Event()
        self._news = Bell()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[FakeKernel]:
        async with background_tasks() as tasks:
            await tasks.start(self._live)
            try:
                yield self
            finally:
                self.die(0)

    @property
    def history(self) -> Sequence[str]:
        """The code executed with ``store_history``."""
        return self._behaviour.history

    def on_execute(
        self,
        code: str | Callable[[str], bool],
        handler: Handler | None = None,
        *,
        stdout: str = "",
        stderr: str = "",
        display: str | Mapping[str, Any] | None = None,
        result: str | Mapping[str, Any] | None = None,
        error: tuple[str, str] | None = None,
    ) -> None:
        """Script the execution of some code; the latest matching script is used.

        Args:
            code: the exact code, or a predicate on the code.
            handler: an async function that takes an Exchange, instead of the other arguments.
            stdout: text for standard output.
            stderr: text for standard error.
            display: data to display, a MIME bundle or plain text.
            result: the value of the last expression, a MIME bundle or plain text.
            error: name and text of the exception that the code raises.
        """
        fits = code if callable(code) else code.__eq__
        script = handler or playing(stdout, stderr, display, result, error)
        self._behaviour.scripts.insert(0, (fits, script))

    def on(self, msg_type: str, answer: Handler | AnyContent) -> None:
        """Replace the handler of a request type.

        Args:
            msg_type: the request type, for example ``"complete_request"``.
            answer: the content of the reply, or an async function that takes an Exchange.
        """
        self._behaviour.handlers[msg_type] = answer if callable(answer) else replying(answer)

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[KernelClient]:
        """Open a client for the block; calls raise KernelDied when the kernel dies."""
        async with open_client(self.connection_info, open_channels=self.open_channels) as client:
            self._clients.append(client)
            try:
                yield client
            finally:
                self._clients.remove(client)

    @asynccontextmanager
    async def open_channels(
        self,
        info: ConnectionInfo,
        deliver: Deliver,
        *,
        identity: bytes,
        topics: Sequence[bytes] = (b"",),
    ) -> AsyncGenerator[Channels]:
        """Open the channels to this kernel; arguments as in ``interfaces.OpenChannels``."""
        link = MemoryTransport()
        async with link.open_channels(info, deliver, identity=identity, topics=topics) as channels:
            self._outbox.links.append(link)
            if self.reachability.problem is not None:
                link.cut()
            if self._tasks is not None and self.returncode is None:
                self._tasks.start_soon(self._listen, link)
            try:
                yield channels
            finally:
                self._outbox.links.remove(link)

    def publish(
        self, content: AnyContent, msg_type: str | None = None, *, parent: Message | None = None
    ) -> None:
        """Send a message to all clients on iopub, independent of any handler.

        Args:
            content: a Struct of ``kernelproto.wire.content``, or a mapping.
            msg_type: the message type; only needed with a mapping.
            parent: the request that the message belongs to; None for none.
        """
        self._outbox.send("iopub", msg_type or type_of(content), content, parent=parent)

    def send_frames(self, channel: ChannelName, frames: Sequence[Frame]) -> None:
        """Send raw frames to all clients."""
        for link in self._outbox.links:
            link.send(channel, frames)

    def contents(self, kind: type[ContentT]) -> list[ContentT]:
        """Return the received contents of one kind, such as ExecuteRequest."""
        msg_type = contents.message_type(kind)
        return [message.content for _, message in self.received if message.msg_type == msg_type]

    async def wait_for(self, msg_type: str, *, count: int = 1) -> Message:
        """Wait until the kernel has received *count* messages of a type in total.

        Returns:
            The message with that number.
        """
        while True:
            found = [message for _, message in self.received if message.msg_type == msg_type]
            if len(found) >= count:
                return found[count - 1]
            await self._news.wait()

    def interrupt(self) -> None:
        """End the running code, if any, with a KeyboardInterrupt."""
        self._behaviour.interrupt()

    def cut(self, problem: str = "the connection was cut") -> None:
        """Cut the connection to all clients until ``restore``; the kernel goes on.

        Messages in both directions are held. The manager of a FakeProvider then says that the
        kernel cannot be reached.

        Args:
            problem: the reason in words.
        """
        for link in self._outbox.links:
            link.cut()
        self.reachability.lose(problem)

    def restore(self) -> None:
        """End a cut: deliver the messages that were held, in order."""
        self.reachability.regain()
        for link in self._outbox.links:
            link.restore()

    def die(self, returncode: int = _KILLED) -> None:
        """Die immediately; calls of clients from ``connect`` raise KernelDied.

        Args:
            returncode: the exit status, negative for a signal.
        """
        if self.returncode is not None:
            return
        self.returncode = returncode
        self._outbox.closed = True
        self._life.cancel()
        self._end.set()
        error = KernelDied(f"the kernel died: {describe_exit(returncode)}", returncode=returncode)
        for client in self._clients:
            client.fail(error)

    async def wait(self) -> int:
        """Wait until the kernel has died; return the exit status."""
        await self._end.wait()
        assert self.returncode is not None
        return self.returncode

    async def _live(self, *, task_status: TaskStatus[None]) -> None:
        with self._life:
            async with background_tasks() as self._tasks:
                await self._tasks.start(self._serve, "shell")
                await self._tasks.start(self._serve, "control")
                task_status.started()
                await anyio.sleep_forever()

    async def _serve(self, channel: ChannelName, *, task_status: TaskStatus[None]) -> None:
        """Answer the requests of a channel, one after the other."""
        queue, waiting = create_memory_object_stream[Exchange](math.inf)
        with queue, waiting:
            self._queues[channel] = queue.send_nowait
            task_status.started()
            async for exchange in waiting:
                await self._behaviour.answer(exchange)

    async def _listen(self, client: MemoryTransport) -> None:
        """Welcome a client and receive messages until the client leaves."""
        for topic in client.topics:
            welcome = contents.IOPubWelcome(topic.decode(errors="replace"))
            self._outbox.send("iopub", "iopub_welcome", welcome, to=client, topic=topic)
        with suppress(ClientClosed):
            while True:
                channel, frames = await client.receive()
                await self.reachability.until_regained()
                self._take(client, channel, frames)

    def _take(self, client: MemoryTransport, channel: ChannelName, frames: Sequence[Frame]) -> None:
        if self.returncode is not None:
            return  # this task is about to be cancelled
        if channel == "hb":
            if channel not in self.deaf:
                client.send(channel, frames)
            return
        try:
            message = self._codec.decode(frames)
        except RemoteProtocolError as error:
            self.refused[type(error).__name__] += 1
            return
        self.received.append(Received(channel, message))
        self._news.ring()
        if channel in self.deaf:
            return
        if channel == "stdin":
            self._behaviour.answer_input(message)
        elif channel in self._queues:
            self._queues[channel](Exchange(self._outbox, client, channel, message))


def _fake_address(kernel_id: str, transport: Literal["tcp", "ipc"]) -> ConnectionInfo:
    return ConnectionInfo(
        transport=transport,
        ip=f"fake-{kernel_id}",
        shell_port=1,
        iopub_port=2,
        stdin_port=3,
        control_port=4,
        hb_port=5,
        key=uuid.uuid4().hex,
        kernel_name="fake/kernel",
    )
