"""Open the session in the history with the first input, not while the kernel starts.

IPython opens the session in the main thread. That is a transaction, and the start of the kernel
waits until the file is written. Here the thread that saves the history opens the session when it
writes the first input, or a second after the start if there is none. Code that needs the number of
the session before then, or reads the database, opens the session at that moment. So do a fork and
the end of the kernel.

If the file cannot be written, the history goes on in memory, as in IPython.
"""

from __future__ import annotations

import threading
from typing import Any

from .history import before_forks
from .hook import HISTORY_MANAGER, SAVING_THREAD, Hook, Need, find

MEMORY = ":memory:"


class OpenLate:
    """The part of a HistoryManager that opens its first session.

    The lock makes sure that one thread opens the session, and that the others wait for that.
    """

    is_starting = True
    is_open = True

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        self.opening = threading.RLock()
        stock: Any = super()
        stock.__init__(*args, **kwargs)

    def new_session(self: Any, conn: Any = None) -> None:
        """Get a new session number; for the first session, once code needs the number."""
        starting, self.is_starting = self.is_starting, False
        if starting and conn is None and self.enabled and self.hist_file != MEMORY:
            self.is_open = False
            self._trait_values.pop("session_number", None)  # the next reader gets the default
            return
        with self.opening:
            stock: Any = super()
            stock.new_session(conn)
            self.is_open = True

    def _session_number_default(self: Any) -> int:
        self.open_session()
        number: int = self._trait_values.get("session_number", 0)
        return number

    def open_session(self: Any, conn: Any = None) -> None:
        """Open the first session, unless it is open.

        Args:
            conn: a connection to the database; None for that of the main thread.
        """
        if self.is_open:
            return
        with self.opening:
            if self.is_open:
                return
            try:
                self.new_session(conn)
            except find("sqlite3").DatabaseError:
                self.log.error(
                    "Failed to create history session in %s. History will not be saved.",
                    self.hist_file,
                    exc_info=True,
                )
                self.forget_thread()
                self._switch_to_memory_history()

    def forget_thread(self: Any) -> None:
        """Let the saving thread end, without waiting: it may be the one that calls, or wait."""
        self.using_thread = False
        thread = self.save_thread
        if thread is not None:
            thread._stop_now = True
            thread.save_flag.set()

    def writeout_cache(self: Any, conn: Any = None) -> None:
        """Write any entries in the cache to the database."""
        self.open_session(conn)
        # The connection of the saving thread leads to the file that cannot be written.
        if conn is None or self.hist_file != MEMORY:
            stock: Any = super()
            stock.writeout_cache(conn)

    def _run_sql(self: Any, *args: Any, **kwargs: Any) -> Any:
        self.open_session()  # which may change the connection
        stock: Any = super()
        return stock._run_sql(*args, **kwargs)


def open_before_forks(_: Any) -> None:
    """Open the session before each fork, so that no child opens it once more."""

    def open_session(manager: Any) -> None:
        if isinstance(manager, OpenLate):
            manager.open_session()

    before_forks(open_session)


HOOK = Hook(
    name="history_session",
    needs=[
        Need(
            f"{HISTORY_MANAGER}.__init__",
            "self, shell, config, **traits",
            "new_session enabled hist_file save_thread using_thread _switch_to_memory_history",
        ),
        Need(f"{HISTORY_MANAGER}.new_session", "self, conn", "db execute session_number"),
        Need(
            f"{HISTORY_MANAGER}._switch_to_memory_history", "self", "hist_file init_db new_session"
        ),
        Need(f"{HISTORY_MANAGER}.writeout_cache", "self, conn", "db _writeout_input_cache"),
        Need(f"{HISTORY_MANAGER}.end_session", "self", "writeout_cache session_number"),
        Need(f"{HISTORY_MANAGER}.store_inputs", None, "using_thread _restart_thread_if_stopped"),
        Need(f"{HISTORY_MANAGER}._run_sql", None, "db execute"),
        Need(f"{SAVING_THREAD}.run", "self", "save_flag wait _stop_now clear writeout_cache"),
        Need(
            "IPython.core.interactiveshell:InteractiveShell.init_history", "self", "HistoryManager"
        ),
        Need("traitlets:HasTraits.trait_defaults", None, "_get_trait_default_generator"),
    ],
    mixins={HISTORY_MANAGER: OpenLate},
    install=open_before_forks,
)
