"""Outbox: what waits to be sent to one client, and when that is too much."""

from __future__ import annotations

from collections import deque

import anyio

# What a frame takes in memory beside its bytes.
_OBJECT_BYTES = 100


class Outbox:
    """Frames that wait to be sent, bounded in bytes; one task takes them out.

    Args:
        limit: how many bytes may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frames: deque[bytes | str] = deque()
        self._bytes = 0
        self._end: Exception | None = None
        self._news = anyio.Event()

    def put(self, frame: bytes | str) -> bool:
        """Take in a frame; return False, and do not, when it is too much.

        One frame always has room, however large it is.
        """
        size = len(frame) + _OBJECT_BYTES
        if self._frames and self._bytes + size > self._limit:
            return False
        self._frames.append(frame)
        self._bytes += size
        self._news.set()
        return True

    def end(self, error: Exception) -> None:
        """Let ``get`` raise *error* after what is in here."""
        self._end = error
        self._news.set()

    async def get(self) -> bytes | str:
        """Wait for the next frame, and return it."""
        while not self._frames:
            if self._end is not None:
                raise self._end
            self._news = anyio.Event()
            await self._news.wait()
        frame = self._frames.popleft()
        self._bytes -= len(frame) + _OBJECT_BYTES
        return frame
