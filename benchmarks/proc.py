"""Facts about processes from Linux."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from benchmarks.exceptions import Skipped

_PROC = Path("/proc")

# The unit in which the system reports CPU time.
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


def pss(pid: int | str = "self") -> int:
    """Return a process's proportional set size: its own memory and its part of shared memory.

    Returns:
        Bytes.

    Raises:
        Skipped: this system does not provide it.
    """
    try:
        lines = (_PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    except OSError:
        raise Skipped("there is no /proc/PID/smaps_rollup") from None
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def cpu_seconds(pid: int | str = "self", *, children: bool = True) -> float:
    """Return the CPU time of a process and the children that it has waited for.

    Args:
        pid: the process.
        children: whether to add that of its running descendants, and the children of each.

    Raises:
        Skipped: this system does not provide it.
    """
    total = 0.0
    for process in (pid, *(descendants(pid) if children else ())):
        try:
            # The name of the program is in parentheses, and may have spaces.
            fields = (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            if process == pid:
                raise Skipped("there is no /proc/PID/stat") from None
            continue  # it has ended, and its parent has waited for it
        total += sum(map(int, fields[11:15])) * TICK_SECONDS
    return total


def descendants(pid: int | str = "self", *, without: Collection[int] = ()) -> Iterator[int]:
    """Iterate over the descendants of a process, except those in *without* and below."""
    for task in (_PROC / str(pid) / "task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            if child not in without:
                yield child
                yield from descendants(child, without=without)
