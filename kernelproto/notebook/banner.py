"""Banners: cells that point to the cell at which an execution failed. Pure.

papermill writes and removes cells with the same tag.
"""

from __future__ import annotations

from copy import copy
from html import escape

from kernelproto.notebook.events import CellFinished, CellStarted, describe_cell
from kernelproto.notebook.nodes import Node, new_cell, tags
from kernelproto.wire.content import ErrorOutput

_TAG = "papermill-error-cell-tag"
_ANCHOR = "kernelproto-failed-cell"
_STYLE = 'style="color: #c00; font-size: 1.5em;"'


def remove_banners(nb: Node) -> None:
    """Remove the banners of an earlier execution from a notebook."""
    if any(_TAG in tags(cell) for cell in nb["cells"]):
        nb["cells"] = [cell for cell in nb["cells"] if _TAG not in tags(cell)]


def with_banners(
    nb: Node, cell: CellStarted | CellFinished, error: Exception | None = None
) -> Node:
    """Return a copy of a notebook with a banner at the top and another before the failed cell.

    The cells are not copied. The banner at the top links to the other one.

    Args:
        nb: the notebook.
        cell: the cell that ended the execution.
        error: the exception that ended the execution; None for an exception of the cell's code.
    """
    name = describe_cell(cell.number, cell.total)
    reason = escape(_reason(cell, error))
    top = f'<span {_STYLE}>The notebook failed at <a href="#{_ANCHOR}">{name}</a>: {reason}</span>'
    anchor = f'<span id="{_ANCHOR}" {_STYLE}>The execution ended at this cell: {reason}</span>'
    marked = copy(nb)
    cells = list(nb["cells"])
    cells.insert(cell.index, new_cell(nb, "markdown", anchor, _TAG))
    cells.insert(0, new_cell(nb, "markdown", top, _TAG))
    marked["cells"] = cells
    return marked


def _reason(cell: CellStarted | CellFinished, error: Exception | None) -> str:
    match cell:
        case _ if error is not None:
            return type(error).__name__
        case CellFinished(status="timeout"):
            return "the cell took longer than allowed"
        case CellFinished(error=ErrorOutput(ename=name)):
            return name
        case _:
            return "the kernel did not run it"
