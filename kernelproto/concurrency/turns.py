"""Turns: many launches at once hold up the event loop for no longer than one."""

from __future__ import annotations

import anyio
from anyio.lowlevel import RunVar, checkpoint

_lock = RunVar[anyio.Lock]("kernelproto.concurrency.turns")


async def turn() -> None:
    """Wait until no other launch has begun its part in this turn of the event loop.

    A launch writes files and starts a process, a few milliseconds of work that does not await. The
    loop does the work of all tasks that are ready before it looks at its timers and sockets, so
    without this the launches of thirty tasks would be one pause.
    """
    try:
        lock = _lock.get()
    except LookupError:
        lock = anyio.Lock()
        _lock.set(lock)
    async with lock:
        await checkpoint()
