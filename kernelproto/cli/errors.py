"""Errors as people read them: one line on standard error, and an exit status."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable

from kernelproto.cli.screen import RED, drop_stdout, log_to_stderr, styled
from kernelproto.cli.table import printable
from kernelproto.exceptions import KernelProtoError

FAILED = 1
MISUSED = 2  # the command line cannot be understood
INTERRUPTED = 130
KILLED = 128  # and the signal's number, as the shell says of a program that a signal has ended
BROKEN_PIPE = KILLED + 13


class CliError(Exception):
    """What a command was asked for cannot be done."""


def be_verbose(verbose: bool) -> None:
    """Log to standard error: warnings in a line each, or everything where that was asked for."""
    if verbose:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
        logging.getLogger("kernelproto").setLevel(logging.DEBUG)
    else:
        log_to_stderr()


def is_verbose() -> bool:
    """Return whether ``--verbose`` was given."""
    return logging.getLogger("kernelproto").isEnabledFor(logging.DEBUG)


def status_of(work: Callable[[], object]) -> int:
    """Do some work and return the exit status: what it returns, or that of the error it raises.

    Errors are printed, save for a reader of the output who has had enough.
    """
    try:
        status = work()
        sys.stdout.flush()
    except BrokenPipeError:
        drop_stdout()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return report(error)
    return status if isinstance(status, int) else 0


def report(error: Exception) -> int:
    """Print what *error* says, in one line; return the exit status.

    With ``--verbose``, where it came from and all that it says stand before.
    """
    verbose = is_verbose()
    if verbose:
        traceback.print_exception(error)
    usage = getattr(error, "format_message", None)  # an error of typer's: see the command line
    if usage is not None:
        command = getattr(getattr(error, "ctx", None), "command_path", "kernelproto")
        print_error(f"{printable(usage())} (see {command} --help)")
        return MISUSED
    print_error(describe(error) + ("" if verbose or not _has_more(error) else " (-v shows more)"))
    return FAILED


def describe(error: BaseException) -> str:
    """Return what *error* says, in one line."""
    match error:
        case OSError(strerror=str(reason), filename=str(name)):
            return printable(f"{name}: {reason}")
        case KernelProtoError() | CliError() | OSError():
            first, *_ = str(error).splitlines() or [type(error).__name__]
            return printable(first + _last_words(error))
        case _:
            return printable(f"{type(error).__name__}: {error}")


def print_error(text: str) -> None:
    """Print one line about what went wrong."""
    sys.stdout.flush()
    print(styled("error:", RED, sys.stderr), text, file=sys.stderr, flush=True)


def _last_words(error: BaseException) -> str:
    """Return the last line of a kernel that did not start: there is the reason, mostly."""
    words = str(getattr(error, "stderr", "")).strip().splitlines()
    return f": {words[-1].strip()}" if words else ""


def _has_more(error: Exception) -> bool:
    return not isinstance(error, CliError | KernelProtoError | OSError) or "\n" in str(error)
