"""Which cells of a notebook are executed, for how long, and which end the notebook. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from kernelproto.client import ExecutionResult
from kernelproto.exceptions import InvalidNotebook, InvalidParameter, LocalProtocolError
from kernelproto.notebook.events import describe_cell
from kernelproto.notebook.nodes import Node, tags
from kernelproto.notebook.parameters import INJECTED

# The text of SystemExit after sys.exit(), sys.exit(0) and sys.exit(None).
_SUCCESS = ("", "0", "None")


def executable(cells: Sequence[Node]) -> list[int]:
    """Return the positions of the code cells that are neither empty nor skipped."""
    return [
        index
        for index, cell in enumerate(cells)
        if cell["cell_type"] == "code"
        and cell["source"].strip()
        and "skip-execution" not in tags(cell)
    ]


def check_first_cell(
    cells: Sequence[Node], positions: Sequence[int], number: int, *, injected: bool
) -> None:
    """Check that an execution can begin with a cell.

    Args:
        cells: the cells of the notebook.
        positions: the positions of the executable cells.
        number: the number of the cell among the executable cells, from 1.
        injected: whether parameters were injected, which must not be in an earlier cell.

    Raises:
        LocalProtocolError: there is no such cell.
        InvalidParameter: the parameters would have no effect.
    """
    if number == 1:
        return
    if not 1 <= number <= len(positions):
        raise LocalProtocolError(
            f"the execution cannot begin with cell {number}: the notebook has {len(positions)} "
            "cells to execute"
        )
    skipped = positions[: number - 1]
    if injected and any(INJECTED in tags(cells[index]) for index in skipped):
        raise InvalidParameter(
            f"the parameters would have no effect: their cell comes before cell {number}, with "
            "which the execution begins"
        )


def check_time_limits(nb: Node) -> None:
    """Check the time limits in the metadata of a notebook and of the executable cells.

    Raises:
        InvalidNotebook: a limit is no number of seconds.
    """
    metadata = _execution(nb)
    if "timeout" in metadata:
        _seconds(metadata["timeout"], "the notebook's metadata has execution.timeout")
    positions = executable(nb["cells"])
    for number, index in enumerate(positions, 1):
        metadata = nb["cells"][index]["metadata"]
        if "timeout" in metadata:
            name = describe_cell(number, len(positions))
            _seconds(metadata["timeout"], f"the metadata of {name} has timeout")


def time_limit(nb: Node, cell: Node, default: float | None) -> float | None:
    """Return the seconds that a cell may take; None for no limit.

    The metadata of the cell comes first, then that of the notebook, then the default.

    Args:
        nb: the notebook, checked by ``check_time_limits``.
        cell: the cell.
        default: the limit of cells without one.
    """
    for metadata in (cell["metadata"], _execution(nb)):
        if "timeout" in metadata:
            return _seconds(metadata["timeout"], "")
    return default


def ends_notebook(cell: Node, result: ExecutionResult) -> bool:
    """Return whether the code of a cell has ended the notebook successfully.

    Python code calls ``sys.exit(0)``, and IPython's ``exit`` sends a request to the frontend. A
    cell tagged ``raises-exception`` may raise SystemExit like any other exception.
    """
    if any(entry.get("source") == "ask_exit" for entry in result.payload):
        return True
    error = result.error
    return (
        error is not None
        and error.ename == "SystemExit"
        and error.evalue in _SUCCESS
        and "raises-exception" not in tags(cell)
    )


def _execution(nb: Node) -> Mapping[str, Any]:
    # nbmake and jupyter-cache read the limit of a notebook here.
    found: object = nb["metadata"].get("execution")
    return cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else {}


def _seconds(value: object, place: str) -> float | None:
    """Return a limit in seconds; None for null or -1, which mean no limit."""
    match value:
        case None | -1:
            return None
        case int() | float() if value > 0 and math.isfinite(value) and value is not True:
            return float(value)
        case _:
            raise InvalidNotebook(
                f"{place} {value!r}: use a number of seconds above 0, or -1 or null for no limit"
            )
