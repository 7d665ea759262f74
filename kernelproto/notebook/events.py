"""Events of an execution: CellStarted, CellOutput and CellFinished. Pure: plain values."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from kernelproto.wire.content import ErrorOutput, Output

CellStatus: TypeAlias = Literal["ok", "exited", "error", "timeout", "aborted"]


class CellStarted(msgspec.Struct, frozen=True, kw_only=True):
    """The code of a cell is about to be sent to the kernel.

    Attributes:
        index: the position among all cells of the notebook, from 0.
        number: the number among the executable cells, from 1.
        total: the number of executable cells.
    """

    index: int
    number: int
    total: int


class CellOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The code of a cell has produced an output, which the notebook contains already.

    Attributes:
        index: the cell's position among all cells of the notebook, from 0.
        output: the output, including updates and outputs captured by a widget.
    """

    index: int
    output: Output


class CellFinished(msgspec.Struct, frozen=True, kw_only=True):
    """A cell was executed; the notebook has all its outputs, and is saved with ``save_to``.

    A notebook whose last save took longer than 10 ms may be saved a little later; see
    ``execute_notebook``.

    Attributes:
        index: the position among all cells of the notebook, from 0.
        number: the number among the executable cells, from 1.
        total: the number of executable cells.
        status: "ok"; "exited" if the code ended the notebook with ``sys.exit(0)``; "error" if it
            raised another exception; "timeout" if the cell exceeded the timeout and was
            interrupted; "aborted" if the kernel did not run the cell.
        duration: the duration in seconds.
        execution_count: the execution count in the kernel.
        error: the exception of the code; None without one.
        allowed: False if the cell made the notebook fail.
    """

    index: int
    number: int
    total: int
    status: CellStatus
    duration: float
    execution_count: int | None = None
    error: ErrorOutput | None = None
    allowed: bool = True


CellEvent: TypeAlias = CellStarted | CellOutput | CellFinished


def describe_cell(number: int, total: int) -> str:
    """Return the name of a cell in errors, counted from 1 like the kernel's execution count."""
    return f"cell {number} of {total}"
