"""What a kernel has left in this process when it is gone; nothing where there is no /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio


def belongings() -> set[str]:
    """List the descriptors and the children of this process."""
    return set(_descriptors()) | set(_children())


async def gone(before: set[str], seconds: float) -> set[str]:
    """Wait until this process has nothing more than *before*; return what it has after all."""
    left = belongings() - before
    with anyio.move_on_after(seconds):
        # The system is still at work when the last call has returned, and nothing tells its end.
        while left := belongings() - before:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    return left


def _descriptors() -> Iterator[str]:
    folder = "/proc/self/fd"
    for number in _listed(folder):
        try:
            yield f"descriptor {number} {os.readlink(f'{folder}/{number}')}"
        except FileNotFoundError:  # the one that was listing them
            continue


def _children() -> Iterator[str]:
    for pid in filter(str.isdigit, _listed("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        if int(parent) == os.getpid():
            yield f"process {pid}"


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # not Linux
        return []
