"""The common part of both kinds of message sockets: everything except waiting."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

import anyio
import zmq
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.process_owner import Owner
from kernelproto.wire.message import Frame

RawSocket: TypeAlias = zmq.Socket[bytes]
Context: TypeAlias = zmq.Context[RawSocket]

Take: TypeAlias = Callable[[list[Frame]], None]

# Draining in one go makes receiving fast; the limit lets other tasks run.
MOST_AT_ONCE = 256

# Frames of this size and more are not copied out of libzmq's memory.
COPY_BELOW_BYTES = 65_536

# Plain numbers: the operators of pyzmq's flags take longer than the calls that use the flags.
READABLE = int(zmq.POLLIN)
WRITABLE = int(zmq.POLLOUT)
_NOBLOCK = int(zmq.NOBLOCK)
_NOBLOCK_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)


class BaseSocket(ABC):
    """Implements MessageSocket, except waiting.

    The descriptor of a zmq socket is edge-triggered: it becomes readable when the socket's state
    changes, and any operation on the socket may clear that edge. So after each operation EVENTS
    must be read on behalf of the waiting tasks, and a task must read EVENTS before it waits. Only
    an empty receive tells as much as EVENTS: that nothing can be received before the next edge.

    Args:
        context: the zmq context.
        kind: the zmq type of the socket.
        head: as for ``open_socket``.
    """

    def __init__(self, context: Context, kind: int, head: int = 0) -> None:
        self.owner = Owner()
        self.raw: RawSocket = context.socket(kind)
        self._head = head
        # One task at a time waits to send, so that messages leave in the order of the calls.
        self._sending = anyio.Lock(fast_acquire=True)

    async def receive(self) -> list[list[Frame]]:
        while True:
            if not await self._wait(READABLE):
                await checkpoint()
            batch = self._drain()
            self._tell_waiting()
            if batch:
                return batch

    async def listen(self, take: Take) -> None:
        while True:
            for frames in await self.receive():
                take(frames)

    def try_send(self, frames: Sequence[Frame]) -> bool:
        sent = try_send(self.raw, frames)
        self._tell_waiting()
        return sent

    async def send(self, frames: Sequence[Frame]) -> None:
        async with self._sending:
            while not self.try_send(frames):
                await self._wait(WRITABLE)

    def close(self, linger_ms: int) -> None:
        self.raw.close(linger_ms)

    def _drain(self) -> list[list[Frame]]:
        """Return the received messages, MOST_AT_ONCE at most; fewer mean that there are no more.

        This does not wake the tasks that wait to send.
        """
        if not self.owner.is_here:
            return []  # libzmq does nothing in a fork, and pyzmq would retry without end
        batch = drain(self.raw, most=1, head=self._head)
        # Most wake-ups bring one message, and reading EVENTS is faster than an empty receive.
        if batch and self._events() & READABLE:
            batch += drain(self.raw, most=MOST_AT_ONCE - 1, head=self._head)
        return batch

    @abstractmethod
    def _events(self) -> int:
        """Read EVENTS, which clears the edge, and wake the tasks that wait for one of them."""

    @abstractmethod
    async def _wait(self, event: int) -> bool:
        """Wait until EVENTS has *event*; return whether the call had to wait."""

    @abstractmethod
    def _tell_waiting(self) -> None:
        """Wake the tasks that wait for an event in EVENTS."""


def drain(raw: RawSocket, *, most: int = MOST_AT_ONCE, head: int = 0) -> list[list[Frame]]:
    """Return the received messages; large frames are not copied.

    Args:
        raw: the socket.
        most: the maximum number of messages, at least 1.
        head: as for ``open_socket``.
    """
    batch: list[list[Frame]] = []
    receive = raw.recv
    head_flags = (_NOBLOCK,) * head
    try:
        while len(batch) < most:
            message: list[Frame] = []
            batch.append(message)
            message.extend(map(receive, head_flags))
            # Asking the socket whether more frames follow takes longer than receiving; each Frame
            # tells.
            more = True
            while more:
                frame = receive(_NOBLOCK, copy=False)
                small = len(frame) < COPY_BELOW_BYTES
                message.append(frame.bytes if small else frame.buffer.toreadonly())
                more = frame.more
    except zmq.Again:
        if not batch[-1]:
            del batch[-1]
    return batch


def try_send(raw: RawSocket, frames: Sequence[Frame]) -> bool:
    """Send a message at once; return False, and send nothing, when the buffer is full."""
    send = super(zmq.Socket, raw).send  # in C; the method in Python handles other socket types
    flags = [_NOBLOCK_AND_MORE] * (len(frames) - 1) + [_NOBLOCK]
    try:
        deque(map(send, frames, flags), maxlen=0)
    except zmq.Again:
        return False
    return True
