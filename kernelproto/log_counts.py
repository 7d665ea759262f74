"""LogCounts: bounds log lines that a kernel or a client could repeat without end.

Of the lines with the same key, the 1st, 2nd, 4th, 8th ... are written, from the second on with the
count: 100,000 refused messages make 17 lines. A line has at most 1,000 characters. A key names a
kind of event. The program chooses the keys, never the kernel or the client, so their number is
bounded.
"""

from __future__ import annotations

import logging

_MOST_CHARACTERS = 1000


class LogCounts:
    """Counts the log lines of one client, connection or handler, and writes few of them."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def log(
        self,
        logger: logging.Logger,
        level: int,
        key: str,
        message: str,
        *args: object,
        exc_info: bool = False,
    ) -> None:
        """Count a line, and write the 1st, 2nd, 4th, 8th ... line with this key.

        Args:
            logger: writes the line.
            level: the log level.
            key: lines with the same key are counted together.
            message: the format of the line, with a place for each of *args*.
            args: formatted only if the line is written.
            exc_info: whether to add the traceback of the current exception.
        """
        count = self._counts[key] = self._counts.get(key, 0) + 1
        if count & (count - 1):  # not a power of two
            return
        text = message % args
        if len(text) > _MOST_CHARACTERS:
            text = f"{text[:_MOST_CHARACTERS]} ..."
        if count > 1:
            text = f"{text} ({count} times so far)"
        logger.log(level, "%s", text, exc_info=exc_info)
