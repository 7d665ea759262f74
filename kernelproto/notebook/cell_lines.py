"""Finds the lines of a notebook file that hold the code of the cells. Pure."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence

_SPACE = re.compile(r"[ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


def find_cell_lines(text: str) -> list[Sequence[int]]:
    """Return, for each cell, the line of the file for each source line, counted from 1.

    Args:
        text: the JSON of a notebook of nbformat 4.

    Returns:
        The lines; an empty list if the text has no cells. A source that is one string has one line.
    """
    line_ends = [match.start() for match in re.finditer("\n", text)]
    try:
        return [
            [bisect_left(line_ends, start) + 1 for start in _source(text, cell)]
            for cell in _elements(text, _member(text, 0, "cells"))
        ]
    except (ValueError, IndexError, RecursionError):
        return []


def _source(text: str, cell: int) -> Iterator[int]:
    start = _member(text, cell, "source")
    if text[start] != "[":
        yield start
        return
    lines = list(_elements(text, start))
    yield from lines or [start]


def _member(text: str, start: int, name: str) -> int:
    """Return where the value of a member of the object at *start* begins.

    Raises:
        ValueError: there is no such object or member.
    """
    for position in _elements(text, start, "{}"):
        key, end = _decode(text, position)
        value = _after(text, _after(text, end, ":"))
        if key == name:
            return value
    raise ValueError(f"the object at {start} has no {name}")


def _elements(text: str, start: int, brackets: str = "[]") -> Iterator[int]:
    """Yield where each item of an array, or each key of an object, begins."""
    position = _after(text, _after(text, start, brackets[0]))
    if text[position] == brackets[1]:
        return
    while True:
        yield position
        _, position = _decode(text, position)
        if brackets == "{}":
            _, position = _decode(text, _after(text, _after(text, position, ":")))
        position = _after(text, position)
        if text[position] == brackets[1]:
            return
        position = _after(text, _after(text, position, ","))


def _after(text: str, position: int, character: str = "") -> int:
    """Return the position after spaces, and after a character that must follow them.

    Raises:
        ValueError: another character follows.
    """
    match = _SPACE.match(text, position)
    position = position if match is None else match.end()
    if not character:
        return position
    if text[position] != character:
        raise ValueError(f"no {character} at {position}")
    return position + 1
