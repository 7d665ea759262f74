"""Wake the IOPub thread once for many events.

The events of ipykernel's IOPub thread are functions in a queue, each of which sends a message. A
message on an inproc socket wakes the thread for each of them, and the thread handles these messages
one by one. Here, a wake-up stands for all events that the thread has not begun to handle.

The thread counts its rounds, and another thread wakes it at most once a round. The number of the
round is noted *after* the wake-up, because an exception may interrupt the code in between: a signal
handler may raise one at any point. Then the next event wakes the thread once more, which does no
harm. The other order would lose the wake-up.

A thread that runs far ahead of the IOPub thread waits, because both share the interpreter's lock,
and outputs shall not wait for the next change of threads.
"""

from __future__ import annotations

from _thread import allocate_lock, get_ident
from collections.abc import Callable
from typing import Any

from .hook import IOPUB_THREAD, Hook, Need

# A thread with so many events in the queue waits for the IOPub thread.
MOST_AHEAD = 16

# How long it waits. It waits again at its next event.
AHEAD_SECONDS = 1.0

# How long to wait for the events of a kernel that replies or ends.
SENT_SECONDS = 10.0


def put(thread: Any, event: Callable[[], object]) -> None:
    """Add an event to the queue of the IOPub thread, without waiting."""
    getattr(thread, "put", thread.schedule)(event)


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
    put(thread, sent.release)
    return sent.acquire(timeout=seconds)


class WakeOnce:
    """The part of an IOPubThread that puts events in a queue and handles them."""

    round = 0
    woken_for = -1
    is_handling = False

    def put(self: Any, event: Callable[[], object]) -> None:
        """Add an event to the queue; handle it at once if the thread has ended."""
        if not self.thread.is_alive():
            event()
            return
        self._events.append(event)
        current = self.round
        if self.woken_for != current:
            self._event_pipe.send(b"")
            self.woken_for = current

    def schedule(self: Any, f: Callable[[], object]) -> None:
        """Add an event to the queue, and wait if the thread is far behind."""
        self.put(f)
        if len(self._events) >= MOST_AHEAD and self.thread.is_alive():
            wait_until_sent(self, AHEAD_SECONDS)

    @property
    def is_idle(self: Any) -> bool:
        """Whether all events are handled."""
        return not self._events and not self.is_handling

    def _handle_event(self: Any, msg: object) -> None:
        self.is_handling = True
        self.round += 1
        events = self._events
        try:
            for _ in range(len(events)):
                events.popleft()()
        except BaseException:
            if events:
                self._event_pipe.send(b"")
            raise
        finally:
            self.is_handling = False

    def stop(self: Any) -> None:
        """Send all events, and stop the thread."""
        if self.thread.is_alive() and not self._stopped:
            wait_until_sent(self, SENT_SECONDS)
        stock: Any = super()
        stock.stop()


HOOK = Hook(
    name="wake",
    needs=[
        Need(f"{IOPUB_THREAD}.schedule", "self, f", "thread is_alive _events append _event_pipe"),
        Need(f"{IOPUB_THREAD}._handle_event", "self, msg", "_events popleft"),
        Need(f"{IOPUB_THREAD}._event_pipe", "self", "event_pipe"),
        Need(f"{IOPUB_THREAD}.stop", "self", "_stopped"),
        Need(f"{IOPUB_THREAD}.send_multipart", "self, *args, **kwargs", "schedule"),
    ],
    mixins={IOPUB_THREAD: WakeOnce},
)
