"""The progress of notebooks on standard error: bars on a terminal, or else lines; loads rich."""

from __future__ import annotations

import logging
import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from kernelproto.cli.errors import is_verbose
from kernelproto.cli.table import printable
from kernelproto.notebook import CellFinished
from kernelproto.notebook.events import describe_cell

logger = logging.getLogger(__name__)

_WIDEST_BAR = 30
_WIDEST_TEXT = 40
_NUMBERS_WIDTH = 19  # the number of cells, the time, and the spaces between columns
_NARROWEST = 5


def column_widths(width: int) -> tuple[int, int, int]:
    """Return the columns for the name, the bar and the code, in a terminal with *width* columns.

    The numbers are always shown. In a narrow terminal the name is shortened, and there is no code.
    """
    left = width - _NUMBERS_WIDTH
    bar = min(max(left // 5, _NARROWEST), _WIDEST_BAR)
    name = min(max(left - bar, _NARROWEST), _WIDEST_TEXT)
    code = min(left - bar - name, _WIDEST_TEXT)
    return name, bar, code if code > 2 * _NARROWEST else 0


class Progress:
    """Shows the progress of each running notebook, during the block.

    A terminal shows bars; another standard error, such as the log of CI, gets a line for each
    finished cell. With ``--verbose``, the lines are log records, and there are no bars.
    """

    def __init__(self) -> None:
        self._log = is_verbose()
        self._names: dict[TaskID, str] = {}
        self._lines = not (self._log or sys.stderr.isatty())
        self._bar = BarColumn()
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            self._bar,
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[code]}", markup=False, style="dim"),
            console=Console(stderr=True),
            transient=True,
            disable=self._log or self._lines,
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def begin(self, name: str) -> TaskID:
        """Add the bar of a notebook."""
        logger.debug("%s: begins", name)
        width, self._bar.bar_width, _ = column_widths(self._bars.console.width)
        # Keep the end of a long path.
        shown = name if len(name) <= width else f"...{name[3 - width :]}"
        bar = self._bars.add_task(printable(shown), total=None, code="")
        self._names[bar] = name
        return bar

    def show(self, bar: TaskID, done: int, total: int, code: str) -> None:
        """Show the number of executed cells, and the first line of the running cell."""
        _, self._bar.bar_width, width = column_widths(self._bars.console.width)
        line = printable(code.strip().partition("\n")[0])
        shown = line if len(line) <= width else f"{line[: max(width - 3, 0)]}..."
        self._bars.update(bar, completed=done, total=total, code=shown if width else "")
        if code:
            cell = describe_cell(done + 1, total)
            logger.debug("%s: %s begins: %s", self._names[bar], cell, shown)

    def finish_cell(self, name: str, cell: CellFinished) -> None:
        """Report a finished cell, unless the bars show that."""
        status = "" if cell.status == "ok" else f", {cell.status}"
        text = f"{name}: {describe_cell(cell.number, cell.total)}, {cell.duration:.1f} s{status}"
        if self._lines:
            print(text, file=sys.stderr, flush=True)
        logger.debug("%s", text)

    def warn(self, text: str) -> None:
        """Print a warning above the bars."""
        print(f"warning: {printable(text)}", file=sys.stderr, flush=True)  # through the bars

    def end(self, bar: TaskID) -> None:
        """Remove the bar of a notebook."""
        self._bars.remove_task(bar)
        logger.debug("%s: ends", self._names.pop(bar))
