"""Progress bars of notebooks, on standard error if it is a terminal; this module loads rich."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from kernelproto.cli.table import printable

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
    """Shows a bar for each running notebook, during the block."""

    def __init__(self) -> None:
        self._bar = BarColumn()
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            self._bar,
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[code]}", markup=False, style="dim"),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def begin(self, name: str) -> TaskID:
        """Add the bar of a notebook."""
        width, self._bar.bar_width, _ = column_widths(self._bars.console.width)
        # Keep the end of a long path.
        shown = name if len(name) <= width else f"...{name[3 - width :]}"
        return self._bars.add_task(printable(shown), total=None, code="")

    def show(self, bar: TaskID, done: int, total: int, code: str) -> None:
        """Show the number of executed cells, and the first line of the running cell."""
        _, self._bar.bar_width, width = column_widths(self._bars.console.width)
        line = printable(code.strip().partition("\n")[0])
        shown = line if len(line) <= width else f"{line[: max(width - 3, 0)]}..."
        self._bars.update(bar, completed=done, total=total, code=shown if width else "")

    def end(self, bar: TaskID) -> None:
        """Remove the bar of a notebook."""
        self._bars.remove_task(bar)
