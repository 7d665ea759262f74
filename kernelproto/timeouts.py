"""Timeouts of a kernel's life; for all others use ``anyio.fail_after``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Named phases of a kernel's life, each in seconds.

    Args:
        startup: from launching until the kernel is ready to execute, without the time in a queue.
        queue: the time of a start in which the kernel waits in a queue of a cluster, or cannot be
            reached.
        interrupt: from the interrupt of an execution after its ``timeout`` to the end of the code.
        shutdown: from shutdown_request to the end of the process without a signal.
        terminate: from SIGTERM until the process has ended.
        kill: from SIGKILL until the process has ended.
    """

    startup: float = 60.0
    queue: float = 3600.0
    interrupt: float = 5.0
    shutdown: float = 5.0
    terminate: float = 2.0
    kill: float = 5.0
