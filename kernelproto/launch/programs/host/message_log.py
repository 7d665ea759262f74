"""MessageLog: the messages of one kernel that the owner may not have received.

Theory of operation
-------------------
Messages have consecutive numbers from 1. They are kept in segments of about 1 MiB, so that nothing
has to be remembered of a message in a file. The limits work like this:

- Messages that were acknowledged stay while they have at most ``kept`` bytes: a program that was
  killed may have acknowledged more than the next one knows. The oldest leave first.
- Above ``memory`` bytes, the newest whole segment in memory is written to a file, because a reader
  needs the oldest first.
- Above ``file`` bytes in files, or if a file cannot be written, the oldest segment is dropped. The
  messages of this segment are lost, which a reader sees by the numbers.
- A message larger than ``largest`` is lost as well, but has a number.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from contextlib import suppress
from itertools import takewhile
from typing import NamedTuple

SEGMENT_BYTES = 2**20

# The memory for a message in addition to its bytes.
_OVERHEAD = 100

_RECORD = struct.Struct(">IB")
_LOST = 2**32 - 1


class Limits(NamedTuple):
    """The limits of a log, in bytes."""

    memory: int = 32 * 2**20
    file: int = 512 * 2**20
    kept: int = 4 * 2**20
    largest: int = 256 * 2**20


class _Segment:
    """Consecutive messages.

    Attributes:
        first: the number of the first message.
        count: how many there are.
        size: their size in memory.
        entries: the channel and the bytes of each message, None for the bytes of a lost one; None
            if the messages are in a file.
    """

    def __init__(self, first: int) -> None:
        self.first = first
        self.count = 0
        self.size = 0
        self.entries: list[tuple[int, bytes | None]] | None = []

    @property
    def last(self) -> int:
        return self.first + self.count - 1


class MessageLog:
    """The messages of one kernel.

    Args:
        folder: the folder for files; they are removed with the messages.
        limits: the limits.

    Attributes:
        last: the number of the newest message; 0 if there is none.
        acknowledged: the number of the last message that an owner has acknowledged.
    """

    def __init__(self, folder: str, limits: Limits) -> None:
        self.last = 0
        self.acknowledged = 0
        self._folder = folder
        self._limits = limits
        self._segments: deque[_Segment] = deque()
        self._memory = 0
        self._file = 0
        self._read: tuple[_Segment, list[tuple[int, bytes | None]]] | None = None

    @property
    def first(self) -> int:
        """The number of the oldest message that is left; one after the last if there is none."""
        return self._segments[0].first if self._segments else self.last + 1

    def append(self, channel: int, message: bytes | None) -> int:
        """Append a message, None for a lost one; return its number."""
        self.last += 1
        newest = self._segments[-1] if self._segments else None
        if newest is None or newest.entries is None or newest.size >= SEGMENT_BYTES:
            newest = _Segment(self.last)
            self._segments.append(newest)
        assert newest.entries is not None
        size = _OVERHEAD + (0 if message is None else len(message))
        newest.entries.append((channel, message))
        newest.count += 1
        newest.size += size
        self._memory += size
        if self._memory > self._limits.memory:
            self._make_room()
        return self.last

    def acknowledge(self, number: int) -> None:
        """Note that the owner has received all messages up to *number*."""
        self.acknowledged = max(self.acknowledged, min(number, self.last))
        kept = sum(segment.size for segment in takewhile(self._is_done, self._segments))
        while kept > self._limits.kept or (
            self._segments
            and self._segments[0].entries is None
            and self._is_done(self._segments[0])
        ):
            kept -= self._segments[0].size
            self._drop_oldest()

    def read(self, after: int) -> tuple[int, list[tuple[int, bytes | None]]]:
        """Return messages behind the message *after*, at most those of one segment.

        Returns:
            The number of the first of these messages, and the channel and the bytes of each, None
            for the bytes of a lost one; there may be none.
        """
        wanted = max(after + 1, self.first)
        if wanted > self.last:
            return wanted, []
        segment = self._segments[-1]
        if segment.first > wanted:
            segment = next(each for each in self._segments if each.last >= wanted)
        return wanted, self._entries(segment)[wanted - segment.first :]

    def close(self) -> None:
        """Drop all messages, and remove the files."""
        while self._segments:
            self._drop_oldest()

    def _is_done(self, segment: _Segment) -> bool:
        return segment.last <= self.acknowledged and segment is not self._segments[-1]

    def _make_room(self) -> None:
        """Get below the limit for the memory; the newest segment stays in memory."""
        while self._memory > self._limits.memory and len(self._segments) > 1:
            if self._is_done(self._segments[0]):
                self._drop_oldest()
                continue
            whole = [each for each in self._segments if each.entries is not None][:-1]
            if not whole:
                return
            if self._limits.file < whole[-1].size or not self._write(whole[-1]):
                self._drop_oldest()
            while self._file > self._limits.file:
                self._drop_oldest()

    def _write(self, segment: _Segment) -> bool:
        """Write a segment to a file; return whether that was possible."""
        assert segment.entries is not None
        path = self._path(segment)
        try:
            with open(path, "xb") as file:
                for channel, message in segment.entries:
                    length = _LOST if message is None else len(message)
                    file.write(_RECORD.pack(length, channel) + (message or b""))
        except OSError:  # for example a full disk
            with suppress(OSError):
                os.unlink(path)
            return False
        segment.entries = None
        self._memory -= segment.size
        self._file += segment.size
        return True

    def _entries(self, segment: _Segment) -> list[tuple[int, bytes | None]]:
        if segment.entries is not None:
            return segment.entries
        if self._read is None or self._read[0] is not segment:
            self._read = segment, self._load(segment)
        return self._read[1]

    def _load(self, segment: _Segment) -> list[tuple[int, bytes | None]]:
        entries: list[tuple[int, bytes | None]] = []
        with suppress(OSError, struct.error), open(self._path(segment), "rb") as file:
            while record := file.read(_RECORD.size):
                length, channel = _RECORD.unpack(record)
                message = None if length == _LOST else file.read(length)
                if message is not None and len(message) < length:
                    break
                entries.append((channel, message))
        # If the file is gone or was cut off, the messages are lost.
        lost = [(0, None)] * (segment.count - len(entries))
        return [*entries[: segment.count], *lost]

    def _drop_oldest(self) -> None:
        segment = self._segments.popleft()
        if segment.entries is None:
            self._file -= segment.size
            with suppress(OSError):
                os.unlink(self._path(segment))
        else:
            self._memory -= segment.size
        if self._read is not None and self._read[0] is segment:
            self._read = None

    def _path(self, segment: _Segment) -> str:
        return os.path.join(self._folder, f"log-{segment.first}")
