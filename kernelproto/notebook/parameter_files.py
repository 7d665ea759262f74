"""Reads parameters from files of YAML or JSON."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import Any, NoReturn, cast

from kernelproto.exceptions import InvalidParameter
from kernelproto.extras import importing
from kernelproto.urls import display_url, is_url, read_url

with importing("notebook"):
    import yaml

# The most bytes of a file. YAML is read in Python, at a few hundred kilobytes a second.
_LONGEST = 2**20


def read_parameter_file(path: str | os.PathLike[str]) -> dict[str, object]:
    """Return the mapping in a file of parameters: JSON if the name ends in .json, else YAML.

    YAML is read as JSON would be: dates are text, and an unquoted ``yes``, ``off``, ``010`` or
    ``1_000`` is refused, because the versions of YAML give different values.

    Args:
        path: the file, or a URL; at most 1 MiB.

    Raises:
        OSError: the file cannot be read.
        InvalidParameter: the file has no such mapping.
    """
    if is_url(path):
        return parse_parameters(read_url(path), display_url(path))
    with open(path, "rb") as file:
        data = file.read(_LONGEST + 1)
    return parse_parameters(data, os.fspath(path))


def parse_parameters(data: bytes, name: str) -> dict[str, object]:
    """Return the parameters in the bytes of a file; see ``read_parameter_file``.

    Args:
        data: the bytes.
        name: the name of the file.
    """
    if len(data) > _LONGEST:
        raise InvalidParameter(f"{name} has more than {_LONGEST} bytes: pass the path of the data")
    try:
        text = data.decode("utf-8-sig")
        value: object = (
            json.loads(text, object_pairs_hook=_without_duplicates)
            if name.lower().endswith(".json")
            else yaml.load(text, _Loader)
        )
    except yaml.MarkedYAMLError as error:
        raise InvalidParameter(f"{name}{_described(error)}") from None
    except RecursionError:
        raise InvalidParameter(f"{name} is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InvalidParameter(f"{name}: {_first_line(error)}") from None
    if not isinstance(value, dict):
        raise InvalidParameter(f"{name} has no mapping of names to values, such as `year: 2026`")
    for key in cast("dict[object, object]", value):
        if not isinstance(key, str):
            raise InvalidParameter(f"{name}: the name {key!r} of a parameter is not text")
    return cast("dict[str, object]", value)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if (name := _duplicate(name for name, _ in pairs)) is not None:
        raise ValueError(f"{name!r} is given twice")
    return dict(pairs)


def _duplicate(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


class _Loader(yaml.SafeLoader):
    """Builds only the values of JSON, nan and infinity, and refuses ambiguous ones."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = (key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if (name := _duplicate(keys)) is not None:
            raise _problem(node, f"{name!r} is given twice")
        return super().construct_mapping(node, deep)


def _problem(node: yaml.Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=node.start_mark)


def _bool(loader: _Loader, node: yaml.ScalarNode) -> bool:
    if node.value.lower() not in ("true", "false"):
        raise _problem(node, f"write true or false instead of {node.value}, or quote the text")
    return bool(node.value.lower() == "true")


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = node.value
    if re.fullmatch(r"[-+]?(0|[1-9][0-9]*)", text):
        return int(text)
    if re.fullmatch(r"0x[0-9a-fA-F]+", text):
        return int(text, 16)
    raise _problem(node, f"write {text} as a decimal number, or quote the text")


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = node.value.lower()
    if text.lstrip("+-") in (".inf", ".nan"):
        return float(text.replace(".", ""))
    if "_" in text or ":" in text:
        raise _problem(node, f"write {text} as a decimal number, or quote the text")
    return float(text)


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(node.value)


def _refuse(loader: _Loader, node: yaml.Node) -> NoReturn:
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    raise _problem(node, f"values of the type {tag} are not supported")


for _tag, _construct in {
    "bool": _bool,
    "int": _int,
    "float": _float,
    "timestamp": _text,
    "binary": _refuse,
    "omap": _refuse,
    "pairs": _refuse,
    "set": _refuse,
}.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _construct)
_Loader.add_constructor(None, _refuse)
# PyYAML takes 1e-3, without a dot or sign, for text.
cast("Any", _Loader).add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _described(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
    return f"{place}: {error.problem or error.context}"


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
