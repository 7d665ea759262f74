"""Large JSON: reads a text of any size in small steps. Pure.

While msgspec or json reads a text, no other code of the program runs, in no other thread either.
The time depends on the number of values: a megabyte of empty lists takes a hundred times as long as
a megabyte of text. So a large content is read in steps, and the event loop runs between them.

Theory of operation
===================

The reader looks for the marks of the structure: strings, brackets and commas, and remembers the
open containers. When the unread text of the innermost container has the size of a part, msgspec
reads the text before the last comma as a small object or array, and the reader adds the items to
the container. A container that is smaller than a part is read together with its neighbours.

The policy. A text with few values is read at once. Otherwise a step handles 64 KiB of text or 2,000
marks. A string of any length is read in one step, in about a millisecond for each megabyte. A text
with more than 900 levels is refused; msgspec and json have similar limits.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from itertools import islice
from types import GenericAlias
from typing import Any, TypeVar, cast, get_args, get_origin

import msgspec

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire import tolerant_json

T = TypeVar("T")

LARGE_BYTES = 2**18
"""Contents above this size are read in steps, if they have many values."""

# msgspec reads these in less than 40 ms, and ten times as fast as the steps do.
_FEW_VALUES = 30_000

# Nearly every value of a text comes after one of these.
_VALUE_MARKS = (b",", b"[", b"{")

_PART_BYTES = 2**16
_MARKS = 2000
_ITEMS = 5000
_MOST_LEVELS = 900

# The keys of a container without kept items.
_NONE: frozenset[str] = frozenset()

_WHITESPACE = b" \t\n\r"
_QUOTE, _COMMA = b'",'
_OBJECT, _ARRAY = b"{["
_ENDS = {_OBJECT: ord("}"), _ARRAY: ord("]")}

# A short string, the beginning of any other string, a bracket or a comma.
_MARK = re.compile(rb'"[^"\\]{0,200}+"|[",\[\]{}]')
# The beginning of the errors of parts.
_PREFIX = re.compile("cannot be read as [^:]*: ")
# Characters of a string; the group is the end of the string.
_IN_STRING = re.compile(rb'[^"\\]{0,65536}+(?:\\.|("))?', re.DOTALL)


def is_large(data: bytes | memoryview) -> bool:
    """Return whether a text should be read in steps; the text is not copied as a whole."""
    if len(data) <= LARGE_BYTES:
        return False
    text = memoryview(data)
    values = 0
    for start in range(0, len(text), _PART_BYTES):
        part = bytes(text[start : start + _PART_BYTES])
        # A search is five times as fast as a count, and few parts of a long string have a mark.
        values += sum(part.count(mark) for mark in _VALUE_MARKS if mark in part)
        if values > _FEW_VALUES:
            return True
    return False


def read_in_steps(data: bytes | memoryview, kind: type[T]) -> Generator[None, None, T]:
    """Read a JSON object as ``tolerant_json.decode`` does, and yield after each step.

    Args:
        data: the text.
        kind: a Struct type or ``dict``.

    Raises:
        MalformedMessage: *data* cannot be read as a *kind*.
    """
    try:
        return (yield from _read(bytes(data), kind))
    except MalformedMessage as error:
        reason = _PREFIX.sub("", str(error))
        raise MalformedMessage(f"cannot be read as {kind.__name__}: {reason}") from None


def _read(data: bytes, kind: type[T]) -> Generator[None, None, T]:
    if kind is dict:
        return cast("T", (yield from _Reader(data).read()))
    known = msgspec.structs.fields(cast("type[msgspec.Struct]", kind))
    fields = yield from _Reader(data, frozenset(field.encode_name for field in known)).read()
    small: dict[str, Any] = {}
    containers: dict[str, Any] = {}
    for field in known:
        value = fields.get(field.encode_name)
        if value is not None and get_origin(field.type) in (dict, list):
            containers[field.name] = yield from _converted(value, field.type)
        else:
            small[field.encode_name] = value
    struct = cast("msgspec.Struct", tolerant_json.convert(small, kind))
    return cast("T", msgspec.structs.replace(struct, **containers))


class _Container:
    """An object or array without a known end.

    Attributes:
        bracket: the opening bracket.
        begin: the position of that bracket.
        start: the position where the unread text starts.
        comma: the position of the last comma; that of the bracket before the first comma.
        items: the items that were read; None while all the text is unread.
        key: the key in the enclosing object, once there are items.
        follows_container: whether the unread text starts after a container that was read.
        keys: the keys of the kept values; None for all items.
    """

    __slots__ = ("begin", "bracket", "comma", "follows_container", "items", "key", "keys", "start")

    def __init__(self, bracket: int, begin: int) -> None:
        self.bracket = bracket
        self.begin = begin
        self.start = begin + 1
        self.comma = begin
        self.items: dict[str, Any] | list[Any] | None = None
        self.key = ""
        self.follows_container = False
        self.keys: frozenset[str] | None = None

    def add(self, items: dict[str, Any] | list[Any]) -> None:
        """Add items to those that were read, unless their values are not kept."""
        if self.keys == _NONE:
            return
        if isinstance(self.items, dict):
            kept = cast("dict[str, Any]", items)
            if self.keys is not None:
                kept = {key: kept[key] for key in self.keys.intersection(kept)}
            self.items.update(kept)
        else:
            cast("list[Any]", self.items).extend(items)

    def add_container(self, other: _Container) -> None:
        """Add a container that was read as an item."""
        self.add({other.key: other.items} if self.bracket == _OBJECT else [other.items])


class _Reader:
    """Reads one JSON object.

    Args:
        data: the text.
        keys: the keys of the kept values of the object, so that unknown ones take no memory and no
            time of the garbage collector; None for all keys.
    """

    def __init__(self, data: bytes, keys: frozenset[str] | None = None) -> None:
        self._data = data
        self._keys = keys
        self._open: list[_Container] = []

    def read(self) -> Generator[None, None, dict[str, Any]]:
        """Return the object; yield after each step."""
        data, position, marks = self._data, 0, 0
        while True:
            for mark in _MARK.finditer(data, position):
                marks += 1
                if marks % _MARKS == 0:
                    yield
                place, end = mark.span()
                kind = data[place]
                if kind == _QUOTE:
                    if end - place > 1:
                        continue
                    position = yield from self._end_of_string(end)
                    break
                if kind == _COMMA:
                    if self._note_comma(place):
                        yield
                elif kind in _ENDS:
                    self._note_beginning(kind, place)
                else:
                    read = self._note_end(kind, place)
                    if not self._open:
                        return self._whole(read, end)
                    if read is not None:
                        yield
            else:
                raise MalformedMessage("the text is incomplete")

    def _end_of_string(self, position: int) -> Generator[None, None, int]:
        """Return the position after a string with characters from *position*."""
        start = position
        for number, found in enumerate(_IN_STRING.finditer(self._data, position), 1):
            position = found.end()
            if found[1]:
                break
            if number % _MARKS == 0 or position - start > _PART_BYTES:
                start = position
                yield
        return position  # of the whole text, if the string has no end

    def _note_comma(self, place: int) -> bool:
        """Take note of a comma; return whether a part was read."""
        if not self._open:
            raise MalformedMessage("the text is not an object")
        container = self._open[-1]
        container.comma = place
        if place - container.start < _PART_BYTES:
            return False
        self._prepare_items()
        self._read_until(container, place)
        return True

    def _note_beginning(self, bracket: int, place: int) -> None:
        if len(self._open) == _MOST_LEVELS:
            raise MalformedMessage(f"the text has more than {_MOST_LEVELS} levels")
        if not self._open and (bracket != _OBJECT or self._data[:place].strip(_WHITESPACE)):
            raise MalformedMessage("the text is not an object")
        self._open.append(_Container(bracket, place))

    def _note_end(self, bracket: int, place: int) -> _Container | None:
        """Note the end of a container; return the container if read."""
        if not self._open or _ENDS[self._open[-1].bracket] != bracket:
            raise MalformedMessage("an opening bracket is missing")
        container = self._open[-1]
        if container.items is None and len(self._open) > 1:
            del self._open[-1]
            return None
        self._prepare_items()
        is_empty = container.start == container.begin + 1
        if not is_empty or self._data[container.start : place].strip(_WHITESPACE):
            self._read_until(container, place)
        del self._open[-1]
        if self._open:
            around = self._open[-1]
            around.add_container(container)
            around.start = place + 1
            around.follows_container = True
        return container

    def _whole(self, root: _Container | None, end: int) -> dict[str, Any]:
        if self._data[end:].strip(_WHITESPACE):
            raise MalformedMessage("the object is followed by other text")
        assert root is not None
        return cast("dict[str, Any]", root.items)

    def _prepare_items(self) -> None:
        """Let all open containers have items, which were read from the text before the next one."""
        around: _Container | None = None
        for container in self._open:
            if container.items is None:
                container.items = {} if container.bracket == _OBJECT else []
                if around is not None:
                    if around.comma >= around.start:
                        self._read_until(around, around.comma)
                    container.key = self._key(around, container.begin)
                container.keys = self._kept_keys(around, container.key)
            around = container

    def _kept_keys(self, around: _Container | None, key: str) -> frozenset[str] | None:
        """Return the keys of the values that a container keeps, from the enclosing container."""
        if around is None:
            return self._keys
        is_kept = around.keys is None or key in around.keys
        return None if is_kept else _NONE

    def _key(self, around: _Container, end: int) -> str:
        """Return the key of the container at *end*, the text before which has no other item."""
        text = self._data[around.start : end]
        if not around.follows_container:
            if around.bracket == _ARRAY and not text.strip(_WHITESPACE):
                return ""
            if around.bracket == _OBJECT:
                (key,) = _read_object(b"%bnull" % text)
                return key
        raise MalformedMessage("a comma or a key is missing")

    def _read_until(self, container: _Container, end: int) -> None:
        """Add the items in the unread text before *end*, the place of a comma or of the bracket."""
        text = self._data[container.start : end]
        container.start = end + 1
        if container.follows_container:
            container.follows_container = False
            text = text.lstrip(_WHITESPACE)
            if not text:
                return
            if text[0] != _COMMA:
                raise MalformedMessage("a comma is missing")
            text = text[1:]
        if container.bracket == _OBJECT:
            items = _read_object(text)
        else:
            items = _read_object(b'"":[%b]' % text)[""]
        if not items:
            raise MalformedMessage("an item is missing")
        container.add(items)


def _read_object(items: bytes) -> dict[str, Any]:
    """Read the items of an object."""
    return cast("dict[str, Any]", tolerant_json.decode(b"{%b}" % items, dict))


def _converted(value: Any, kind: Any) -> Generator[None, None, Any]:
    """Convert a dict or a list to the type of the field; yield after each step.

    A dict of any values is returned unchanged, because the items need no conversion.
    """
    origin, inner = get_origin(kind), get_args(kind)[-1]
    if not isinstance(value, origin):
        raise MalformedMessage(f"a {type(value).__name__} is in the place of a {origin.__name__}")
    if inner is Any:
        return cast("object", value)
    if origin is list:
        return (yield from _converted_list(cast("list[object]", value), inner))
    converted: dict[str, object] = {}
    items = iter(cast("dict[str, object]", value).items())
    while batch := dict(islice(items, _ITEMS)):
        values = yield from _converted_list(list(batch.values()), inner)
        converted.update(zip(batch, values, strict=True))
    return converted


def _converted_list(values: list[object], inner: Any) -> Generator[None, None, list[object]]:
    converted: list[object] = []
    for start in range(0, len(values), _ITEMS):
        batch = values[start : start + _ITEMS]
        if get_args(inner) and get_origin(inner) is dict:
            for value in batch:
                converted.append((yield from _converted(value, inner)))
        else:
            converted += tolerant_json.convert(
                batch, cast("type[list[object]]", GenericAlias(list, inner))
            )
        yield
    return converted
