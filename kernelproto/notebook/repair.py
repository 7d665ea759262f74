"""Repairs notebooks that break the rules of nbformat 4 where an execution does not need them. Pure.

Programs write notebooks with extra keys, without ids, or with outputs that no schema allows, and
Jupyter opens them. An execution needs cells with a type and a source; other faults are repaired.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeGuard, cast

from kernelproto.notebook.nodes import schema_errors

_TYPES = ("code", "markdown", "raw")
_OUTPUTS = ("stream", "display_data", "execute_result", "error")
_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")

# The oldest version with ids, and the newest version.
_WITH_IDS, _NEWEST = 5, 5

# Each repair can reveal other faults: a removed key may be required.
_MOST_ROUNDS = 10

_Json = dict[str, Any]


def repair(nb: _Json) -> list[str]:
    """Repair a notebook in place; return the repairs, each in a few words.

    Parts that an execution needs are not invented: a cell without a type or a source is left
    unchanged, so that the validation names the cell.

    Args:
        nb: the JSON of a notebook of nbformat 4.
    """
    if not isinstance(nb.get("cells"), list):
        return []
    repairs = _Repairs()
    if not isinstance(nb.get("nbformat_minor"), int):
        nb["nbformat_minor"] = _NEWEST
        repairs.add("added nbformat_minor")
    minor = min(cast(int, nb["nbformat_minor"]), _NEWEST)
    cells = cast("list[object]", nb["cells"])
    nb["cells"] = []
    _fix(nb, None, minor, repairs)
    nb["cells"] = cells
    ids: set[str] = set()
    for number, cell in enumerate(cells, 1):
        if _is_cell(cell):
            repairs.place = f"cell {number}"
            _fix_id(cell, number, ids, repairs, has_ids=minor >= _WITH_IDS)
            _fix_outputs(cell, minor, repairs)
            _fix(cell, f"{cell['cell_type']}_cell", minor, repairs)
    return repairs.notes


class _Repairs:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.place = ""

    def add(self, words: str) -> None:
        self.notes.append(f"{self.place}: {words}" if self.place else words)


def _is_cell(cell: object) -> TypeGuard[_Json]:
    if not isinstance(cell, dict):
        return False
    source: object = cast(_Json, cell).get("source")
    lines = cast("list[object]", source) if isinstance(source, list) else [source]
    return cast(_Json, cell).get("cell_type") in _TYPES and all(
        isinstance(line, str) for line in lines
    )


def _fix_id(cell: _Json, number: int, ids: set[str], repairs: _Repairs, *, has_ids: bool) -> None:
    old = cell.get("id")
    if not has_ids:
        if cell.pop("id", None) is not None:
            repairs.add("removed the id")
        return
    if isinstance(old, str) and _ID.fullmatch(old) and old not in ids:
        ids.add(old)
        return
    new = f"cell-{number}"
    while new in ids:
        new += "-"
    ids.add(new)
    cell["id"] = new
    repairs.add("replaced the id" if old is not None else "added an id")


def _fix_outputs(cell: _Json, minor: int, repairs: _Repairs) -> None:
    """Drop outputs that nbformat does not allow; an execution replaces them anyway."""
    if cell["cell_type"] != "code" or not isinstance(cell.get("outputs"), list):
        return
    outputs = cast("list[object]", cell["outputs"])
    allowed = [output for output in outputs if _is_output(output, minor)]
    if len(allowed) < len(outputs):
        repairs.add(f"dropped {len(outputs) - len(allowed)} invalid outputs")
    cell["outputs"] = allowed


def _is_output(output: object, minor: int) -> bool:
    if not isinstance(output, dict):
        return False
    kind: object = cast(_Json, output).get("output_type")
    errors = schema_errors(cast(_Json, output), str(kind), minor) if kind in _OUTPUTS else None
    return errors is not None and next(errors, None) is None


def _fix(value: _Json, definition: str | None, minor: int, repairs: _Repairs) -> None:
    for _ in range(_MOST_ROUNDS):
        errors = list(schema_errors(value, definition, minor))
        fixed = [_fix_error(value, error, repairs) for error in errors]
        if not any(fixed):
            return


def _fix_error(value: _Json, error: Any, repairs: _Repairs) -> bool:
    """Repair one fault; return whether that was possible."""
    path = list(error.absolute_path)
    try:
        target = _at(value, path)
    except (KeyError, IndexError):  # another repair has removed this part
        return False
    match error.validator:
        case "additionalProperties":
            extra = sorted(set(target) - set(error.schema.get("properties", ())))
            for key in extra:
                del target[key]
            repairs.add(f"removed {', '.join(map(repr, extra))}")
            return bool(extra)
        case "required":
            return _fix_required(value, path, target, error.validator_value, repairs)
        case _ if not path:
            return False
        case _:
            return _replace(value, path, target, repairs)


_DEFAULTS: dict[str, Callable[[_Json], object]] = {
    "outputs": lambda parent: [],
    "execution_count": lambda parent: None,
    "metadata": lambda parent: {},
    "display_name": lambda parent: str(parent.get("name", "")),
}


def _fix_required(
    value: _Json, path: list[Any], target: _Json, required: list[str], repairs: _Repairs
) -> bool:
    missing = [name for name in required if name not in target]
    if not all(name in _DEFAULTS for name in missing):
        return bool(path) and _remove(value, path, repairs)
    for name in missing:
        target[name] = _DEFAULTS[name](target)
        repairs.add(f"added {name!r}")
    return bool(missing)


def _replace(value: _Json, path: list[Any], target: object, repairs: _Repairs) -> bool:
    if path[-1] == "tags" and isinstance(target, str):
        _at(value, path[:-1])["tags"] = [target]
        repairs.add("made a list of 'tags'")
        return True
    return _remove(value, path, repairs)


def _remove(value: _Json, path: list[Any], repairs: _Repairs) -> bool:
    if path[0] in ("cell_type", "source"):
        return False
    del _at(value, path[:-1])[path[-1]]
    repairs.add(f"removed {'.'.join(map(str, path))!r}")
    return True


def _at(value: Any, path: list[Any]) -> Any:
    for key in path:
        value = value[key]
    return value
