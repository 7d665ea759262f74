"""Annotations of GitHub Actions: errors that GitHub shows next to the code of a notebook."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kernelproto.cli.locations import STANDARD, Location
from kernelproto.cli.outputs import plain_traceback

if TYPE_CHECKING:
    from kernelproto.notebook import CellFinished

# GitHub cuts longer messages. The end of a traceback has the error.
_LONGEST = 8000

_LINE_IN_CELL = re.compile(r"Cell In\[(\d+)\], line (\d+)")


def in_actions() -> bool:
    """Return whether this process runs in GitHub Actions."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


class CellPlaces:
    """The lines of a notebook file, as they are before the execution changes the file.

    Args:
        source: where the notebook was read.
        cells: the cells.

    Raises:
        OSError: the file cannot be read.
    """

    def __init__(self, source: Location, cells: Sequence[Any]) -> None:
        from kernelproto.notebook.cell_lines import find_cell_lines

        self._cells = list(cells)
        self._lines: list[Sequence[int]] = []
        if isinstance(source, Path) and source != STANDARD:
            self._lines = find_cell_lines(source.read_text("utf-8", "replace"))

    def line(self, cell: Any, finished: CellFinished) -> int | None:
        """Return the line of a failed cell: that of the error if the traceback has one.

        Args:
            cell: the cell, by identity: parameters may have been inserted before.
            finished: the outcome.
        """
        index = next((at for at, known in enumerate(self._cells) if known is cell), None)
        if index is None or index >= len(self._lines):
            return None
        traceback = "" if finished.error is None else plain_traceback(finished.error)
        inside = [
            int(line)
            for count, line in _LINE_IN_CELL.findall(traceback)
            if int(count) == finished.execution_count
        ]
        lines = self._lines[index]
        return lines[min(inside[-1], len(lines)) - 1] if inside and inside[-1] > 0 else lines[0]


def print_annotation(
    level: str, message: str, *, source: Location, title: str, line: int | None = None
) -> None:
    """Print an annotation to standard error.

    Args:
        level: "error" or "warning".
        message: the text, of several lines.
        source: the notebook.
        title: the first line.
        line: the line of the file, counted from 1; None for the whole file.
    """
    properties: dict[str, object] = {}
    if isinstance(source, Path) and source != STANDARD:
        properties["file"] = _in_repository(source)
        if line is not None:
            properties["line"] = line
    properties["title"] = title
    written = ",".join(f"{name}={_escaped(str(value), ':,')}" for name, value in properties.items())
    shown = message if len(message) <= _LONGEST else f"...{message[-_LONGEST:]}"
    print(f"::{level} {written}::{_escaped(shown)}", file=sys.stderr, flush=True)


def _in_repository(path: Path) -> str:
    """Return the path from the root of the repository, by which GitHub knows the file."""
    root = os.environ.get("GITHUB_WORKSPACE") or os.getcwd()
    relative = os.path.relpath(path, root)
    return str(path) if relative.startswith("..") else relative


def _escaped(text: str, special: str = "") -> str:
    """Return text with percent signs, line ends and *special* characters encoded."""
    return "".join(
        f"%{ord(character):02X}" if character in f"%\r\n{special}" else character
        for character in text
        if character.isprintable() or character in "\t\r\n"
    )
