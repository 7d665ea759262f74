"""NotebookResult: the outcome of an execution. Pure: plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kernelproto.exceptions import CellTimeout, ExecutionError
from kernelproto.notebook.events import CellFinished, CellStatus, describe_cell


@dataclass(frozen=True, slots=True, kw_only=True)
class NotebookResult:
    """The outcome of the execution of a notebook.

    Attributes:
        notebook: the notebook, with the outputs.
        cells: the executed cells, in order.
        total: the number of cells to execute.
        duration: the duration in seconds, without start and shutdown of the kernel.
    """

    notebook: Any
    cells: Sequence[CellFinished]
    total: int
    duration: float

    @property
    def failed(self) -> CellFinished | None:
        """The cell that ended the execution early; None if the execution reached the end."""
        return next((cell for cell in self.cells if not cell.allowed), None)

    @property
    def status(self) -> CellStatus:
        """The status of the cell that ended the execution early; "ok" if there is none."""
        return "ok" if self.failed is None else self.failed.status

    def raise_for_error(self) -> NotebookResult:
        """Return the result itself if the execution reached the end of the notebook.

        Raises:
            ExecutionError: the code of a cell raised an exception, or the kernel did not run the
                cell.
            CellTimeout: a cell exceeded the timeout.
        """
        failed = self.failed
        if failed is None:
            return self
        cell = describe_cell(failed.number, failed.total)
        if failed.status == "timeout":
            raise CellTimeout(
                f"{cell} was interrupted after {failed.duration:.1f} s: increase the timeout",
                index=failed.index,
                seconds=failed.duration,
            )
        error = failed.error
        if error is None:
            raise ExecutionError(f"{cell} was not executed by the kernel")
        raise ExecutionError(
            f"{cell}: {error.ename}: {error.evalue}",
            ename=error.ename,
            evalue=error.evalue,
            traceback=error.traceback,
        )
