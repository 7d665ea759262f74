"""Opening zmq sockets: one shared context, and the socket class for the running event loop."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Protocol

import zmq

from kernelproto.shortage import require_descriptors
from kernelproto.transport.fd_socket import FDSocket
from kernelproto.transport.raw import Context, RawSocket, Take
from kernelproto.wire.message import Frame

# libzmq aborts the program if fewer descriptors are left at its start.
_CONTEXT_DESCRIPTORS = 16

# libzmq's default of 1023 sockets is some two hundred clients.
_MAX_SOCKETS = 65_536


class MessageSocket(Protocol):
    """A zmq socket for whole messages; one task receives, any task sends.

    Attributes:
        raw: the underlying zmq socket, only for options and connections.
    """

    raw: RawSocket

    async def receive(self) -> list[list[Frame]]:
        """Wait for messages; return at least one, and a few hundred at most.

        Cancellation may lose a message: cancel only when the socket is about to be closed.
        """
        ...

    async def listen(self, take: Take) -> None:
        """Call *take* with every message that arrives, until cancelled; no other task may receive.

        Args:
            take: a plain function that does not block; exceptions are raised here.
        """
        ...

    def try_send(self, frames: Sequence[Frame]) -> bool:
        """Send a message at once; return False, and send nothing, when the buffer is full."""
        ...

    async def send(self, frames: Sequence[Frame]) -> None:
        """Send a message, waiting while the buffer is full."""
        ...

    def close(self, linger_ms: int) -> None:
        """Close the socket, which no task may be using.

        Args:
            linger_ms: how long libzmq goes on delivering sent messages, in milliseconds.
        """
        ...


def open_socket(context: Context, kind: int, head: int = 0) -> MessageSocket:
    """Open a socket for the running event loop.

    Args:
        context: the zmq context.
        kind: the zmq type of the socket.
        head: the number of frames, all small, before the last frame of every received message. A
            loop in C receives them in half the time, but cannot notice the end of a message: a
            message that has fewer frames arrives joined to the next one.
    """
    # An asyncio loop can only run if asyncio is loaded. A program on Trio does not need asyncio,
    # and importing it would add a fifth to the import time of the package.
    if "asyncio" in sys.modules:
        from kernelproto.transport import asyncio_socket

        if asyncio_socket.usable():
            return asyncio_socket.AsyncioSocket(context, kind, head)
    return FDSocket(context, kind, head)


_lock = threading.Lock()
_context: Context | None = None
_users = 0


@contextmanager
def shared_context() -> Generator[Context]:
    """Yield the process's zmq context, which exists, with two threads, only while in use.

    Raises:
        OSError: too few file descriptors are left for the context and a kernel's sockets.
    """
    global _context, _users
    with _lock:
        if _context is None:
            require_descriptors(_CONTEXT_DESCRIPTORS)
            _context = zmq.Context()
            _context.set(zmq.MAX_SOCKETS, _MAX_SOCKETS)
        _users += 1
        context = _context
    try:
        yield context
    finally:
        with _lock:
            last = False
            if context is _context:  # not the parent's, in a forked child
                _users -= 1
                last = not _users
            if last:
                _context = None
        if last:
            context.term()


def _after_fork_in_child() -> None:
    """Leave the context to the parent; another thread may have held the lock."""
    global _lock, _context, _users
    _lock, _context, _users = threading.Lock(), None, 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
