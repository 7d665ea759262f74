"""JSON: strict when written, tolerant when read.

Kernels send NaN and Infinity, lone surrogates, bytes that are not valid UTF-8, null where an object
or a string belongs and numbers where a string belongs. msgspec refuses these; then the standard
library's parser reads the same bytes again. This takes no time for valid messages.
"""

from __future__ import annotations

import json
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar, cast

import msgspec

from kernelproto.exceptions import LocalProtocolError, MalformedMessage

T = TypeVar("T")

# msgspec before 0.22 raises SystemError for an integer beyond the largest float.
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError, SystemError)
"""The errors of the strict readers."""


class _StrictReaders(dict[type[Any], Callable[[bytes | memoryview], Any]]):
    def __missing__(self, kind: type[Any]) -> Callable[[bytes | memoryview], Any]:
        self[kind] = read = msgspec.json.Decoder(kind).decode
        return read


def _plain(value: object) -> object:
    """Convert a value that msgspec refuses, such as a subclass of int or float (numpy)."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[object, object]", value))
    if isinstance(value, str):
        return "".join(value)
    if isinstance(value, numbers.Integral):
        return operator.index(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"a {type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_plain)
strict_readers = _StrictReaders()
"""msgspec's readers, by kind. ``decode_tolerantly`` reads the texts that they refuse."""


def encode(value: object) -> bytes:
    """Write *value*, a Struct or a mapping, as a JSON object.

    NaN and infinities become null, as in JavaScript. Tuples and sets become arrays, bytes become
    text in base64, dates text in ISO 8601, and numbers of other libraries plain numbers.

    Raises:
        LocalProtocolError: *value* is not a JSON object, or contains a value without a JSON form.
    """
    try:
        data = _encoder.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise LocalProtocolError(f"cannot be written as JSON: {error}") from None
    if not data.startswith(b"{"):
        raise LocalProtocolError(f"expected a JSON object, not a {type(value).__name__}")
    return data


def decode(data: bytes | memoryview, kind: type[T]) -> T:
    """Read a JSON object as *kind*, a Struct type or ``dict``, despite common faults of kernels.

    Bytes that are not valid UTF-8 become U+FFFD, as in jupyter_client.

    Raises:
        MalformedMessage: *data* cannot be read as a *kind*.
    """
    read: Callable[[bytes | memoryview], T] = strict_readers[kind]
    try:
        return read(data)
    except UNREADABLE:
        return decode_tolerantly(data, kind)


def convert(value: object, kind: type[T]) -> T:
    """Convert values that were read from JSON to *kind*, despite common faults of kernels.

    Raises:
        MalformedMessage: *value* cannot be read as a *kind*.
    """
    try:
        return msgspec.convert(_repaired(value, kind), kind, strict=False)
    except UNREADABLE as error:
        raise _unreadable(kind, error) from None


def decode_tolerantly(data: bytes | memoryview, kind: type[T]) -> T:
    """Read a JSON object that the strict reader of *kind* has refused.

    Raises:
        MalformedMessage: *data* cannot be read as a *kind*.
    """
    try:
        value = _parse(bytes(data))
    except UNREADABLE as error:
        raise _unreadable(kind, error) from None
    return convert({} if value is None else value, kind)


def _unreadable(kind: type[Any], error: Exception) -> MalformedMessage:
    return MalformedMessage(f"cannot be read as {kind.__name__}: {error}")


def _parse(data: bytes) -> Any:
    try:
        return json.loads(data)
    except UnicodeDecodeError:
        return json.loads(data.decode(errors="replace"))


def repair_texts(frames: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
    """Return JSON frames as valid UTF-8: themselves, or copies with U+FFFD for invalid bytes."""
    try:
        if all(map(bytes.isascii, cast("Sequence[bytes]", frames))):  # nearly always, and fast
            return frames
    except TypeError:
        pass  # one is a memoryview
    return [_repair_text(frame) for frame in frames]


def _repair_text(frame: bytes | memoryview) -> bytes | memoryview:
    try:
        str(frame, "utf-8")
    except UnicodeDecodeError:
        return str(frame, "utf-8", "replace").encode()
    return frame


def _repaired(value: Any, kind: Any) -> Any:
    """Convert numbers to strings where strings belong; drop nulls, for the defaults of Structs.

    Unknown fields are dropped as well: msgspec refuses a name with a lone surrogate.
    """
    if kind is str and isinstance(value, int | float):
        return str(value)
    if not isinstance(value, dict) or not _is_struct(kind):
        return cast("object", value)
    items = cast("dict[str, object]", value)
    return {
        field.encode_name: _repaired(item, field.type)
        for field in msgspec.structs.fields(kind)
        if (item := items.get(field.encode_name)) is not None
    }


def _is_struct(kind: Any) -> TypeGuard[type[msgspec.Struct]]:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)
