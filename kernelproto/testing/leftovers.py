"""Descriptors and child processes of this process, to find leaks; empty without /proc."""

from __future__ import annotations

import os
from collections.abc import Iterator

import anyio


def belongings() -> set[str]:
    """List the descriptors and the children of this process."""
    return set(_descriptors()) | set(_children())


async def gone(before: set[str], seconds: float) -> set[str]:
    """Wait until this process has no more than *before*; return the rest after *seconds*."""
    left = belongings() - before
    with anyio.move_on_after(seconds):
        # The kernel of the system may still clean up after the last call; no event reports the end.
        while left := belongings() - before:  # noqa: ASYNC110
            await anyio.sleep(0.01)
    return left


def _descriptors() -> Iterator[str]:
    folder = "/proc/self/fd"
    for number in _listed(folder):
        try:
            yield f"descriptor {number} {os.readlink(f'{folder}/{number}')}"
        except FileNotFoundError:  # the descriptor of this listdir
            continue


def _children() -> Iterator[str]:
    for pid in filter(str.isdigit, _listed("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except (FileNotFoundError, ProcessLookupError):  # the process has ended
            continue
        if int(parent) == os.getpid():
            yield f"process {pid}"


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:  # not Linux
        return []
