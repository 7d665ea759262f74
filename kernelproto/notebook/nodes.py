"""What is needed of nbformat, whose functions say little about their types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import nbformat
from nbformat import v4

# A NotebookNode: a dict whose keys are attributes as well. Dicts that are put in become such.
Node: TypeAlias = Any

_nbformat = cast("Any", nbformat)
_v4 = cast("Any", v4)

to_node: Callable[[object], Node] = _nbformat.from_dict
new_code_cell: Callable[..., Node] = _v4.new_code_cell
reads: Callable[..., Node] = _nbformat.reads
validate: Callable[..., None] = _nbformat.validate
writes: Callable[[Node], str] = _v4.writes
