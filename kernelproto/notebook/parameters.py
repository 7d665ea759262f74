"""Writes parameters into a notebook, as code. Pure.

The parameters go into a new cell tagged ``injected-parameters``, after the cell tagged
``parameters`` with their defaults, or else at the beginning. An earlier cell with injected
parameters is replaced. papermill uses the same tags.
"""

from __future__ import annotations

import json
import keyword
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from typing import TypeAlias, cast

from kernelproto.exceptions import InvalidParameter
from kernelproto.notebook.nodes import Node, new_code_cell

_DEFAULTS = "parameters"
_INJECTED = "injected-parameters"

Values: TypeAlias = Mapping[str, object]


def inject_parameters(nb: Node, parameters: Values, language: str) -> None:
    """Write parameters into a notebook, as a cell of code.

    Args:
        nb: the notebook, which is changed.
        parameters: names and values: None, bool, int, float, str, and lists, tuples and dicts of
            these; the keys of dicts are strings.
        language: the kernel's language: "python", "R", "julia", "javascript" or "typescript".

    Raises:
        InvalidParameter: a name or value cannot be written in this language, or the language is
            not supported.
    """
    cells: list[Node] = nb["cells"]
    source = parameters_source(parameters, language)
    cell = new_code_cell(source=source, metadata={"tags": [_INJECTED]})
    if nb["nbformat_minor"] < 5:
        del cell["id"]
    injected = _position(cells, _INJECTED)
    if injected is not None:
        cells[injected] = cell
        return
    defaults = _position(cells, _DEFAULTS)
    cells.insert(0 if defaults is None else defaults + 1, cell)


def parameters_source(parameters: Values, language: str) -> str:
    """Return the code that assigns the parameters; see ``inject_parameters``."""
    dialect = _LANGUAGES.get(language.lower())
    if dialect is None:
        known = ", ".join(sorted(_LANGUAGES))
        raise InvalidParameter(f"parameters cannot be written in {language!r}; only in {known}")
    lines = [f"{dialect.comment} Parameters"]
    for name, value in parameters.items():
        try:
            lines.append(dialect.assign(name, value))
        except InvalidParameter as error:
            raise InvalidParameter(f"parameter {name!r} in {language}: {error}") from None
    return "\n".join(lines)


def check_names(names: Iterable[str]) -> None:
    """Check names against all languages, before the kernel's language is known.

    Raises:
        InvalidParameter: a name is not valid in any language.
    """
    for name in names:
        if not any(dialect.name.fullmatch(name) for dialect in _LANGUAGES.values()):
            raise InvalidParameter(
                f"{name!r} is not a valid parameter name: use letters, digits and _, and begin "
                "with a letter or _"
            )


def tags(cell: Node) -> Sequence[str]:
    """Return the tags of a cell."""
    found: Sequence[str] = cell["metadata"].get("tags", ())
    return found


def _position(cells: Sequence[Node], tag: str) -> int | None:
    return next((index for index, cell in enumerate(cells) if tag in tags(cell)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Language:
    """The syntax of a language for JSON values, nan and infinity."""

    comment: str = "#"
    name: re.Pattern[str] = re.compile(r"[^\W\d]\w*", re.ASCII)
    reserved: frozenset[str] = frozenset()
    assignment: str = "{} = {}"
    none: str
    true: str
    false: str
    nan: str
    infinity: str
    array: str = "[{}]"
    mapping: str
    pair: str
    string: Callable[[str], str]

    def assign(self, name: str, value: object) -> str:
        if not self.name.fullmatch(name) or name in self.reserved:
            raise InvalidParameter(f"{name!r} is not a valid name")
        return self.assignment.format(name, self.literal(value))

    def literal(self, value: object) -> str:
        match value:
            case None:
                return self.none
            case bool():
                return self.true if value else self.false
            case int():
                return int.__repr__(value)
            case float():
                return self.number(float(value))
            case str():
                return self.string(str(value))
            case list() | tuple():
                values = cast("Sequence[object]", value)
                return self.array.format(", ".join(map(self.literal, values)))
            case dict():
                items = cast("dict[object, object]", value).items()
                return self.mapping.format(", ".join(starmap(self.item, items)))
            case _:
                raise InvalidParameter(f"values of type {type(value).__name__} are not supported")

    def number(self, value: float) -> str:
        if math.isnan(value):
            return self.nan
        if math.isinf(value):
            return self.infinity if value > 0 else f"-{self.infinity}"
        return repr(value)

    def item(self, key: object, value: object) -> str:
        if not isinstance(key, str):
            raise InvalidParameter(f"keys of dicts must be strings, not {key!r}")
        return self.pair.format(self.string(key), self.literal(value))


def _json_string(text: str) -> str:
    # All of these languages have JSON's escapes, except for surrogate pairs.
    return json.dumps(text, ensure_ascii=False)


def _julia_string(text: str) -> str:
    return _json_string(text).replace("$", "\\$")


_PYTHON = _Language(
    reserved=frozenset(keyword.kwlist),
    none="None",
    true="True",
    false="False",
    nan="float('nan')",
    infinity="float('inf')",
    mapping="{{{}}}",
    pair="{}: {}",
    string=repr,
)
_R = _Language(
    name=re.compile(r"[A-Za-z][\w.]*", re.ASCII),
    assignment="{} <- {}",
    none="NULL",
    true="TRUE",
    false="FALSE",
    nan="NaN",
    infinity="Inf",
    array="list({})",
    mapping="list({})",
    pair="{} = {}",
    string=_json_string,
)
_JULIA = _Language(
    none="nothing",
    true="true",
    false="false",
    nan="NaN",
    infinity="Inf",
    mapping="Dict({})",
    pair="{} => {}",
    string=_julia_string,
)
_JAVASCRIPT = _Language(
    comment="//",
    assignment="var {} = {};",
    none="null",
    true="true",
    false="false",
    nan="NaN",
    infinity="Infinity",
    mapping="{{{}}}",
    pair="{}: {}",
    string=_json_string,
)
_LANGUAGES = {
    "javascript": _JAVASCRIPT,
    "julia": _JULIA,
    "python": _PYTHON,
    "r": _R,
    "typescript": _JAVASCRIPT,
}
