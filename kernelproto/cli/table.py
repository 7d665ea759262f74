"""Plain-text tables for terminals and pipes."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence

_GAP = "  "
_ELLIPSIS = "..."
_NARROWEST = 12  # the minimum width of a shortened column


def format_table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    shrinking: Collection[int] = (),
    right: Collection[int] = (),
    width: int | None = None,
    encoding: str = "utf-8",
) -> list[str]:
    """Return the lines of a table; unprintable characters are replaced.

    Args:
        header: the titles of the columns.
        rows: rows with one cell for each column.
        shrinking: indexes of the columns that may be shortened to fit the width; other columns
            are kept whole, so that they can be copied.
        right: indexes of the columns to align at the right.
        width: the columns of the terminal; None means no limit.
        encoding: the encoding of the terminal.
    """
    cells = [[printable(cell, encoding) for cell in row] for row in (header, *rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    while shrinking and width is not None and sum(widths) + (len(widths) - 1) * len(_GAP) > width:
        widest = max(shrinking, key=widths.__getitem__)
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
    return [
        _GAP.join(
            _fit(cell, width, at_right=column in right)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def printable(text: object, encoding: str = "utf-8") -> str:
    """Return *text* without control characters and characters that *encoding* lacks."""
    shown = "".join(character if character.isprintable() else "?" for character in str(text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _width(text: str) -> int:
    """Return the number of terminal columns of *text*."""
    return sum(
        1 + (unicodedata.east_asian_width(character) in "FW")
        for character in text
        if not unicodedata.combining(character)
    )


def _fit(text: str, width: int, *, at_right: bool) -> str:
    """Fill or shorten *text* to *width* columns."""
    if _width(text) > width:
        text = text[:width]  # bounds the loop below
        while _width(text) > width - len(_ELLIPSIS):
            text = text[:-1]
        text += _ELLIPSIS
    space = " " * (width - _width(text))
    return space + text if at_right else text + space
