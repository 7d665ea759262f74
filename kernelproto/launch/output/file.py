"""Output to a file: what a detached kernel writes, or wrote before this program came to it."""

from __future__ import annotations

import os
from contextlib import suppress
from io import FileIO

from kernelproto.launch.own_files import open_regular_file

_TAIL_BYTES = 64 * 1024


class FileTail:
    """The last of a file.

    Args:
        path: of the file, None where there is none to be read.
        begin: where in it what counts begins, in bytes.
    """

    def __init__(self, path: str | None, begin: int = 0) -> None:
        self._path = path
        self._begin = begin

    def text(self) -> str:
        """Return the last 64 KiB of a regular file; what is not UTF-8 becomes U+FFFD."""
        if self._path is not None:
            with suppress(OSError), open(open_regular_file(self._path), "rb") as file:
                file.seek(max(self._begin, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return file.read(_TAIL_BYTES).decode("utf-8", "replace")
        return ""

    def close(self) -> None:
        """Let go of the descriptors; here there are none."""


class OutputFile(FileTail):
    """A file that processes write to, whether or not anybody is there to read it.

    A pipe would end a kernel (SIGPIPE) once its reader is gone.

    Args:
        path: of the file, None where there is none to be read.
        descriptor: for writing to it.

    Attributes:
        write_end: is for the process; close it once the process has it.
    """

    def __init__(self, path: str | None, descriptor: int) -> None:
        self.write_end = FileIO(descriptor, "w")
        super().__init__(path, os.fstat(descriptor).st_size)

    def close(self) -> None:
        self.write_end.close()
