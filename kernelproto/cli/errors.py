"""Errors of commands: one line on standard error, and an exit status."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable

from kernelproto.cli.screen import RED, drop_stdout, log_to_stderr, styled
from kernelproto.cli.table import printable
from kernelproto.exceptions import KernelProtoError
from kernelproto.extras import fault

FAILED = 1
MISUSED = 2  # the command line is invalid
INTERRUPTED = 130
KILLED = 128  # plus the number of the signal that ended the program, as in shells
BROKEN_PIPE = KILLED + 13


class CliError(Exception):
    """A command cannot do its work, for the reason in the text."""


def need(extra: str) -> None:
    """Raise CliError, with the command that installs the extra, if a module is missing."""
    if (text := fault(extra)) is not None:
        raise CliError(text)


def be_verbose(verbose: bool) -> None:
    """Log to standard error: warnings, one line each, or with *verbose* everything."""
    if verbose:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s")
        logging.getLogger("kernelproto").setLevel(logging.DEBUG)
    else:
        log_to_stderr()


def is_verbose() -> bool:
    """Return whether ``--verbose`` was given."""
    return logging.getLogger("kernelproto").isEnabledFor(logging.DEBUG)


def status_of(work: Callable[[], object]) -> int:
    """Call *work* and return an exit status: the result, or the status of the error.

    Errors are printed, except that the reader of standard output has closed the pipe.
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
    """Print an error in one line, with ``--verbose`` after the traceback; return the status."""
    verbose = is_verbose()
    if verbose:
        traceback.print_exception(error)
    usage = getattr(error, "format_message", None)  # a usage error of typer
    if usage is not None:
        command = getattr(getattr(error, "ctx", None), "command_path", "kernelproto")
        print_error(f"{printable(usage())} (see {command} --help)")
        return MISUSED
    print_error(describe(error) + ("" if verbose or not _has_more(error) else " (-v shows more)"))
    return FAILED


def describe(error: BaseException) -> str:
    """Return the text of an error in one line."""
    match error:
        case OSError(strerror=str(reason), filename=str(name)):
            return printable(f"{name}: {reason}")
        case KernelProtoError() | CliError() | OSError():
            first, *_ = str(error).splitlines() or [type(error).__name__]
            return printable(first + _last_line(error))
        case _:
            return printable(f"{type(error).__name__}: {error}")


def print_error(text: str) -> None:
    """Print an error message."""
    sys.stdout.flush()
    print(styled("error:", RED, sys.stderr), text, file=sys.stderr, flush=True)


def _last_line(error: BaseException) -> str:
    """Return the last line of a failed kernel's stderr, which usually states the reason."""
    lines = str(getattr(error, "stderr", "")).strip().splitlines()
    return f": {lines[-1].strip()}" if lines else ""


def _has_more(error: Exception) -> bool:
    return not isinstance(error, CliError | KernelProtoError | OSError) or "\n" in str(error)
