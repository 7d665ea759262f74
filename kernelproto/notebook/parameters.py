"""Writes parameters into a notebook, as code. Pure.

The parameters go into a new cell tagged ``injected-parameters``, after the cell tagged
``parameters`` with their defaults, or else at the beginning. An earlier cell with injected
parameters is replaced. papermill uses the same tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias, cast

from kernelproto.exceptions import InvalidParameter
from kernelproto.notebook.languages import LANGUAGES
from kernelproto.notebook.nodes import Node, new_cell, tags

DEFAULTS = "parameters"
INJECTED = "injected-parameters"

# Python's parser allows no more than 200 levels of brackets.
_MOST_LEVELS = 100

# More would be data, which belongs in a file. The values of a YAML file can refer to each other, so
# that a short file has many.
_MOST_VALUES = 100_000

Values: TypeAlias = Mapping[str, object]


def inject_parameters(nb: Node, parameters: Values, language: str) -> None:
    """Write parameters into a notebook, as a cell of code.

    Args:
        nb: the notebook, which is changed.
        parameters: names and values: None, bool, int, float, str, and lists, tuples and dicts of
            these; the keys of dicts are strings.
        language: the kernel's language: "python", "R", "julia", "scala", "bash", "C#", "F#",
            "powershell", "matlab", "javascript" or "typescript".

    Raises:
        InvalidParameter: a name or value cannot be written in this language, or the language is
            not supported.
    """
    cells: list[Node] = nb["cells"]
    cell = new_cell(nb, "code", parameters_source(parameters, language), INJECTED)
    injected = tagged(cells, INJECTED)
    if injected is not None:
        cells[injected] = cell
        return
    defaults = tagged(cells, DEFAULTS)
    cells.insert(0 if defaults is None else defaults + 1, cell)


def parameters_source(parameters: Values, language: str) -> str:
    """Return the code that assigns the parameters; see ``inject_parameters``."""
    dialect = LANGUAGES.get(language.lower())
    if dialect is None:
        known = ", ".join(sorted({known.title for known in LANGUAGES.values()}))
        raise InvalidParameter(f"parameters cannot be written in {language!r}; only in {known}")
    lines = [f"{dialect.comment} Parameters"]
    for name, value in parameters.items():
        try:
            _check_size(value)
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
        if not any(dialect.name.fullmatch(name) for dialect in LANGUAGES.values()):
            raise InvalidParameter(
                f"{name!r} is not a valid parameter name: use letters, digits and _, and begin "
                "with a letter or _"
            )


def tagged(cells: Sequence[Node], tag: str) -> int | None:
    """Return the position of the first cell with a tag."""
    return next((index for index, cell in enumerate(cells) if tag in tags(cell)), None)


def _check_size(value: object) -> None:
    found = 0
    unread = [(value, 0)]
    while unread:
        value, level = unread.pop()
        found += 1
        if level > _MOST_LEVELS or found > _MOST_VALUES:
            raise InvalidParameter(
                f"the value has more than {_MOST_LEVELS} levels or {_MOST_VALUES} items"
            )
        if isinstance(value, list | tuple):
            unread += [(item, level + 1) for item in cast("Sequence[object]", value)]
        elif isinstance(value, dict):
            unread += [(item, level + 1) for item in cast("dict[object, object]", value).values()]
