"""Outputs of an execution, in the forms that a model and its client can use. Pure.

The text has everything in order: streams, values and tracebacks, without control sequences. Images
and HTML come besides; the text has a mark where each of them appeared.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import msgspec

from kernelproto.client.page import LastingOutput
from kernelproto.wire.content import ErrorOutput, MimeBundle, Stream

SUFFIXES = {
    "image/png": ".png",
    "image/jpeg": ".jpg",
    "image/gif": ".gif",
    "image/webp": ".webp",
    "image/svg+xml": ".svg",
    "application/pdf": ".pdf",
    "text/html": ".html",
}
# Every client can show these; the others are saved as files.
SHOWN_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")

_TEXTS = ("text/plain", "text/markdown", "text/latex", "application/json")
_CONTROL_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])"
)


class Media(msgspec.Struct, frozen=True):
    """An image, or another output that is no text.

    Attributes:
        mime_type: the MIME type.
        data: the bytes.
    """

    mime_type: str
    data: bytes

    @property
    def suffix(self) -> str:
        """The suffix of a file with this media."""
        return SUFFIXES[self.mime_type]


class Rendered(NamedTuple):
    """The outputs of an execution.

    Attributes:
        text: the text of all outputs.
        media: the images and the HTML, in the order of their marks in the text.
    """

    text: str
    media: list[Media]


class Cut(NamedTuple):
    """The beginning and the end of a text.

    Attributes:
        head: the beginning.
        tail: the end; empty if nothing is left out.
        omitted: the number of characters between them.
    """

    head: str
    tail: str
    omitted: int


def render(outputs: Sequence[LastingOutput]) -> Rendered:
    """Return the outputs as text and media."""
    media: list[Media] = []
    pieces: list[str] = []
    for name, group in groupby(outputs, _stream_name):
        if name is not None:
            text = "".join(output.text for output in group if isinstance(output, Stream))
            pieces.append(f"[stderr]\n{text}" if name == "stderr" else text)
        else:
            pieces += [_render(output, media) for output in group]
    return Rendered(plain_text("\n".join(_without_last_newline(pieces))), media)


def plain_text(text: str) -> str:
    """Return a text without control sequences; of lines that were overwritten, the last state."""
    text = _CONTROL_SEQUENCE.sub("", text).replace("\r\n", "\n")
    if "\r" in text:
        lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
        text = "\n".join(lines)
    # Lone surrogates cannot be encoded.
    return text.encode("utf-8", "backslashreplace").decode()


def cut(text: str, limit: int) -> Cut:
    """Return the beginning and the end of a text, together at most *limit* characters."""
    if len(text) <= limit:
        return Cut(text, "", 0)
    tail = limit // 2
    return Cut(text[: limit - tail], text[len(text) - tail :], len(text) - limit)


def decode_part(data: bytes, *, at_end: bool) -> str | None:
    """Return a part of a file as text; None if the part is not UTF-8.

    Args:
        data: the part; an incomplete character at the end is left out.
        at_end: whether the file ends with the part.
    """
    if b"\0" in data:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        cut_off = (
            not at_end and error.start > len(data) - 4 and error.reason == "unexpected end of data"
        )
        return data[: error.start].decode() if cut_off and error.start else None


def _stream_name(output: LastingOutput) -> str | None:
    return output.name if isinstance(output, Stream) else None


def _without_last_newline(pieces: Iterable[str]) -> Iterable[str]:
    return (piece.removesuffix("\n") for piece in pieces if piece)


def _render(output: LastingOutput, media: list[Media]) -> str:
    match output:
        case ErrorOutput(ename, evalue, traceback):
            return "\n".join(traceback) or f"{ename}: {evalue}"
        case MimeBundle(data):
            return _render_bundle(data, media)
        case _:
            return ""


def _render_bundle(data: Mapping[str, Any], media: list[Media]) -> str:
    text = next((_as_text(data[mime_type]) for mime_type in _TEXTS if mime_type in data), "")
    for mime_type in SUFFIXES:
        source = data.get(mime_type)
        if not isinstance(source, str):
            continue
        content = _decode(mime_type, source)
        if content is None:
            return f"{text}\n[an output of type {mime_type} that cannot be decoded]"
        media.append(Media(mime_type, content))
        mark = f"[{'table or page' if mime_type == 'text/html' else 'image'} {len(media)}]"
        # The text of a figure only states the size; the text of a table is useful.
        return f"{text}\n{mark}".lstrip("\n") if mime_type == "text/html" else mark
    return text


def _as_text(data: object) -> str:
    if isinstance(data, str):
        return data
    # Unlike dumps(), which would block the other threads, iterencode() makes many small pieces.
    return "".join(json.JSONEncoder(ensure_ascii=False).iterencode(data))


def _decode(mime_type: str, source: str) -> bytes | None:
    if mime_type in ("image/svg+xml", "text/html"):
        return source.encode("utf-8", "backslashreplace")
    try:
        return base64.b64decode("".join(source.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
