"""The kernel types there are: ``python -m kernelproto.discovery``."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence

import anyio
import msgspec

from kernelproto.interfaces import KernelAttributes
from kernelproto.launch.finder import KernelFinder

_HEADER = ("NAME", "DISPLAY NAME", "LANGUAGE")
_GAP = "  "
_ELLIPSIS = "..."
_NARROWEST = 12  # what a shortened column keeps at the least

_NOTHING = (
    "No kernel types found. For a Python kernel: pip install ipykernel\n"
    "Kernelspecs are looked for in JUPYTER_PATH and in the folders that `jupyter --paths` lists."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """List the kernel types on standard output; return the exit status.

    What is broken is skipped and named on standard error.

    Args:
        arguments: the command line without the program; None means that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m kernelproto.discovery",
        description="List the kernel types that kernelproto can launch.",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object: the names, and what is known about each kernel type",
    )
    options = parser.parse_args(arguments)
    _log_to_stderr()
    kernel_types = anyio.run(_find)
    try:
        if options.json:
            text = msgspec.json.encode(kernel_types, enc_hook=repr)
            sys.stdout.buffer.write(msgspec.json.format(text) + b"\n")  # JSON is always UTF-8
        elif kernel_types:
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            print(*format_table(kernel_types, width, sys.stdout.encoding), sep="\n")
        else:
            print(_NOTHING, file=sys.stderr)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever reads has seen enough, as `head` does. Nothing may be left for the interpreter to
        # write when it ends, because it would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def format_table(
    kernel_types: Mapping[str, KernelAttributes],
    width: int | None = None,
    encoding: str = "utf-8",
) -> list[str]:
    """Return the lines of a table of kernel types.

    Names are never shortened: they are there to be copied. What cannot be printed is replaced.

    Args:
        kernel_types: what is known about them, by name.
        width: how many columns the terminal has; None means any number.
        encoding: what the terminal understands.
    """
    rows = [_HEADER] + [
        (
            _printable(name, encoding),
            _printable(about.get("display_name", ""), encoding),
            _printable(about.get("language", ""), encoding),
        )
        for name, about in kernel_types.items()
    ]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    while width is not None and sum(widths) + 2 * len(_GAP) > width:
        widest = max((1, 2), key=widths.__getitem__)
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return [
        _GAP.join(_fit(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


async def _find() -> dict[str, KernelAttributes]:
    return {name: about async for name, about in KernelFinder.from_entrypoints().find_kernels()}


def _printable(text: object, encoding: str = "utf-8") -> str:
    """Return *text* without what would move a terminal's cursor, or do worse."""
    printable = "".join(character if character.isprintable() else "?" for character in str(text))
    return printable.encode(encoding, "backslashreplace").decode(encoding)


def _width(text: str) -> int:
    """Return how many columns *text* takes on a terminal."""
    return sum(
        1 + (unicodedata.east_asian_width(character) in "FW")
        for character in text
        if not unicodedata.combining(character)
    )


def _fit(text: str, width: int) -> str:
    """Fill or shorten *text* to *width* columns."""
    if _width(text) > width:
        text = text[:width]  # what is cut off is not measured again and again
        while _width(text) > width - len(_ELLIPSIS):
            text = text[:-1]
        text += _ELLIPSIS
    return text + " " * (width - _width(text))


class _OneLine(logging.Formatter):
    """A record in one line: of an exception, what it says and not where it came from."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        reason = "" if error is None else f": {type(error).__name__}: {error}"
        return _printable(f"{record.levelname.lower()}: {record.getMessage()}{reason}")


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())
