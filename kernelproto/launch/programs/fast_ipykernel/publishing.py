"""Wake the IOPub thread once for many events.

The events of ipykernel's IOPub thread are functions in a queue, each of which sends a message. A
message on an inproc socket wakes the thread for each of them, and the thread handles these messages
one by one. Each wake-up also hands the interpreter's lock over, in the midst of a cell. Here, the
thread looks at the queue again and again, every two milliseconds, as long as there are events. In
this time only urgent events wake it: a thread waits for them, or the kernel is idle.

Waking the thread through its event loop takes a write to a pipe, a poll and a read. After an urgent
event, the thread therefore waits at a lock for the next one. It returns to its event loop every two
milliseconds, so that timers and subscriptions are handled.

The thread counts its rounds, and another thread wakes it at most once a round. The number of the
round is noted *after* the wake-up, because an exception may interrupt the code in between: a signal
handler may raise one at any point. Then the next event wakes the thread once more, which does no
harm. The other order would lose the wake-up.

A thread that runs far ahead of the IOPub thread waits, because both share the interpreter's lock,
and outputs shall not wait for the next change of threads.
"""

from __future__ import annotations

import os
from _thread import allocate_lock, get_ident
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import Any

from .hook import IOPUB_THREAD, KERNEL, Hook, Need

# How soon the IOPub thread looks at the queue again.
LOOK_SECONDS = 0.002

# A thread with so many events in the queue waits for the IOPub thread.
MOST_AHEAD = 16

# How long it waits. It waits again at its next event.
AHEAD_SECONDS = 1.0

# How long to wait for the events of a kernel that replies or ends.
SENT_SECONDS = 10.0


def put(thread: Any, event: Callable[[], object], *, urgent: bool = False) -> None:
    """Add an event to the queue of the IOPub thread, without waiting.

    Args:
        thread: an IOPubThread, with or without the hooks.
        event: the function to call.
        urgent: whether it is called at once, and not within LOOK_SECONDS.
    """
    if isinstance(thread, WakeOnce):
        thread.put(event, urgent=urgent)
    else:
        thread.schedule(event)


def runs(thread: Any) -> bool:
    """Return whether the IOPub thread runs, in this process."""
    if isinstance(thread, WakeOnce):
        return thread.is_running()
    alive: bool = thread.thread.is_alive()
    return alive


def wait_until_sent(thread: Any, seconds: float) -> bool:
    """Wait until all events in the queue of the IOPub thread are handled; return whether they are.

    Args:
        thread: an IOPubThread, with or without the hooks.
        seconds: how long to wait.
    """
    if getattr(thread, "is_idle", False) or get_ident() == thread.thread.ident:
        return True
    sent = allocate_lock()
    sent.acquire()
    put(thread, sent.release, urgent=True)
    return sent.acquire(timeout=seconds)


class WakeOnce:
    """The part of an IOPubThread that puts events in a queue and handles them."""

    round = 0
    woken_for = -1
    is_handling = False
    looks_again = False
    running = False

    # Whether a thread has waited for an event since the last round, and whether this one waits at
    # the lock.
    urgent = False
    at_lock = False

    def start(self: Any) -> None:
        """Start the thread."""
        self.lock = allocate_lock()
        self.lock.acquire()
        # Events do not run in the context of the thread that wakes this one: it has parent headers.
        self.context = Context()
        self.running = True
        stock: Any = super()
        stock.start()

    def is_running(self: Any) -> bool:
        """Return whether the thread runs, in this process.

        Thread.is_alive must not be called here. In Python 3.11, an exception of a signal handler
        in it makes the thread look dead for ever, and outputs would be sent by several threads.
        """
        return bool(self.running and os.getpid() == self._master_pid)

    def _thread_main(self: Any) -> None:
        stock: Any = super()
        try:
            stock._thread_main()
        finally:
            self.running = False
            while self._events:
                self._events.popleft()()

    def put(self: Any, event: Callable[[], object], *, urgent: bool = False) -> None:
        """Add an event to the queue; call it at once if the thread has ended."""
        if not self.is_running():
            event()
            return
        self._events.append(event)
        # In this order: the thread looks at the queue once more after it has changed this.
        if urgent:
            self.urgent = True
            self.wake()
        elif not self.looks_again:
            self.wake()

    def wake(self: Any) -> None:
        """Let the thread handle the events in the queue, unless it was woken already."""
        if self.at_lock:
            with suppress(RuntimeError):  # another thread has just released it
                self.lock.release()
            return
        current = self.round
        if self.woken_for != current:
            with suppress(RuntimeError):  # its event loop has just been closed
                self.io_loop.asyncio_loop.call_soon_threadsafe(
                    self._handle_event, None, context=self.context
                )
            self.woken_for = current

    def schedule(self: Any, f: Callable[[], object]) -> None:
        """Add an event to the queue, and wait if the thread is far behind."""
        self.put(f)
        if len(self._events) >= MOST_AHEAD and self.is_running():
            wait_until_sent(self, AHEAD_SECONDS)

    @property
    def is_idle(self: Any) -> bool:
        """Whether all events are handled."""
        return not self._events and not self.is_handling

    def _handle_event(self: Any, msg: object) -> None:
        self.round += 1
        try:
            self.handle_events()
            if self.urgent:
                self.urgent = False
                self.wait_at_lock()
        finally:
            if not self.looks_again:
                self.looks_again = True
                self.look_later()

    def handle_events(self: Any) -> None:
        """Handle the events in the queue, but none that is added meanwhile."""
        self.is_handling = True
        events = self._events
        try:
            for _ in range(len(events)):
                events.popleft()()
        finally:
            self.is_handling = False

    def wait_at_lock(self: Any) -> None:
        """Handle urgent events for LOOK_SECONDS; called in the IOPub thread."""
        until = monotonic() + LOOK_SECONDS
        self.at_lock = True
        try:
            while (seconds := until - monotonic()) > 0 and self.lock.acquire(timeout=seconds):
                self.handle_events()
        finally:
            self.at_lock = False
        # A thread that still saw at_lock has added its event before.
        self.handle_events()

    def look_later(self: Any) -> None:
        """Look at the queue later; called in the IOPub thread."""
        self.io_loop.asyncio_loop.call_later(LOOK_SECONDS, self.look, context=self.context)

    def look(self: Any) -> None:
        """Handle the events in the queue, and look again; without events, wait to be woken."""
        if not self._events:
            self.looks_again = False
            if not self._events:
                return
            self.looks_again = True
        self.look_later()
        self._handle_event(None)

    def stop(self: Any) -> None:
        """Send all events, and stop the thread."""
        if self.is_running() and not self._stopped:
            wait_until_sent(self, SENT_SECONDS)
        stock: Any = super()
        stock.stop()


class WakeWhenIdle:
    """The part of a kernel that publishes its status."""

    def _publish_status(self: Any, status: str, channel: str, parent: Any = None) -> None:
        stock: Any = super()
        stock._publish_status(status, channel, parent)
        if status == "idle" and isinstance(self.iopub_thread, WakeOnce):
            self.iopub_thread.wake()


HOOK = Hook(
    name="wake",
    needs=[
        Need(f"{IOPUB_THREAD}.schedule", "self, f", "thread is_alive _events append _event_pipe"),
        Need(f"{IOPUB_THREAD}.start", "self", "thread start"),
        Need("tornado.platform.asyncio:BaseAsyncIOLoop.initialize", None, "asyncio_loop"),
        Need(f"{IOPUB_THREAD}._thread_main", "self", "io_loop start"),
        Need(f"{IOPUB_THREAD}._is_master_process", "self", "_master_pid"),
        Need(f"{IOPUB_THREAD}.__init__", None, "io_loop _events"),
        Need(f"{IOPUB_THREAD}._handle_event", "self, msg", "_events popleft"),
        Need(f"{IOPUB_THREAD}._event_pipe", "self", "event_pipe"),
        Need(f"{KERNEL}._publish_status", "self, status, channel, parent", "send"),
        Need(f"{IOPUB_THREAD}.stop", "self", "_stopped"),
        Need(f"{IOPUB_THREAD}.send_multipart", "self, *args, **kwargs", "schedule"),
    ],
    mixins={IOPUB_THREAD: WakeOnce, KERNEL: WakeWhenIdle},
)
