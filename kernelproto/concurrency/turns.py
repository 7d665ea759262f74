"""Turns: let the event loop run between the launches of many kernels."""

from __future__ import annotations

import anyio
from anyio.lowlevel import RunVar, checkpoint

_lock = RunVar[anyio.Lock]("kernelproto.concurrency.turns")


async def turn() -> None:
    """Wait for a turn of the event loop in which no other launch has begun.

    A launch writes files and starts a process, which blocks the event loop for a few milliseconds.
    The loop runs all ready tasks before it serves timers and sockets. Without turns, thirty
    launches at once would block the loop for thirty times as long.
    """
    try:
        lock = _lock.get()
    except LookupError:
        lock = anyio.Lock()
        _lock.set(lock)
    async with lock:
        await checkpoint()
