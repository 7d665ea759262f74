"""What happens to the cells of a notebook while it is executed. Pure: plain values."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from kernelproto.wire.content import ErrorOutput, Output

CellStatus: TypeAlias = Literal["ok", "error", "timeout", "aborted"]


class CellStarted(msgspec.Struct, frozen=True, kw_only=True):
    """The code of a cell is about to be sent to the kernel.

    Attributes:
        index: its position among all cells of the notebook, from 0.
        number: its position among those that are executed, from 1.
        total: how many cells are executed, if none fails.
    """

    index: int
    number: int
    total: int


class CellOutput(msgspec.Struct, frozen=True, kw_only=True):
    """The code of a cell has produced something, which is in the notebook already.

    Attributes:
        index: the cell's position among all cells of the notebook, from 0.
        output: what the kernel has sent; also updates, and outputs that a widget has taken.
    """

    index: int
    output: Output


class CellFinished(msgspec.Struct, frozen=True, kw_only=True):
    """A cell was executed; the notebook has all of its outputs, and is saved if it is to be.

    Attributes:
        index: its position among all cells of the notebook, from 0.
        number: its position among those that are executed, from 1.
        total: how many cells are executed, if none fails.
        status: "ok"; "error" when the code raised one; "timeout" when it took too long and was
            interrupted; "aborted" when the kernel did not run it.
        duration: how long it took, in seconds.
        execution_count: the kernel's number for it.
        error: what the code raised, if it did.
        allowed: whether the notebook goes on; True for every cell that is "ok".
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
    """Return what errors call a cell: people count from 1, and a new kernel numbers it the same."""
    return f"cell {number} of {total}"
