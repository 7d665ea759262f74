"""Encodes a notebook file in small steps, for a thread beside the event loop. Pure.

While Python encodes a value in one step, no other thread runs. So large cells and texts are encoded
in parts, and the event loop waits for one part at most. msgspec is a hundred times as fast as json,
which has nbformat's formatting.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, cast

import msgspec

# The largest text that is encoded in one step, in characters.
_STEP = 2**20

# How many words of JSON, such as a line of text, are written in one step.
_CHUNKS = 2**10

# Containers below these levels belong to one message of the kernel, which bounds their size. The
# longest ways down are: cells, cell, outputs, output, data, type; and metadata, "widgets", type,
# "state", widget, "state", outputs, output, text.
_LEVELS = 10

# The notebook and the list of cells are always encoded in parts.
_ALWAYS_IN_PARTS = 2


def encode(nb: Mapping[str, Any]) -> memoryview:
    """Return the bytes of a notebook file, without a check.

    The file equals that of ``files.dump``, except for the formatting.

    Args:
        nb: the notebook, or a snapshot.
    """
    buffer = bytearray()  # which is not copied at the end
    for part in _parts(nb, 0):
        buffer += part
    buffer += b"\n"
    return memoryview(buffer)


def encode_formatted(nb: Mapping[str, Any]) -> memoryview:
    """Return the bytes of a notebook file with the formatting of nbformat, which takes long.

    Args:
        nb: the notebook, in the form of files: texts are lists of lines.
    """
    encoder = json.JSONEncoder(indent=1, sort_keys=True, separators=(",", ": "), ensure_ascii=False)
    buffer = bytearray()
    chunks = encoder.iterencode(nb)
    while some := "".join(islice(chunks, _CHUNKS)):
        # Lone surrogates, which UTF-8 lacks, are written as JSON escapes.
        buffer += some.encode(errors="backslashreplace")
    buffer += b"\n"
    return memoryview(buffer)


def lines_of(text: str) -> list[str]:
    """Return the lines of a text with their ends, which are split off in steps."""
    lines: list[str] = []
    start = 0
    while start < len(text):
        end = text.find("\n", start + _STEP) + 1 or len(text)
        lines += text[start:end].splitlines(True)
        start = end
    return lines


def _parts(value: object, level: int) -> Iterator[bytes]:
    if level >= _ALWAYS_IN_PARTS and _size(value, level) <= _STEP:
        yield _encode(value)
    elif isinstance(value, str):
        yield b'"'
        for start in range(0, len(value), _STEP):
            yield _encode(value[start : start + _STEP])[1:-1]
        yield b'"'
    elif isinstance(value, dict):
        separator = b"{\n"
        # A list, because the notebook may change meanwhile.
        for key, item in list(cast("dict[str, object]", value).items()):
            yield separator + _encode(key) + b": "
            yield from _parts(item, level + 1)
            separator = b",\n"
        yield b"\n}" if separator == b",\n" else b"{}"
    elif isinstance(value, list):
        separator = b"["
        for batch in _batches(list(cast("list[object]", value)), level + 1):
            yield separator
            if len(batch) == 1:
                yield from _parts(batch[0], level + 1)
            else:
                yield _encode(batch)[1:-1]
            separator = b","
        yield b"]" if separator == b"," else b"[]"
    else:
        yield _encode(value)


def _batches(items: list[object], level: int) -> Iterator[list[object]]:
    """Yield the items in lists that are encoded in one step, or have one item."""
    batch: list[object] = []
    total = 0
    for item in items:
        size = _size(item, level)
        if batch and total + size > _STEP:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size
    if batch:
        yield batch


def _size(value: object, level: int) -> int:
    """Return the number of characters in the texts of a value, counted a little beyond a step."""
    if isinstance(value, str):
        return len(value)
    if level >= _LEVELS:
        return 0
    if isinstance(value, dict):
        items = list(cast("dict[str, object]", value).values())
    elif isinstance(value, list) and not _is_numeric(items := cast("list[object]", value)):
        items = list(items)
    else:
        return 0
    total = 0
    for item in items:
        total += _size(item, level + 1)
        if total > _STEP:
            break
    return total


def _is_numeric(items: list[object]) -> bool:
    return bool(items) and isinstance(items[0], int | float)


def _encode(value: object) -> bytes:
    try:
        return msgspec.json.format(msgspec.json.encode(value), indent=1)
    except (TypeError, ValueError):  # a lone surrogate, or a value that JSON lacks
        return json.dumps(value, indent=1).encode()
