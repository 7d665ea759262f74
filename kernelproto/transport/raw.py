"""The common part of both kinds of message sockets: everything except waiting."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
    must be read on behalf of the waiting tasks, and a task must read EVENTS before it waits.
    """

    def __init__(self, context: Context, kind: int) -> None:
        self.owner = Owner()
        self.raw: RawSocket = context.socket(kind)
        # One task at a time waits to send, so that messages leave in the order of the calls.
        self._sending = anyio.Lock(fast_acquire=True)

    async def receive(self) -> list[list[Frame]]:
        while True:
            if not await self._wait(READABLE):
                await checkpoint()
            batch = drain(self.raw)
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

    @abstractmethod
    async def _wait(self, event: int) -> bool:
        """Wait until EVENTS has *event*; return whether the call had to wait."""

    @abstractmethod
    def _tell_waiting(self) -> None:
        """Wake the tasks that wait for an event in EVENTS."""


def drain(raw: RawSocket) -> list[list[Frame]]:
    """Return the received messages, MOST_AT_ONCE at most; large frames are not copied."""
    batch: list[list[Frame]] = []
    # Asking the socket whether more frames follow takes longer than receiving; each Frame tells.
    receive = raw.recv
    try:
        while len(batch) < MOST_AT_ONCE:
            message: list[Frame] = []
            more = True
            while more:
                frame = receive(_NOBLOCK, copy=False)
                small = len(frame) < COPY_BELOW_BYTES
                message.append(frame.bytes if small else frame.buffer.toreadonly())
                more = frame.more
            batch.append(message)
    except zmq.Again:
        pass
    return batch


def try_send(raw: RawSocket, frames: Sequence[Frame]) -> bool:
    """Send a message at once; return False, and send nothing, when the buffer is full."""
    send = raw.send
    *others, last = frames
    try:
        for frame in others:
            send(frame, _NOBLOCK_AND_MORE)
        send(last, _NOBLOCK)
    except zmq.Again:
        return False
    return True
