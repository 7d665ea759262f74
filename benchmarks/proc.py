"""Facts about processes from Linux."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.question import Skipped

_PROC = Path("/proc")


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


def descendants(pid: int | str = "self") -> Iterator[int]:
    """Iterate over the descendants of a process."""
    for task in (_PROC / str(pid) / "task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            yield int(child)
            yield from descendants(child)
