"""The notebooks on the command line: files, URLs, and ``-`` for the standard streams."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from kernelproto.cli.errors import CliError
from kernelproto.cli.table import printable
from kernelproto.urls import check_url, display_url, is_url

# A URL is text, because a path would lose a slash.
Location: TypeAlias = Path | str

# The path that means standard input or standard output.
STANDARD = Path("-")


def locate(words: Sequence[Location]) -> list[Location]:
    """Return the locations that words of the command line mean.

    Raises:
        NotebookError: the client for a URL is not installed.
    """
    for word in words:
        if is_url(word):
            check_url(word)
    return [word if is_url(word) else Path(word) for word in words]


def display(location: Location, stream: str = "standard input") -> str:
    """Return a location for messages; *stream* stands for ``-``."""
    if location == STANDARD:
        return stream
    return printable(display_url(location) if isinstance(location, str) else os.fspath(location))


def identity(location: Location) -> Location:
    """Return a value that is equal for two names of one file."""
    return location if isinstance(location, str) else location.resolve()


def is_folder(location: Location) -> bool:
    """Return whether a location is an existing folder, or a URL that ends in a slash."""
    return location.endswith("/") if isinstance(location, str) else location.is_dir()


def inside(folder: Location, source: Location) -> Location:
    """Return the location in a folder for a file with the name of *source*."""
    name = display(source).rpartition("/")[2] if isinstance(source, str) else source.name
    if isinstance(folder, str):
        return f"{folder.rstrip('/')}/{name}"
    if not name:
        raise CliError(f"{display(source)} has no file name")
    return folder / name


def read_source(source: Location, stdin: bytes | None = None) -> Any:
    """Return the notebook at a location. Blocks.

    Args:
        source: the location.
        stdin: the data from standard input; None reads them if they are the notebook.

    Raises:
        OSError: the notebook cannot be read.
        InvalidNotebook: the notebook is not valid.
    """
    from kernelproto.notebook import read_notebook
    from kernelproto.notebook.files import parse_notebook

    if source == STANDARD:
        return parse_notebook(sys.stdin.buffer.read() if stdin is None else stdin, display(source))
    return read_notebook(source)
