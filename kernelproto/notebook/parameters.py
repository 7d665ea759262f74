"""Parameters: values from outside, written into a notebook as code. Pure.

They go into a cell of their own, tagged ``injected-parameters``, behind the one tagged
``parameters``, which has their defaults; without such a cell they come first. A notebook that has
been given parameters before is given others in their place. Other tools do the same.
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
    """Put parameters into a notebook.

    Args:
        nb: the notebook, which is changed.
        parameters: names and values: None, bool, int, float, str, and lists, tuples and dicts of
            them; the keys of dicts are strings.
        language: that of the kernel: "python", "R", "julia", "javascript" or "typescript".

    Raises:
        InvalidParameter: a name or a value cannot be written in this language, or this language is
            none of them.
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
    """Return the code that gives names their values; arguments and exceptions as above."""
    dialect = _LANGUAGES.get(language.lower())
    if dialect is None:
        known = ", ".join(sorted(_LANGUAGES))
        raise InvalidParameter(f"parameters cannot be written in {language!r}, only in {known}")
    lines = [f"{dialect.comment} Parameters"]
    for name, value in parameters.items():
        try:
            lines.append(dialect.assign(name, value))
        except InvalidParameter as error:
            raise InvalidParameter(f"the parameter {name!r}, in {language}: {error}") from None
    return "\n".join(lines)


def check_names(names: Iterable[str]) -> None:
    """Refuse names that parameters have in no language, before it is known which one it is.

    Raises:
        InvalidParameter: it is about the first of them.
    """
    for name in names:
        if not any(dialect.name.fullmatch(name) for dialect in _LANGUAGES.values()):
            raise InvalidParameter(
                f"no parameter can be called {name!r}: a name has letters, digits and _, "
                "and begins with no digit"
            )


def tags(cell: Node) -> Sequence[str]:
    """Return the tags of a cell."""
    found: Sequence[str] = cell["metadata"].get("tags", ())
    return found


def _position(cells: Sequence[Node], tag: str) -> int | None:
    return next((index for index, cell in enumerate(cells) if tag in tags(cell)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Language:
    """How a language writes what JSON can say, and what floats can be."""

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
            raise InvalidParameter(f"no parameter can be called {name!r}")
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
                raise InvalidParameter(f"there is no literal for a {type(value).__name__}")

    def number(self, value: float) -> str:
        if math.isnan(value):
            return self.nan
        if math.isinf(value):
            return self.infinity if value > 0 else f"-{self.infinity}"
        return repr(value)

    def item(self, key: object, value: object) -> str:
        if not isinstance(key, str):
            raise InvalidParameter(f"the keys of a dict must be strings, not {key!r}")
        return self.pair.format(self.string(key), self.literal(value))


def _json_string(text: str) -> str:
    # All of these languages know its escapes, save for the pairs of surrogates.
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
