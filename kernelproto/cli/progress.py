"""Progress bars of notebooks, on standard error if it is a terminal; this module loads rich."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from kernelproto.cli.table import printable

_CODE_WIDTH = 40
_NAME_WIDTH = 40


class Progress:
    """Shows a bar for each running notebook, during the block."""

    def __init__(self) -> None:
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
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
        # Keep the end of a long path, and leave room for the numbers.
        shown = name if len(name) <= _NAME_WIDTH else f"...{name[3 - _NAME_WIDTH :]}"
        return self._bars.add_task(printable(shown), total=None, code="")

    def show(self, bar: TaskID, done: int, total: int, code: str) -> None:
        """Show the number of executed cells, and the first line of the running cell."""
        line = printable(code.strip().partition("\n")[0])
        shown = line if len(line) <= _CODE_WIDTH else f"{line[: _CODE_WIDTH - 3]}..."
        self._bars.update(bar, completed=done, total=total, code=shown)

    def warn(self, text: str) -> None:
        """Print a warning above the bars."""
        print(f"warning: {printable(text)}", file=sys.stderr, flush=True)  # through the bars

    def end(self, bar: TaskID) -> None:
        """Remove the bar of a notebook."""
        self._bars.remove_task(bar)
