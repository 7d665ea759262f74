"""The output file of a detached kernel."""

from __future__ import annotations

import os
from contextlib import suppress
from io import FileIO

from kernelproto.launch.own_files import open_regular_file

_TAIL_BYTES = 64 * 1024


class FileTail:
    """The tail of a file.

    Args:
        path: the path of the file; None if there is nothing to read.
        begin: the offset of the kernel's output in the file, in bytes.
    """

    def __init__(self, path: str | None, begin: int = 0) -> None:
        self._path = path
        self._begin = begin

    def text(self) -> str:
        """Return the last 64 KiB of a regular file; bytes that are not UTF-8 become U+FFFD."""
        if self._path is not None:
            with suppress(OSError), open(open_regular_file(self._path), "rb") as file:
                file.seek(max(self._begin, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return file.read(_TAIL_BYTES).decode("utf-8", "replace")
        return ""

    def close(self) -> None:
        """Do nothing: there is no open descriptor."""


class OutputFile(FileTail):
    """A file that the processes of a kernel write to.

    With a pipe, a kernel would end (SIGPIPE) after the reader.

    Args:
        path: the path of the file; None if there is nothing to read.
        descriptor: a descriptor for writing to the file.

    Attributes:
        write_end: the descriptor for the process; close this descriptor once the process has it.
    """

    def __init__(self, path: str | None, descriptor: int) -> None:
        self.write_end = FileIO(descriptor, "w")
        super().__init__(path, os.fstat(descriptor).st_size)

    def close(self) -> None:
        self.write_end.close()
