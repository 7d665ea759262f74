"""Write the history at most once a second.

IPython's history thread commits each input to an SQLite database by itself. Here the thread writes
the first input at once, and later inputs one second after the last time it wrote. All methods that
read the database write the cached inputs first, and so does the end of the kernel.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from .hook import SAVING_THREAD, Hook, Need, find

PAUSE_SECONDS = 1.0


class PacedFlag(threading.Event):
    """An event that wakes its thread at most once in PAUSE_SECONDS, until ``hurry`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.hurry = threading.Event()
        self.next = 0.0
        self.has_waited = False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set and the pause is over; return whether the event is set."""
        if not self.has_waited:
            self.has_waited = True
            if not super().wait(PAUSE_SECONDS):
                return False  # without an input, the thread opens the session (history_session.py)
        flag = super().wait(timeout)
        pause = self.next - time.monotonic()
        if pause > 0:
            self.hurry.wait(pause)
        self.next = time.monotonic() + PAUSE_SECONDS
        return flag


class Paced:
    """The part of a HistorySavingThread that waits for inputs."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        stock: Any = super()
        stock.__init__(*args, **kwargs)
        self.save_flag = PacedFlag()

    def stop(self: Any) -> None:
        """Stop the thread, without a pause."""
        self.save_flag.hurry.set()
        stock: Any = super()
        stock.stop()


def write_before_forks(_: Any) -> None:
    """Write the cached inputs before each fork, so that no child writes them once more."""

    def write(manager: Any) -> None:
        if manager.db_input_cache or manager.db_output_cache:
            manager.writeout_cache()

    before_forks(write)


def before_forks(work: Callable[[Any], object]) -> None:
    """Call a function with each HistoryManager before each fork of this process."""
    managers = find("IPython.core.history:HistoryManager")._instances

    def call() -> None:
        for manager in list(managers):
            work(manager)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=call)


HOOK = Hook(
    name="history",
    needs=[
        Need(f"{SAVING_THREAD}.__init__", "self, history_manager", "save_flag threading Event"),
        Need(f"{SAVING_THREAD}.run", "self", "save_flag wait _stop_now clear writeout_cache"),
        Need(f"{SAVING_THREAD}.stop", "self", "_stop_now save_flag set join"),
        Need("IPython.core.history:HistoryManager.save_flag", "self", "save_thread save_flag"),
        Need("IPython.core.history:HistoryManager.end_session", "self", "writeout_cache"),
        Need("IPython.core.history:HistoryManager._stop_thread", "cls", "_instances"),
        Need("IPython.core.history:HistoryManager.writeout_cache", "self, conn", "db_input_cache"),
        Need("IPython.core.history:HistoryManager.__init__", "self, shell, config, **traits"),
    ],
    mixins={SAVING_THREAD: Paced},
    install=write_before_forks,
)
