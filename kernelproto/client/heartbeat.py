"""Heartbeats: find out that a kernel has fallen silent."""

from __future__ import annotations

from typing import Protocol

import anyio

# One heartbeat without an echo proves nothing: if the application was delayed, the echo has arrived
# but is unread.
_BEATS = 3


class Beating(Protocol):
    """Sends heartbeats; implemented by KernelClient."""

    async def heartbeat(self) -> float:
        """Send a heartbeat and wait for the echo; return the delay in seconds."""
        ...


async def until_silent(kernel: Beating, seconds: float) -> None:
    """Wait until a kernel has answered no heartbeat for so many seconds.

    Raises:
        KernelDied, ClientClosed: there is no kernel any more.
    """
    interval = seconds / _BEATS
    missed = 0
    while missed < _BEATS:
        with anyio.move_on_after(interval) as waiting:
            await kernel.heartbeat()
        if waiting.cancelled_caught:
            missed += 1
        else:
            missed = 0
            await anyio.sleep(interval)
