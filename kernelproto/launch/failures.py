"""Errors for kernels that do not start, with the command, the last output and a remedy."""

from __future__ import annotations

import shlex
import signal
import textwrap
from collections.abc import Generator
from contextlib import contextmanager

from kernelproto.exceptions import KernelExitedEarly, KernelNotReady, LaunchError
from kernelproto.interfaces import DescribesFailure, ExplainsDeath, KernelManager
from kernelproto.shortage import shortage

# Lines of the output in the message; the exception's ``stderr`` has the whole tail.
_QUOTED_LINES = 15

MORE_TIME = "if it only needs more time, pass run_kernel(timeouts=Timeouts(startup=...))"
LONGER_QUEUE = "if it may wait longer, pass run_kernel(timeouts=Timeouts(queue=...))"
NOT_ENCRYPTED = (
    f"{MORE_TIME}; if it ignores its encryption keys, although its kernelspec says that it "
    "supports them, pass run_kernel(encryption='disabled')"
)
NOT_REGISTERED = (
    "if it cannot register, correct its kernelspec: kernel_protocol_version must be less than 5.6"
)


@contextmanager
def shortages_named() -> Generator[None]:
    """Raise a LaunchError that names the shortage if the block fails for lack of a resource.

    A lack of file descriptors, processes, memory or disk space is not the fault of a kernel type,
    provider or file, so the error must not blame them.

    Raises:
        LaunchError: the system lacks a resource.
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
    """Return the exception for a kernel process that ended before it was ready."""
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
    """Return the exception for a kernel that was not ready in time.

    Args:
        manager: the handle on the kernel's process.
        awaited: the step that the kernel did not reach, as ``KernelNotReady.phase``.
        seconds: the time that the launch waited.
        remedy: the advice in the message.
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
