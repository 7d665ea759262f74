"""The program ``kernelproto``: runs the command named on the command line."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

from kernelproto.cli.errors import need, status_of


def program() -> NoReturn:
    """Run the command ``kernelproto`` as this process, and end the process."""
    status = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # no traceback while the interpreter exits
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command ``kernelproto``; return the exit status.

    Args:
        arguments: the command line without the program; None means that of the process. An empty
            command line prints the help.
    """
    _open_closed_streams()
    words = sys.argv[1:] if arguments is None else list(arguments)
    return status_of(partial(_run, words or ["--help"]))


def _run(words: list[str]) -> object:
    need("cli")
    from typer.main import get_command

    from kernelproto.cli.app import app

    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # set by __main__ for the imports
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command = get_command(app)
    _hide_types(command)
    return command(words, prog_name="kernelproto", standalone_mode=False)


def _hide_types(command: Any) -> None:
    """Leave the Python types of arguments, such as ``<list[Path]>``, out of the help."""
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = _no_type
    for subcommand in getattr(command, "commands", {}).values():
        _hide_types(subcommand)


def _no_type(ctx: object) -> None:
    return None


def _open_closed_streams() -> None:
    """Open the standard streams that the process was started without (``>&-``) as the null device.

    Otherwise the next opened file would get the number and the output of a stream.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
