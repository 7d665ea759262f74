"""Typed access to the functions of nbformat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias, cast

from kernelproto.exceptions import MalformedMessage
from kernelproto.extras import importing

with importing("notebook"):
    import nbformat
    from nbformat import v4, validator

# nbformat converts and writes recursively, which fails at about 500 levels.
_MOST_LEVELS: Final = 300

# A NotebookNode: a dict with attribute access. Dicts assigned to its keys become NotebookNodes.
Node: TypeAlias = Any

_nbformat = cast("Any", nbformat)
_v4 = cast("Any", v4)

to_node: Callable[[object], Node] = _nbformat.from_dict
to_notebook: Callable[[object], Node] = _v4.to_notebook
reads: Callable[..., Node] = _nbformat.reads
validate: Callable[..., None] = _nbformat.validate
split_lines: Callable[[Node], Node] = _v4.rwbase.split_lines
strip_transient: Callable[[Node], Node] = _v4.rwbase.strip_transient


def new_cell(nb: Node, kind: Literal["code", "markdown"], source: str, tag: str) -> Node:
    """Return a new cell for a notebook.

    Args:
        nb: the notebook; before nbformat 4.5 cells have no ids.
        kind: the type of the cell.
        source: the source.
        tag: the only tag.
    """
    new = _v4.new_code_cell if kind == "code" else _v4.new_markdown_cell
    cell: Node = new(source=source, metadata={"tags": [tag]})
    if nb["nbformat_minor"] < 5:
        del cell["id"]
    return cell


def tags(cell: Node) -> Sequence[str]:
    """Return the tags of a cell."""
    found: Sequence[str] = cell["metadata"].get("tags", ())
    return found


def schema_errors(value: object, definition: str | None, minor: int) -> Iterator[Any]:
    """Yield the errors of jsonschema in a part of a notebook.

    Args:
        value: the JSON.
        definition: the name of the definition in the schema; None means the whole notebook.
        minor: the minor version of nbformat 4.
    """
    schema = None if definition is None else {"$ref": f"#/definitions/{definition}"}
    # The default validator, fastjsonschema, does not tell the places of the errors.
    checker = cast("Any", validator).get_validator(4, minor, name="jsonschema")
    yield from checker.iter_errors(value, schema)


def is_valid(nb: object) -> bool:
    """Return whether the JSON of a notebook of nbformat 4 matches the schema, with unique ids."""
    try:
        # Faster than schema_errors: the default validator is fastjsonschema.
        if next(iter(cast("Any", validator).iter_validate(nb)), None) is not None:
            return False
        ids = [cell["id"] for cell in cast("Any", nb)["cells"] if "id" in cell]
        return len(set(ids)) == len(ids)
    except Exception:  # without the version, for example
        return False


def check_depth(*values: object) -> None:
    """Check that values are nested less deeply than nbformat's limit.

    Raises:
        MalformedMessage: a value is nested too deeply.
    """
    containers: list[object] = list(values)
    for _ in range(_MOST_LEVELS):
        if not containers:
            return
        containers = [
            item
            for container in containers
            for item in _items(container)
            if isinstance(item, dict | list)
        ]
    raise MalformedMessage(
        f"cannot be kept in a notebook: it has more than {_MOST_LEVELS} levels of JSON"
    )


def _items(container: object) -> Iterable[object]:
    if isinstance(container, dict):
        return cast("dict[str, object]", container).values()
    return cast("list[object]", container) if isinstance(container, list) else ()
