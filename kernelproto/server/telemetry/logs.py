"""The server's log, as lines of text or of JSON.

A line names the kernel and the user where they are known.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from typing import Literal

from kernelproto.exceptions import InvalidSettings
from kernelproto.log_fields import log_fields
from kernelproto.server.models import timestamp
from kernelproto.server.telemetry.audit import AUDIT_LOGGER

LogFormat = Literal["text", "json"]


# Control characters, and characters that some programs treat as the end of a line.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class TextLines(logging.Formatter):
    """Formats a record as a line of text, followed by a traceback if there is one.

    Clients and kernels choose parts of some messages. Therefore further lines of a message are
    indented and control characters escaped: no message can forge a record.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the line, with the kernel and the user at the end."""
        about = "".join(f" {name}={value!r}" for name, value in log_fields().items())
        text = super().formatMessage(record).replace("\r\n", "\n")
        text = _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
        return text.replace("\n", "\n    ") + about


class JsonLines(logging.Formatter):
    """Formats a record as one line with a JSON object.

    The object has ``time`` (UTC), ``level``, ``logger`` and ``message``; ``kernel_id`` and ``user``
    where known; ``audit`` with the fields of an audit event; ``exception`` with a traceback.
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
        event = getattr(record, "audit", None)
        if event is not None:
            line["audit"] = event
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # Not msgspec, which refuses the lone surrogates that a kernel's text may have.
        return json.dumps(line)


def configure_logging(log_format: LogFormat, audit_file: str | None = None) -> None:
    """Write the log of the program and of libraries, such as uvicorn, to stderr.

    Args:
        log_format: the format of the lines.
        audit_file: a file to which the audit log is appended, too. The file is reopened after a
            move or removal, for example by logrotate.

    Raises:
        InvalidSettings: the audit file cannot be opened.
    """
    formatter = JsonLines() if log_format == "json" else TextLines()
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("mcp").setLevel(logging.WARNING)  # mcp logs the ids of sessions
    if audit_file is None:
        return
    try:
        audit_handler = WatchedFileHandler(audit_file, encoding="utf-8")
    except OSError as error:
        raise InvalidSettings(
            f"audit_file: {audit_file} cannot be opened: {error.strerror}"
        ) from error
    audit_handler.setFormatter(formatter)
    logging.getLogger(AUDIT_LOGGER).addHandler(audit_handler)
