"""Offers to install ipykernel into an environment that has none."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from typing import TypeVar

from kernelproto.cli.errors import CliError
from kernelproto.exceptions import IPykernelMissing

ResultT = TypeVar("ResultT")


def offering_ipykernel(work: Callable[[], ResultT]) -> ResultT:
    """Call *work*; if ipykernel is missing, offer to install it, and call *work* again.

    Without a terminal nothing is asked.

    Raises:
        IPykernelMissing: the user declines, or there is no terminal.
        CliError: the command that installs ipykernel fails.
    """
    try:
        return work()
    except IPykernelMissing as error:
        from kernelproto.cli.questions import agrees

        if not (error.command and sys.stdin.isatty() and sys.stderr.isatty()):
            raise
        text = shlex.join(error.command)
        print(f"ipykernel is not installed in {error.prefix}.", file=sys.stderr)
        if not agrees(f"Run `{text}` now?"):
            raise
        from kernelproto.launch.environments.installer import run_installer

        try:
            status = run_installer(error.command)
        except OSError as fault:
            raise CliError(f"cannot run {error.command[0]}: {fault.strerror}") from fault
        if status:
            raise CliError(
                f"ipykernel was not installed: `{text}` failed (status {status})"
            ) from None
    return work()
