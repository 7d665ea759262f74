"""Limits: the resources that a kernel may use, and whether a limit has ended a kernel."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import msgspec

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.interfaces import DeathCause, DeathReason
from kernelproto.launch.process.interface import Exit

if sys.platform != "win32":
    import resource

Amount = Annotated[int, msgspec.Meta(ge=1)]

# Seconds from SIGXCPU, which a process may ignore, to SIGKILL.
_CPU_GRACE = 1

# A process that has used this share of its memory limit has probably asked for more. The limit
# counts writable memory, and a process never writes to all this memory: the stacks of the 13
# threads of an ipykernel have 100 MiB and are almost empty. With a limit of 400 MiB an ipykernel
# uses at most 79 %.
_MUCH_MEMORY = 0.7

# Exit statuses of a normal end, or of one that was requested.
NO_FAILURES = {0, -signal.SIGTERM, -signal.SIGINT}

_CAUSES: dict[str, DeathCause] = {
    "memory": "memory_limit",
    "open_files": "open_files_limit",
    "processes": "processes_limit",
}

# Some systems have no hard limit, but refuse a soft limit above a value that they do not name.
_ALWAYS_ALLOWED = 10_240

# The soft limit of this program at its start; None if not raised.
_at_start: int | None = None

# Messages of programs that were refused a resource, by the limit that may be the cause.
_COMPLAINTS = {
    "memory": r"out of memory|MemoryError|bad_alloc|cannot allocate|allocation fail|ENOMEM"
    r"|can't start new thread",
    "open_files": r"too many open files|no file descriptors available|EMFILE",
    "processes": r"resource temporarily unavailable|can't start new thread|cannot fork|EAGAIN",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of each process of a kernel (setrlimit). None means no limit. Linux only.

    Args:
        memory: bytes of writable private memory, used or not (RLIMIT_DATA). In most kernels the
            code that asks for more fails, and the kernel goes on. Each thread takes 8 MiB; an idle
            ipykernel has 140 MiB.
        cpu_seconds: seconds of CPU time until SIGXCPU; SIGKILL follows a second later (RLIMIT_CPU).
        open_files: number of file descriptors (RLIMIT_NOFILE).
        processes: number of processes and threads of *the user*, also outside the kernel
            (RLIMIT_NPROC). This limit does not apply to root.
    """

    memory: Amount | None = None
    cpu_seconds: Amount | None = None
    open_files: Amount | None = None
    processes: Amount | None = None

    def check(self) -> None:
        """Check that the limits can be set here.

        Raises:
            InvalidLaunchParameter: this system has no limits, or a limit is above this program's.
        """
        if sys.platform != "linux":
            raise InvalidLaunchParameter("launch parameter 'limits' works on Linux only")
        for name, number in _RESOURCES.items():
            amount: int | None = getattr(self, name)
            _, most = resource.getrlimit(number)
            if amount is not None and most != resource.RLIM_INFINITY and amount > most:
                raise InvalidLaunchParameter(
                    f"launch parameter 'limits': {name} can be at most {most}, the limit of this "
                    "program"
                )

    def apply(self, pid: int) -> None:
        """Limit a process that has just been started, and every later child process.

        The process has run without limits for a fraction of a millisecond; a kernel takes longer to
        read its code. Setting the limits in the child would need a ``preexec_fn``, which can
        deadlock in a program with threads, or a program in between, which would hide why the
        command cannot be run.

        Raises:
            InvalidLaunchParameter: the system refuses.
        """
        if sys.platform == "linux":
            names = {number: name for name, number in _RESOURCES.items()}
            for number, soft, hard in self.amounts():
                try:
                    resource.prlimit(pid, number, (soft, hard))
                except (OSError, ValueError, OverflowError) as error:
                    raise InvalidLaunchParameter(
                        f"launch parameter 'limits': {names[number]} cannot be {soft}: {error}"
                    ) from error

    def amounts(self) -> Iterator[tuple[int, int, int]]:
        """Yield the number of each limit of Linux, with the soft value and the hard value."""
        for name, number in _RESOURCES.items():
            amount: int | None = getattr(self, name)
            if amount is not None:
                yield number, amount, amount + (_CPU_GRACE if name == "cpu_seconds" else 0)

    def reason(self, end: Exit, output: str) -> DeathReason | None:
        """Return the limit that has probably ended the kernel; None if none has.

        Args:
            end: how the kernel's process ended.
            output: the tail of the kernel's output.
        """
        if self.cpu_seconds is not None and (
            end.returncode == -signal.SIGXCPU
            or (end.returncode == -signal.SIGKILL and end.cpu_seconds >= self.cpu_seconds)
        ):
            return DeathReason(f"it had used up its {self.cpu_seconds} s of CPU time", "cpu_limit")
        if end.returncode in NO_FAILURES:
            return None
        for name, complaint in _COMPLAINTS.items():
            limit: int | None = getattr(self, name)
            if limit is not None and re.search(complaint, output, re.IGNORECASE):
                words = f"its last output suggests that it had reached its {_in_words(name, limit)}"
                return DeathReason(words, _CAUSES[name])
        peak = end.peak_memory
        if self.memory is not None and peak is not None and peak >= _MUCH_MEMORY * self.memory:
            words = _in_words("memory", self.memory)
            return DeathReason(
                f"with {peak} bytes in use it had probably reached its {words}",
                "memory_limit",
            )
        return None


def _in_words(name: str, limit: int) -> str:
    unit = " bytes" if name == "memory" else ""
    return f"limit of {name.replace('_', ' ')}, {limit}{unit}"


if sys.platform == "linux":
    _RESOURCES = {
        "memory": resource.RLIMIT_DATA,
        "cpu_seconds": resource.RLIMIT_CPU,
        "open_files": resource.RLIMIT_NOFILE,
        "processes": resource.RLIMIT_NPROC,
    }


def raise_open_files() -> int | None:
    """Raise the soft limit of this process for open files to the hard limit.

    Kernels that are started afterwards get the soft limit that this process had before: programs
    that use select(), or close all descriptors one by one, need a low limit.

    Returns:
        The number of files that this process may now open; None if the system has no such limit.
    """
    global _at_start  # a process has one limit
    if sys.platform == "win32":
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, _ALWAYS_ALLOWED):
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            break
    now, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if now != soft and _at_start is None:
        _at_start = soft
    return None if now == resource.RLIM_INFINITY else now


def limits_of_program(limits: Limits | None, processes: int) -> list[tuple[int, int, int]]:
    """Return the limits that a program sets for itself, each with the soft and hard value.

    Args:
        limits: the limits that the caller has chosen.
        processes: number of processes and threads; fewer if this program may have no more.
    """
    chosen = {number: (number, soft, hard) for number, soft, hard in (limits or Limits()).amounts()}
    if sys.platform == "linux":
        number = resource.RLIMIT_NPROC
        _, hard = resource.getrlimit(number)  # only root can raise the hard limit
        most = processes if hard == resource.RLIM_INFINITY else min(processes, hard)
        chosen[number] = (number, most, most)
        files = resource.RLIMIT_NOFILE
        if _at_start is not None and files not in chosen:
            _, hard = resource.getrlimit(files)
            chosen[files] = (files, min(_at_start, hard), hard)
        chosen[resource.RLIMIT_CORE] = (resource.RLIMIT_CORE, 0, 0)
    return list(chosen.values())


def lower_open_files(pid: int) -> None:
    """Give a new process the soft limit that this program had at its start."""
    if sys.platform == "linux" and _at_start is not None:
        with suppress(OSError):  # the process has ended
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(_at_start, hard), hard))
