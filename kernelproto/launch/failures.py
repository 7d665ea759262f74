"""Why a kernel did not start, in words that name the command, what it said and what to do."""

from __future__ import annotations

import shlex
import signal
import textwrap
from collections.abc import Generator
from contextlib import contextmanager

from kernelproto.exceptions import KernelExitedEarly, KernelNotReady, LaunchError
from kernelproto.interfaces import DescribesFailure, ExplainsDeath, KernelManager
from kernelproto.shortage import shortage

# What of the output goes into the message; all of it is in the exception's ``stderr``.
_QUOTED_LINES = 15

MORE_TIME = "if it only needs longer, give run_kernel(timeouts=Timeouts(startup=...))"
NOT_ENCRYPTED = (
    f"{MORE_TIME}; if it ignores the keys for encryption that it was given, although its "
    "kernelspec says that it supports them, give run_kernel(encryption='disabled')"
)
NOT_REGISTERED = (
    "if it does not know how to register, its kernelspec must not claim a kernel_protocol_version "
    "of 5.6 or more"
)


@contextmanager
def shortages_named() -> Generator[None]:
    """Raise a LaunchError that names the shortage where the block fails because of one.

    Too few file descriptors, processes, memory or disk are the fault of no kernel type, provider
    or file, so their errors must not blame these.

    Raises:
        LaunchError: there is too little of something.
    """
    try:
        yield
    except Exception as error:
        words = shortage(error)
        if words is None:
            raise
        raise LaunchError(f"the kernel could not be started: {words}") from error


def describe_exit(returncode: int | None) -> str:
    """Return *returncode* in words, for example "exit status 1" or "signal 9 (SIGKILL)"."""
    if returncode is None:
        return "an unknown exit status"
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {-returncode} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"signal {-returncode}"


def exited_early(manager: KernelManager, returncode: int | None) -> KernelExitedEarly:
    """Return the exception for a kernel whose process ended before it was ready."""
    command, output = _description(manager)
    reason = manager.death_reason() if isinstance(manager, ExplainsDeath) else None
    return KernelExitedEarly(
        f"the kernel exited before it was ready, with {describe_exit(returncode)}"
        + (f": {reason}" if reason else "")
        + _details(command, output),
        command=command,
        returncode=returncode,
        stderr=output,
    )


def not_ready(
    manager: KernelManager, awaited: str, seconds: float, *, remedy: str = MORE_TIME
) -> KernelNotReady:
    """Return the exception for a kernel that was not ready when its time was up.

    Args:
        manager: the handle on its process.
        awaited: what it was waiting for, as ``KernelNotReady.phase``.
        seconds: how long it was waited for.
        remedy: what the reader can do.
    """
    command, output = _description(manager)
    return KernelNotReady(
        f"the kernel was not ready after {seconds:g} s, still waiting for its {awaited}; {remedy}"
        + _details(command, output),
        phase=awaited,
        seconds=seconds,
        stderr=output,
    )


def _description(manager: KernelManager) -> tuple[tuple[str, ...], str]:
    if isinstance(manager, DescribesFailure):
        return tuple(manager.command), manager.output_tail()
    return (), ""


def _details(command: tuple[str, ...], output: str) -> str:
    details = f"\ncommand: {shlex.join(command)}" if command else ""
    if output.strip():
        quoted = "\n".join(output.rstrip().splitlines()[-_QUOTED_LINES:])
        details += "\nits last output:\n" + textwrap.indent(quoted, "  ")
    return details
