"""The parameters of ``kernelproto notebook``: read from files and assignments, and described."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from kernelproto.cli.errors import CliError, need
from kernelproto.cli.locations import Location, display, locate, read_source
from kernelproto.cli.screen import print_table, terminal_width
from kernelproto.cli.table import format_table
from kernelproto.exceptions import InvalidParameter

_WORDS = {"True": True, "False": False, "None": None}


def collect_parameters(files: Sequence[Location], assignments: Sequence[str]) -> dict[str, object]:
    """Return the parameters from files, then from assignments; later values replace earlier ones.

    Raises:
        OSError: a file cannot be read.
        InvalidParameter: a file has no parameters.
        CliError: an assignment has no name or no ``=``, or the extra ``notebook`` is not installed.
    """
    parameters: dict[str, object] = {}
    if files:
        need("notebook")
        from kernelproto.notebook.parameter_files import read_parameter_file

        for path in files:
            parameters |= read_parameter_file(path)
    return parameters | read_parameters(assignments)


def read_parameters(assignments: Sequence[str]) -> dict[str, object]:
    """Return the parameters from assignments such as ``year=2026``.

    A value is JSON, or True, False or None; any other value is text.

    Raises:
        CliError: an assignment has no name or no ``=``.
    """
    parameters: dict[str, object] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not (name and equals):
            raise CliError(f"parameter {assignment!r} must have the form NAME=VALUE")
        try:
            parameters[name.strip()] = _WORDS[text] if text in _WORDS else json.loads(text)
        except ValueError:
            parameters[name.strip()] = text
    return parameters


def print_parameters(words: Sequence[Location]) -> None:
    """Print the name, type, default and comment of each parameter of notebooks.

    Raises:
        OSError: a notebook cannot be read.
        InvalidNotebook: a notebook is not valid.
        CliError: a notebook has no cell tagged "parameters" that can be read, or the extra
            ``notebook`` is not installed.
    """
    need("notebook")
    from kernelproto.notebook import inspect_parameters

    for number, source in enumerate(locate(words)):
        name = display(source)
        notebook = read_source(source)
        try:
            found = inspect_parameters(notebook)
        except InvalidParameter as error:
            raise CliError(f"{name}: {error}") from error
        if len(words) > 1:
            print(*[""] * (number > 0), name, sep="\n")
        print_table(
            format_table(
                ("NAME", "TYPE", "DEFAULT", "COMMENT"),
                [
                    (
                        parameter.name,
                        parameter.type,
                        _one_line(parameter.default),
                        parameter.comment,
                    )
                    for parameter in found
                ],
                shrinking=(2, 3),
                width=terminal_width(),
                encoding=sys.stdout.encoding,
            )
        )


def _one_line(code: str) -> str:
    """Return code with the lines joined by spaces."""
    return " ".join(line.strip() for line in code.splitlines())
