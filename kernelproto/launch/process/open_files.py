"""Open files: a program may have more of them than the kernels that it starts."""

from __future__ import annotations

import sys
from contextlib import suppress

if sys.platform != "win32":
    import resource

# Some systems have no hard limit, and refuse a soft limit above one that they do not name.
_ALWAYS_ALLOWED = 10_240

# The soft limit that the program had at its start; None where it was not raised.
_at_start: int | None = None


def raise_open_files() -> int | None:
    """Raise the soft limit of this process for open files to the hard limit.

    Kernels that are started afterwards get the soft limit that this process had before: programs
    that use select(), or close all descriptors one by one, need a low one.

    Returns:
        how many files this process may now open; None where the system has no such limit.
    """
    global _at_start  # a process has one limit
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _ALWAYS_ALLOWED):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now != soft and _at_start is None:
        _at_start = soft
    return None if now == resource.RLIM_INFINITY else now


def lower_open_files(pid: int) -> None:
    """Give a process that was just started the soft limit that this one had at its start."""
    if sys.platform == "linux" and _at_start is not None:
        with suppress(OSError):  # the process has ended
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(_at_start, hard), hard))
