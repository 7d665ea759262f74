"""Let no cell wait while inputs are written to the file of the history.

In IPython the thread that saves the history holds the lock of the cached inputs until SQLite has
written the file. A cell that stores its input meanwhile waits for the disk, or for another program
that has locked the file, for five seconds at most. Here the lock is held only while the thread
takes the inputs out of the cache.

Another lock is held while they are written. Readers of the file write the cached inputs first, so
they wait until both the inputs in the cache and those that were taken out before are in the file.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

from .hook import HISTORY_MANAGER, Hook, Need


class Batch:
    """The entries that are written together; stands for the manager in IPython's method.

    Args:
        manager: a HistoryManager, whose cached entries are taken.
    """

    def __init__(self, manager: Any) -> None:
        self.manager = manager
        self.kind: Any = type(manager)
        self.db_input_cache_lock = self.db_output_cache_lock = nullcontext()
        with manager.db_input_cache_lock:
            self.db_input_cache, manager.db_input_cache = manager.db_input_cache, []
        with manager.db_output_cache_lock:
            self.db_output_cache, manager.db_output_cache = manager.db_output_cache, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.manager, name)

    def _writeout_input_cache(self, conn: Any) -> None:
        self.kind._writeout_input_cache(self, conn)

    def _writeout_output_cache(self, conn: Any) -> None:
        self.kind._writeout_output_cache(self, conn)


class WriteApart:
    """The part of a HistoryManager that writes the cached entries."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        self.writing = threading.RLock()
        stock: Any = super()
        stock.__init__(*args, **kwargs)

    def writeout_cache(self: Any, conn: Any = None) -> None:
        """Write any entries in the cache to the database."""
        stock: Any = super()
        with self.writing:
            stock.writeout_cache.__func__(Batch(self), conn)


HOOK = Hook(
    name="history_write",
    needs=[
        Need(f"{HISTORY_MANAGER}.__init__", "self, shell, config, **traits", "Lock"),
        Need(
            f"{HISTORY_MANAGER}.writeout_cache",
            "self, conn",
            "db db_input_cache_lock _writeout_input_cache db_input_cache new_session "
            "db_output_cache_lock _writeout_output_cache db_output_cache",
        ),
        Need(f"{HISTORY_MANAGER}._writeout_input_cache", "self, conn", "db_input_cache execute"),
        Need(f"{HISTORY_MANAGER}._writeout_output_cache", "self, conn", "db_output_cache execute"),
        Need(f"{HISTORY_MANAGER}.store_inputs", None, "db_input_cache_lock db_input_cache append"),
        Need(f"{HISTORY_MANAGER}.store_output", None, "db_output_cache_lock db_output_cache"),
        Need(
            "IPython.core.interactiveshell:InteractiveShell.init_history", "self", "HistoryManager"
        ),
    ],
    mixins={HISTORY_MANAGER: WriteApart},
)
