"""Observers: every message of some channels, beside the calls that wait for single messages.

There are three ways to observe:

- ``messages`` opens a MessageStream: a task iterates at its own pace.
- ``add_handler`` calls a function in a task of its own, which iterates over such a stream.
- ``watch`` calls a Watcher at once, while the message is being received. The library uses ``watch``
  for pure code that only takes note.

The policy. Each stream has its own buffer, bounded in bytes, so a slow observer delays neither the
client nor an execution nor another observer. The stream's *overflow* decides about a full buffer:
"raise" keeps the messages in the buffer, discards later ones, and raises OutputOverflow once the
reader gets to the gap; "drop_oldest" drops and counts the oldest messages.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Literal, Protocol, cast

from anyio.lowlevel import checkpoint

from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.task_groups import StartTask
from kernelproto.exceptions import KernelProtoError, OutputOverflow, fresh
from kernelproto.interfaces import KernelManager
from kernelproto.kept_messages import KeepsMessages
from kernelproto.log_counts import LogCounts
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

OverflowPolicy = Literal["raise", "drop_oldest"]
ObservedMessage = tuple[Message, ChannelName]

Handler = Callable[[Message, ChannelName], Awaitable[None] | None]

logger = logging.getLogger(__name__)

STREAM_LIMIT = 64 * 2**20

IOPUB: Sequence[ChannelName] = ("iopub",)

# The memory for a message in addition to the message's bytes.
_OBJECT_BYTES = 1000
_READS_BETWEEN_CHECKPOINTS = 256


class MessageStream(AsyncIterator[ObservedMessage]):
    """Iterates over messages as ``(message, channel)``; ``KernelClient.messages`` makes one.

    Iterating raises, after the messages received before:
        OutputOverflow: the buffer was full, and the policy is "raise".
        KernelDied: the kernel's process has ended.
        ClientClosed: the client was closed.

    Attributes:
        dropped: the number of messages that were dropped for newer ones.
    """

    def __init__(
        self,
        channels: Collection[ChannelName],
        msg_types: Collection[str] | None,
        *,
        limit: int,
        overflow: OverflowPolicy,
    ) -> None:
        self.dropped = 0
        self._channels = frozenset(channels)
        self._msg_types = None if msg_types is None else frozenset(msg_types)
        self._limit = limit
        self._overflow = overflow
        self._buffer: deque[tuple[ObservedMessage, int]] = deque()
        self._bytes = 0
        self._lost = 0
        self._lost_bytes = 0
        self._failure: Exception | None = None
        self._news = Bell()
        self._reads = 0

    def offer(self, message: Message, channel: ChannelName) -> None:
        """Receive a message from the client; ignore other channels and types."""
        if channel not in self._channels:
            return
        if self._msg_types is not None and message.msg_type not in self._msg_types:
            return
        size = message.size + _OBJECT_BYTES
        if self._overflow == "drop_oldest":
            while self._buffer and self._bytes + size > self._limit:
                self._bytes -= self._buffer.popleft()[1]
                self.dropped += 1
        elif self._lost or self._bytes + size > self._limit:
            self._lost += 1
            self._lost_bytes += size
            return
        self._buffer.append(((message, channel), size))
        self._bytes += size
        self._news.ring()

    def fail(self, error: Exception) -> None:
        """End the stream with *error*, after the buffered messages; called by the client."""
        self._failure = self._failure or error
        self._news.ring()

    async def __anext__(self) -> ObservedMessage:
        while not self._buffer:
            if self._lost:
                raise self._gap()
            if self._failure is not None:
                raise fresh(self._failure)
            await self._news.wait()
        observed, size = self._buffer.popleft()
        self._bytes -= size
        self._reads += 1
        if self._reads % _READS_BETWEEN_CHECKPOINTS == 0:
            await checkpoint()
        return observed

    def _gap(self) -> OutputOverflow:
        return OutputOverflow(
            f"{self._lost} messages of {self._lost_bytes} bytes were discarded, because more than "
            f"{self._limit} bytes were waiting to be read: read them faster, raise the limit, or "
            'ask for overflow="drop_oldest"',
            discarded_messages=self._lost,
            discarded_bytes=self._lost_bytes,
        )


class DebugEvents(AsyncIterator[dict[str, Any]]):
    """The contents of the debug_event messages of a stream."""

    def __init__(self, messages: MessageStream) -> None:
        self._messages = messages

    async def __anext__(self) -> dict[str, Any]:
        message, _ = await anext(self._messages)
        return cast("dict[str, Any]", message.content)


class Watcher(Protocol):
    """Receives every message in plain calls, which must neither block nor raise."""

    def offer(self, message: Message, channel: ChannelName) -> None:
        """Note a message; the waiting call has already received the message."""
        ...

    def fail(self, error: Exception) -> None:
        """Take note that the kernel has ended."""
        ...

    def resume(self) -> None:
        """Take note that a new kernel runs."""
        ...


class Observers:
    """The open streams, handlers and watchers of one client, or of a kernel's successive clients.

    Args:
        start_task: runs the handlers.

    Attributes:
        read_contents: whether any watcher reads the contents of messages.
        source: the manager that keeps the messages until they are acknowledged; None if none does.
        number: the number that *source* gives to the offered message; lower if messages of the
            kernel were lost or refused just before; 0 without a *source*.
        holds: whether a watcher confirms the messages; see ``KeepsMessages.hold``.
    """

    def __init__(self, start_task: StartTask) -> None:
        self.read_contents = False
        self.source: KeepsMessages | None = None
        self.number = 0
        self.holds = False
        self._start_task = start_task
        self._streams: list[MessageStream] = []
        self._handlers: dict[Handler, MessageStream] = {}
        self._watchers: list[Watcher] = []
        self._failure: Exception | None = None

    def __bool__(self) -> bool:
        """Whether there are any observers."""
        return bool(self._streams or self._watchers)

    @asynccontextmanager
    async def stream(
        self,
        channels: Collection[ChannelName],
        msg_types: Collection[str] | None,
        *,
        limit: int,
        overflow: OverflowPolicy,
    ) -> AsyncGenerator[MessageStream]:
        """Open a stream for the block."""
        stream = MessageStream(channels, msg_types, limit=limit, overflow=overflow)
        if self._failure is not None:
            stream.fail(self._failure)
        self._streams.append(stream)
        try:
            yield stream
        finally:
            self._streams.remove(stream)

    def watch(self, watcher: Watcher, *, reads_contents: bool = False) -> None:
        """Call *watcher* for every message; if the kernel has ended, call its ``fail`` at once.

        Args:
            watcher: the watcher.
            reads_contents: whether *watcher* reads contents; the client then decodes large ones
                before.
        """
        self.read_contents |= reads_contents
        self._watchers.append(watcher)
        if self._failure is not None:
            watcher.fail(self._failure)

    def unwatch(self, watcher: Watcher) -> None:
        """Stop calling *watcher*."""
        self._watchers.remove(watcher)

    def add_handler(self, handler: Handler, channels: Collection[ChannelName]) -> None:
        """Call *handler* for every message; see ``KernelClient.add_handler``."""
        self.remove_handler(handler)
        stream = MessageStream(channels, None, limit=STREAM_LIMIT, overflow="drop_oldest")
        self._streams.append(stream)
        self._handlers[handler] = stream
        self._start_task(self._serve, handler, stream)

    def remove_handler(self, handler: Handler) -> None:
        """Stop calling *handler*; an unknown handler is ignored."""
        stream = self._handlers.pop(handler, None)
        if stream is not None:
            self._streams.remove(stream)
            stream.fail(_HandlerRemoved())

    def begin(self, manager: KernelManager) -> None:
        """Note the manager of the process whose messages follow."""
        self.source = manager if isinstance(manager, KeepsMessages) else None
        self.number = 0
        if self.holds and self.source is not None:
            self.source.hold()

    def hold(self) -> None:
        """Acknowledge only messages that a watcher confirms, even after a restart."""
        self.holds = True
        if self.source is not None:
            self.source.hold()

    def offer(self, message: Message, channel: ChannelName, unread: int = 0) -> None:
        """Pass a message to all observers; called by the client.

        Args:
            message: the message.
            channel: the channel.
            unread: the number of received messages that follow and are not read yet.
        """
        if self.source is not None:
            self.number = self.source.last_number - unread
        for stream in self._streams:
            stream.offer(message, channel)
        for watcher in self._watchers:
            watcher.offer(message, channel)

    def fail(self, error: Exception) -> None:
        """End every iteration, now or later, with *error*; handlers are just not called."""
        self._failure = error
        served = set(map(id, self._handlers.values()))
        for stream in self._streams:
            if id(stream) not in served:
                stream.fail(error)
        for watcher in self._watchers:
            watcher.fail(error)

    def resume(self) -> None:
        """Allow new iterations, because a new kernel runs."""
        self._failure = None
        for watcher in self._watchers:
            watcher.resume()

    async def _serve(self, handler: Handler, stream: MessageStream) -> None:
        dropped = 0
        counts = LogCounts()
        with suppress(KernelProtoError):
            async for message, channel in stream:
                if self._handlers.get(handler) is not stream:
                    return
                if stream.dropped > dropped:
                    dropped = stream.dropped
                    text = "%r is too slow: it has missed %d messages"
                    counts.log(logger, logging.WARNING, "slow", text, handler, dropped)
                try:
                    outcome = handler(message, channel)
                    if inspect.isawaitable(outcome):
                        await outcome
                except Exception:
                    text, kind = "%r failed on a %s", message.msg_type
                    counts.log(logger, logging.ERROR, "failed", text, handler, kind, exc_info=True)


class Observable:
    """The ways to observe a kernel's messages; the client and the kernel handle both offer them.

    Attributes:
        observers: the streams, handlers and watchers.
    """

    observers: Observers

    def messages(
        self,
        channels: Collection[ChannelName] = IOPUB,
        *,
        msg_types: Collection[str] | None = None,
        limit: int = STREAM_LIMIT,
        overflow: OverflowPolicy = "raise",
    ) -> AbstractAsyncContextManager[MessageStream]:
        """Receive every message from the kernel during the block, for all clients on iopub.

        Iterate over the value of the block: ``async for message, channel in messages``.

        Args:
            channels: the channels; on "iopub" the kernel publishes to all clients.
            msg_types: the message types; None means all.
            limit: the size of the buffer for unread messages, in bytes.
            overflow: "raise" OutputOverflow after the buffered messages, or "drop_oldest", which
                counts the dropped messages.
        """
        return self.observers.stream(channels, msg_types, limit=limit, overflow=overflow)

    def add_handler(self, handler: Handler, channels: Collection[ChannelName] = IOPUB) -> None:
        """Call a function for every message from the kernel, in order, one at a time.

        Each handler has its own task and its own buffer of 64 MiB. When the buffer is full, the
        oldest messages are dropped, and a warning is logged. An exception from the handler is
        logged, too. Both are logged the 1st, 2nd, 4th, 8th ... time.

        Args:
            handler: called with the message and the channel; may be async.
            channels: the channels.
        """
        self.observers.add_handler(handler, channels)

    def remove_handler(self, handler: Handler) -> None:
        """Stop calling a handler; an unknown handler is ignored."""
        self.observers.remove_handler(handler)

    @asynccontextmanager
    async def debug_events(self) -> AsyncGenerator[AsyncIterator[dict[str, Any]]]:
        """Iterate over the events of the debugger during the block. Specification: "Debug event".

        An event has the fields ``event`` and ``body`` of the Debug Adapter Protocol. The iterator
        ends as the iterator of ``messages`` does.
        """
        async with self.messages(msg_types=("debug_event",)) as messages:
            yield DebugEvents(messages)

    def watch(self, watcher: Watcher) -> None:
        """Call the methods of *watcher* at once for each message, from now on.

        There is no buffer in between. Use ``watch`` where a message must be known before the next
        line of code runs, and ``messages`` everywhere else. If the kernel has died, ``fail`` is
        called now.
        """
        self.observers.watch(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """Call the methods of *watcher* no more.

        Raises:
            ValueError: the watcher does not watch.
        """
        self.observers.unwatch(watcher)


class _HandlerRemoved(KernelProtoError):
    """Ends the stream of a handler that was removed."""
