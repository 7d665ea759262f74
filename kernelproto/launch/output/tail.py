"""OutputTail: the last 64 KiB that a kernel's processes wrote to standard output and error.

Theory of operation
-------------------
A kernel that writes to a full pipe blocks, and the application's event loop may be busy for
seconds. So one thread reads all pipes, from the first pipe to the end of the last. text() first
reads the rest of the pipe, so the tail is complete without waiting for the thread.

One lock guards everything, is held for short times only, and never while blocking.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from io import FileIO
from typing import ClassVar

from kernelproto.launch.output.forward import Forwarder

_TAIL_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024

# The largest pipe that Linux gives to an unprivileged process. After reading this many bytes, all
# bytes that were in the pipe at first have been read, even from a fast writer.
_LARGEST_PIPE_BYTES = 1024 * 1024

_lock = threading.Lock()


class OutputTail:
    """A pipe for the output of processes, which keeps the last 64 KiB.

    The writers never wait for the event loop. Every method is thread-safe. In a child made by
    ``os.fork()`` the tail is closed, because the output belongs to the parent.

    Args:
        forwarder: gets the whole output.

    Attributes:
        write_end: the end of the pipe for the process; close this end once the process has it.

    Raises:
        OSError: there are no file descriptors left.
        RuntimeError: no thread can be started.
    """

    def __init__(self, forwarder: Forwarder | None = None) -> None:
        self._kept = bytearray()
        self._forwarder = forwarder
        read_fd, write_fd = os.pipe()
        self._read_end = FileIO(read_fd, "r")
        self.write_end = FileIO(write_fd, "w")
        os.set_blocking(read_fd, False)
        try:
            with _lock:
                self._reader = _Reader.add(self._read_end, self._pull)
        except BaseException:
            self._read_end.close()
            self.write_end.close()
            raise

    def text(self) -> str:
        """Return the tail of the output so far; bytes that are not UTF-8 become U+FFFD."""
        with _lock:
            self._pull()
            return self._kept.decode("utf-8", "replace")

    def close(self) -> None:
        """Read the rest of the output and close the pipe; more than once is fine."""
        with _lock:
            self._pull()
            self._close_read_end()
            self.write_end.close()
        self._reader.join_if_ended()

    def _pull(self) -> None:
        """Read the pipe; close the pipe after its last writer."""
        if self._read_end.closed:
            return
        for _ in range(_LARGEST_PIPE_BYTES // _READ_BYTES):
            chunk = self._read_end.read(_READ_BYTES)
            if chunk == b"":
                self._close_read_end()
            if not chunk:
                return
            self._kept += chunk
            if self._forwarder is not None:
                self._forwarder.put(chunk)
            del self._kept[:-_TAIL_BYTES]

    def _close_read_end(self) -> None:
        if not self._read_end.closed:
            self._reader.discard(self._read_end)
            self._read_end.close()
            if self._forwarder is not None:
                self._forwarder.end()


class _Reader(threading.Thread):
    """The thread that reads the pipes; a new thread starts when there are pipes again.

    Every method but run() and join_if_ended() is called with the lock held.
    """

    current: ClassVar[_Reader | None] = None

    def __init__(self) -> None:
        super().__init__(name="kernelproto-output", daemon=True)
        self._pipes: set[FileIO] = set()
        self._resources = ExitStack()
        try:
            self._selector = self._resources.enter_context(selectors.DefaultSelector())
            wakeup, self._waker = map(self._resources.enter_context, socket.socketpair())
            self._selector.register(wakeup, selectors.EVENT_READ)
            self.start()
        except BaseException:
            self._resources.close()
            raise

    @classmethod
    def add(cls, pipe: FileIO, pull: Callable[[], None]) -> _Reader:
        """Call *pull* whenever *pipe* is readable; return the thread that does."""
        reader = cls.current
        if reader is None:
            reader = cls.current = cls()
        try:
            # epoll and kqueue take a change while another thread waits in them.
            reader._selector.register(pipe, selectors.EVENT_READ, pull)
            reader._pipes.add(pipe)
        finally:
            reader._end_if_unused()
        return reader

    def discard(self, pipe: FileIO) -> None:
        """Stop reading *pipe*."""
        self._selector.unregister(pipe)
        self._pipes.remove(pipe)
        self._end_if_unused()

    def abandon(self) -> None:
        """Close all descriptors in a forked child, which has no copy of the thread."""
        # Parent and child share one epoll: the pipes must stay registered.
        for pipe in self._pipes:
            pipe.close()
        self._resources.close()
        _Reader.current = None

    def join_if_ended(self) -> None:
        """Wait for the end of the thread, if no pipes are left."""
        if _Reader.current is not self:
            self.join()

    def run(self) -> None:
        """Read the pipes until the last one is closed."""
        with self._resources:
            while True:
                for key, _ in self._selector.select():
                    with _lock:
                        # Since select() the pipe may be closed, or another thread be current.
                        if _Reader.current is not self:
                            return
                        key.data()

    def _end_if_unused(self) -> None:
        if not self._pipes:
            _Reader.current = None
            self._waker.close()


def _after_fork_in_child() -> None:
    if _Reader.current is not None:
        _Reader.current.abandon()
    _lock.release()


if hasattr(os, "register_at_fork"):
    # A child must find the lock free and the tails consistent.
    os.register_at_fork(
        before=_lock.acquire,
        after_in_parent=_lock.release,
        after_in_child=_after_fork_in_child,
    )
