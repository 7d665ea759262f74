"""Broadcasts: the broadcasts of all kernels."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from kernelproto.fanout.broadcast import Broadcast
from kernelproto.supervise import Died, Kernel


class Backlog(NamedTuple):
    """Messages that wait for clients.

    Attributes:
        kept_bytes: the size of the messages of all kernels, in bytes.
        unsent: the number of messages that wait to be sent to connected clients.
        slowest: the number of messages that wait to be sent to the slowest client.
    """

    kept_bytes: int
    unsent: int
    slowest: int


class Broadcasts:
    """The broadcasts of all kernels that have or have had clients.

    Args:
        limit: as for ``Broadcast``.
        seconds: as for ``Broadcast``.
    """

    def __init__(self, *, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._broadcasts: dict[Kernel, Broadcast] = {}

    def of(self, kernel: Kernel) -> Broadcast:
        """Return the broadcast of a kernel; create one for the first client."""
        broadcast = self._broadcasts.get(kernel)
        if broadcast is None:
            broadcast = Broadcast(
                kernel,
                limit=self._limit,
                seconds=self._seconds,
                on_end=partial(self._broadcasts.pop, kernel, None),
            )
            self._broadcasts[kernel] = broadcast
            kernel.watch(broadcast)
            kernel.add_callback(broadcast.note_death, Died)
            if broadcast.failure is None:
                kernel.start_task(broadcast.serve)
        return broadcast

    def backlog(self) -> Backlog:
        """Return the size of the backlog."""
        kept_bytes = sum(broadcast.log.size for broadcast in self._broadcasts.values())
        unsent = [count for broadcast in self._broadcasts.values() for count in broadcast.unsent()]
        return Backlog(kept_bytes, sum(unsent), max(unsent, default=0))
