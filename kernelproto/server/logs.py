"""The server's log: lines of text for people, or of JSON for programs.

Either tells which kernel and which user a line is about, where that is known.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

from kernelproto.log_fields import log_fields
from kernelproto.server.models import timestamp

LogFormat = Literal["text", "json"]


class TextLines(logging.Formatter):
    """Formats a record as a line of text, and a traceback below it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line; what it is about stands at its end."""
        about = "".join(f" {name}={value!r}" for name, value in log_fields().items())
        return super().formatMessage(record) + about


class JsonLines(logging.Formatter):
    """Formats a record as one line with a JSON object.

    It has time (UTC), level, logger and message; ``kernel_id`` and ``user`` where they are known;
    and ``exception`` with the traceback, where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": timestamp(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **log_fields(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Not msgspec, which refuses lone surrogates: what a kernel says may have some.
        return json.dumps(line)


def configure_logging(log_format: LogFormat) -> None:
    """Have the program's log written to stderr; that of uvicorn and other libraries is part of it.

    Args:
        log_format: how.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
