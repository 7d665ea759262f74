"""The program ``kernelproto``: takes the command line to the commands."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from kernelproto.cli.errors import need, status_of


def program() -> NoReturn:
    """Run the command ``kernelproto`` as this process, and end the process."""
    status = main()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # while the interpreter ends, it would complain
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command ``kernelproto``; return the exit status.

    Args:
        arguments: the command line without the program; None means that of the process.
            Without any word it is the help that is printed.
    """
    _open_closed_streams()
    words = sys.argv[1:] if arguments is None else list(arguments)
    return status_of(partial(_run, words or ["--help"]))


def _run(words: list[str]) -> object:
    need("cli")
    from kernelproto.cli.app import app

    return app(words, prog_name="kernelproto", standalone_mode=False)


def _open_closed_streams() -> None:
    """Give the process the standard streams that it was started without (``>&-``).

    Else the next file that is opened has the number of one, and gets whatever is written to it.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
