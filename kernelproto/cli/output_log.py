"""OutputLog: prints the outputs of a notebook line by line, each line with the notebook's name."""

from __future__ import annotations

import re
import sys

from kernelproto.cli.outputs import CONTROL_SEQUENCE
from kernelproto.cli.table import printable
from kernelproto.wire.content import ErrorOutput, MimeBundle, Output, Stream

# A line that has not ended is printed in parts of this many characters.
_LONGEST = 4096

_LINE_ENDS = re.compile(r"\r\n|[\r\n]")


class OutputLog:
    """Prints outputs on standard error.

    A carriage return, as in progress bars, ends a line. Control sequences are left out.

    Args:
        name: the name of the notebook.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._open_line = ""

    def write(self, output: Output) -> None:
        """Print an output; text without a line end is printed later."""
        match output:
            case Stream(text=text):
                *lines, self._open_line = _LINE_ENDS.split(self._open_line + text)
                for line in lines:
                    self._print(line)
                while len(self._open_line) > _LONGEST:
                    self._print(self._open_line[:_LONGEST])
                    self._open_line = self._open_line[_LONGEST:]
                return
            case ErrorOutput(traceback=traceback):
                text = "\n".join(traceback)
            case MimeBundle(data={"text/plain": str(text)}):
                pass
            case MimeBundle(data=data):
                text = ", ".join(data)
            case _:
                return
        self.end_line()
        for line in _LINE_ENDS.split(text):
            self._print(line)

    def end_line(self) -> None:
        """Print an open line."""
        if self._open_line:
            self._print(self._open_line)
            self._open_line = ""

    def _print(self, line: str) -> None:
        shown = printable(CONTROL_SEQUENCE.sub("", line).expandtabs())
        print(f"{self._name} | {shown}".rstrip(), file=sys.stderr, flush=True)
