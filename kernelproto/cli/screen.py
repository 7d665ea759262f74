"""Prints tables, JSON and log lines, with colours on a terminal.

This module imports nothing of messages or kernels, so that a command can report early errors fast.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec

from kernelproto.cli.table import printable

# SGR codes.
BOLD, DIM, RED, GREEN = "1", "2", "31", "32"


def has_colours(stream: TextIO) -> bool:
    """Return whether *stream* is a terminal with colours, and NO_COLOR (no-color.org) is unset."""
    return (
        stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"
    )


def styled(text: str, style: str, stream: TextIO) -> str:
    """Return *text* in a style, if *stream* has colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if has_colours(stream) else text


def terminal_width() -> int | None:
    """Return the columns of standard output; None without a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_table(lines: Sequence[str]) -> None:
    """Print the lines of a table, with a bold header on a terminal."""
    header, *rows = lines
    print(styled(header, BOLD, sys.stdout), *rows, sep="\n")


def print_json(value: object) -> None:
    """Print a value as JSON, always in UTF-8; print objects that JSON lacks as their repr."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=repr))
    sys.stdout.buffer.write(text + b"\n")


def drop_stdout() -> None:
    """Discard the rest of standard output after its reader (such as `head`) has closed the pipe.

    Otherwise the interpreter would fail to flush standard output at exit, and print an error.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def log_to_stderr() -> None:
    """Print later log records of level WARNING or higher, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


class _OneLine(logging.Formatter):
    """Formats a record in one line: an exception without the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        reason = "" if error is None else f": {type(error).__name__}: {error}"
        return printable(f"{record.levelname.lower()}: {record.getMessage()}{reason}")
