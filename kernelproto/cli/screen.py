"""What programs of this package print: tables, JSON and logs, with colours where they help.

It imports nothing of messages or kernels, so that a program can complain before it loads them.
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

# Styles, as terminals number them.
BOLD, DIM, RED, GREEN = "1", "2", "31", "32"


def has_colours(stream: TextIO) -> bool:
    """Return whether *stream* is a terminal, and nobody minds colours (https://no-color.org)."""
    return (
        stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"
    )


def styled(text: str, style: str, stream: TextIO) -> str:
    """Return text as it is written to *stream*: in a style, where that has colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if has_colours(stream) else text


def terminal_width() -> int | None:
    """Return how many columns standard output has; None where it is no terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_table(lines: Sequence[str]) -> None:
    """Print the lines of a table, the header in bold where that can be."""
    header, *rows = lines
    print(styled(header, BOLD, sys.stdout), *rows, sep="\n")


def print_json(value: object) -> None:
    """Print a value as JSON, in UTF-8 whatever the terminal has; what JSON has not, as its repr."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=repr))
    sys.stdout.buffer.write(text + b"\n")


def drop_stdout() -> None:
    """Let what is still to be printed go nowhere: whoever reads it, as `head` does, has enough.

    Otherwise the interpreter would try to write it when it ends, and complain.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def log_to_stderr() -> None:
    """Print what is logged from now on, warnings and worse, in a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


class _OneLine(logging.Formatter):
    """A record in one line: of an exception, what it says and not where it came from."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        reason = "" if error is None else f": {type(error).__name__}: {error}"
        return printable(f"{record.levelname.lower()}: {record.getMessage()}{reason}")
