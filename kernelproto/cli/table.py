"""Tables of plain text, for terminals and for whatever reads them through a pipe."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Sequence

_GAP = "  "
_ELLIPSIS = "..."
_NARROWEST = 12  # what a shortened column keeps at the least


def format_table(
    header: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    shrinking: Collection[int] = (),
    right: Collection[int] = (),
    width: int | None = None,
    encoding: str = "utf-8",
) -> list[str]:
    """Return the lines of a table; what cannot be printed is replaced.

    Args:
        header: the names of the columns.
        rows: as many cells each.
        shrinking: the columns, from 0, that are shortened where the terminal is too narrow; the
            others are there to be copied.
        right: the columns that are aligned at their right, as numbers are.
        width: how many columns the terminal has; None means any number.
        encoding: what the terminal understands.
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
    """Return *text* without what would move a terminal's cursor, or do worse."""
    shown = "".join(character if character.isprintable() else "?" for character in str(text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _width(text: str) -> int:
    """Return how many columns *text* takes on a terminal."""
    return sum(
        1 + (unicodedata.east_asian_width(character) in "FW")
        for character in text
        if not unicodedata.combining(character)
    )


def _fit(text: str, width: int, *, at_right: bool) -> str:
    """Fill or shorten *text* to *width* columns."""
    if _width(text) > width:
        text = text[:width]  # what is cut off is not measured again and again
        while _width(text) > width - len(_ELLIPSIS):
            text = text[:-1]
        text += _ELLIPSIS
    space = " " * (width - _width(text))
    return space + text if at_right else text + space
