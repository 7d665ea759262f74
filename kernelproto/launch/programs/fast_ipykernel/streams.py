"""Flush standard output and standard error in the thread that prints.

In ipykernel each flush waits until the IOPub thread has taken the text from the buffers, even if
they are empty. Each display flushes both streams, and so does each request, several times. Here
the flushing thread puts the buffers themselves into the queue of the IOPub thread, and waits only
if there was text, so that a flush still means that the text was sent.

A lock is held while the buffers are queued and replaced, so that no other thread can put an output
between text and the flush of it. The buffers are replaced *after* they were queued, because a
signal handler may raise an exception in between. Then text is still added to the queued buffers,
and the IOPub thread empties them under the lock: no text is lost, and none is sent twice.
"""

from __future__ import annotations

import os
import sys
import threading
from _thread import get_ident
from collections import defaultdict
from functools import partial
from io import StringIO
from time import monotonic
from typing import Any
from weakref import WeakSet

from .hook import IOPUB_THREAD, OUT_STREAM, Hook, Need
from .network import wait_until_written
from .publishing import put, runs, wait_until_sent

# How much flushed text may be unwritten when a kernel crashes: that of so many seconds. The time is
# not zero, because waiting for the network at each flush would make a flood slower than before.
UNWRITTEN_SECONDS = 0.01

# How long to wait until it is written.
WRITTEN_SECONDS = 0.1


def no_text() -> dict[Any, StringIO]:
    """Return new buffers, which have no text."""
    return defaultdict(StringIO)


class Direct:
    """Sends messages of the IOPub thread at once, in this thread.

    Args:
        thread: the IOPubThread.
    """

    def __init__(self, thread: Any) -> None:
        self.send_multipart = thread._really_send


class FlushHere:
    """The part of an OutStream that sends the text in its buffers."""

    next_wait = 0.0

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        stock: Any = super()
        stock.__init__(*args, **kwargs)
        _streams.add(self)

    def flush(self: Any) -> None:
        """Send the text; return once it was sent."""
        thread = self.pub_thread
        if not self.flushes_here(thread):
            stock: Any = super()
            stock.flush()
        elif self.hand_over(thread) and get_ident() != thread.thread.ident:
            if not wait_until_sent(thread, self.flush_timeout):
                print("IOStream.flush timed out", file=sys.__stderr__)
            elif monotonic() >= self.next_wait:
                wait_until_written(WRITTEN_SECONDS)
                self.next_wait = monotonic() + UNWRITTEN_SECONDS

    def _flush(self: Any) -> None:
        thread = self.pub_thread
        if self.flushes_here(thread):
            self.hand_over(thread)
        else:
            stock: Any = super()
            stock._flush()

    def flushes_here(self: Any, thread: Any) -> bool:
        """Return whether text goes to the IOPub thread only, and the thread runs."""
        return (
            thread is not None
            and self.echo is None
            and os.getpid() == self._master_pid
            and runs(thread)
        )

    def hand_over(self: Any, thread: Any) -> bool:
        """Put the buffers into the queue of the IOPub thread; return whether there was text."""
        self._flush_pending = self._subprocess_flush_pending = False
        with self._buffer_lock:
            buffers = self._buffers
            if not buffers:
                return False
            put(thread, partial(self.send_buffers, thread, buffers))
            self._buffers = no_text()
        return True

    def send_buffers(self: Any, thread: Any, buffers: dict[Any, StringIO]) -> None:
        """Send the text in the buffers, and empty them; called in the IOPub thread."""
        with self._buffer_lock:
            texts = [(dict(parent), buffer.getvalue()) for parent, buffer in buffers.items()]
            buffers.clear()
        if self.session.pid != self._master_pid:
            self.session.pid = self._master_pid  # ipykernel does so at each flush
        for parent, text in texts:
            if text:
                content = {"name": self.name, "text": text}
                message = self.session.msg("stream", content, parent=parent)
                for hook in self._hooks:
                    message = hook(message)
                    if message is None:
                        return
                self.session.send(Direct(thread), message, ident=self.topic)


class OneTimer:
    """The part of an OutStream that flushes it from time to time.

    ipykernel starts a timer at the first text after each flush. Here a timer is started only if no
    other one is sure to end after this text. No flag is shared with the IOPub thread, because an
    exception between setting it and starting the timer would leave the stream without a timer.
    """

    due = 0.0

    def _schedule_flush(self: Any) -> None:
        now = monotonic()
        if now < self.due:
            return
        due = now + self.flush_interval
        put(self.pub_thread, self.start_timer)
        self.due = due

    def start_timer(self: Any) -> None:
        """Flush later; called in the IOPub thread, or, after it has ended, in any thread."""
        if runs(self.pub_thread):
            self._io_loop.call_later(self.flush_interval, self._flush)
        else:
            self._flush()


class OneKey:
    """The part of an OutStream that adds text to its buffers.

    There is a buffer for each parent header. ipykernel makes the key of the buffer in each call.
    """

    key: tuple[Any, Any] = (None, None)

    def write(self: Any, string: str) -> int | None:
        """Add text; return the number of its characters."""
        if (
            type(string) is not str
            or self.echo is not None
            or self.pub_thread is None
            or os.getpid() != self._master_pid
        ):
            stock: Any = super()
            written: int | None = stock.write(string)
            return written
        parent = self.parent_header
        known, key = self.key
        if parent is not known:
            key = frozenset(parent.items())
            self.key = parent, key
        with self._buffer_lock:
            self._buffers[key].write(string)
        self._schedule_flush()
        return len(string)


_streams: WeakSet[Any] = WeakSet()


def _renew_locks() -> None:
    # In a forked child, the threads that hold the locks do not run.
    for stream in list(_streams):
        stream._buffer_lock = threading.RLock()


def watch_forks(_: Any) -> None:
    """Give the streams of a forked child new locks."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_renew_locks)


FLUSH = Hook(
    name="flush",
    needs=[
        Need(f"{OUT_STREAM}.flush", "self", "pub_thread schedule _flush flush_timeout"),
        Need(
            f"{OUT_STREAM}._flush",
            "self",
            "_flush_pending _subprocess_flush_pending echo _flush_buffers session pid msg name "
            "_hooks send pub_thread topic",
        ),
        Need(f"{OUT_STREAM}._rotate_buffers", "self", "_buffer_lock _buffers"),
        Need(f"{OUT_STREAM}._flush_buffers", "self", "_rotate_buffers getvalue"),
        Need(f"{OUT_STREAM}.write", "self, string", "_buffer_lock _buffers frozenset items"),
        Need(f"{OUT_STREAM}._is_master_process", "self", "_master_pid"),
        Need(f"{IOPUB_THREAD}._really_send", "self, msg, *args, **kwargs", "socket closed"),
        Need(f"{IOPUB_THREAD}.schedule", "self, f", "thread is_alive _events"),
    ],
    mixins={OUT_STREAM: FlushHere},
    install=watch_forks,
)

TIMER = Hook(
    name="timer",
    needs=[
        Need(f"{OUT_STREAM}._schedule_flush", "self", "_flush_pending pub_thread schedule"),
        Need(f"{OUT_STREAM}._flush", "self", "_flush_pending"),
        Need(f"{OUT_STREAM}.write", "self, string", "_schedule_flush"),
    ],
    mixins={OUT_STREAM: OneTimer},
)

WRITE = Hook(
    name="write",
    needs=[
        Need(
            f"{OUT_STREAM}.write",
            "self, string",
            "parent_header echo pub_thread _buffer_lock _buffers frozenset items write "
            "_is_master_process _schedule_flush",
        ),
        Need(f"{OUT_STREAM}._is_master_process", "self", "_master_pid"),
    ],
    mixins={OUT_STREAM: OneKey},
)
