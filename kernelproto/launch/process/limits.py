"""Limits: how much a kernel may use, and whether a limit has ended it."""

from __future__ import annotations

import re
import signal
import sys
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

# A process that has had this share of its limit in memory has probably asked for more: the limit
# counts what could be written to, of which there is always more than has been.
_MUCH_MEMORY = 0.8

# Ways to end that somebody has asked for.
_NO_FAILURES = {0, -signal.SIGTERM, -signal.SIGINT}

_CAUSES: dict[str, DeathCause] = {
    "memory": "memory_limit",
    "open_files": "open_files_limit",
    "processes": "processes_limit",
}

# Some systems have no hard limit, and refuse a soft limit above one that they do not name.
_ALWAYS_ALLOWED = 10_240

# The soft limit that the program had at its start; None where it was not raised.
_at_start: int | None = None

# What programs say when the system refuses, by the limit that may be the cause.
_COMPLAINTS = {
    "memory": r"out of memory|MemoryError|bad_alloc|cannot allocate|allocation fail|ENOMEM"
    r"|can't start new thread",
    "open_files": r"too many open files|no file descriptors available|EMFILE",
    "processes": r"resource temporarily unavailable|can't start new thread|cannot fork|EAGAIN",
}


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that each process of a kernel may use (setrlimit). None is no limit. Linux only.

    Args:
        memory: bytes of private memory that is writable, whether used or not (RLIMIT_DATA). Most
            kernels report this as an error of the code that asked for more, and live on. Each
            thread takes 8 MiB; an ipykernel has 140 MiB before it does anything.
        cpu_seconds: then it gets SIGXCPU, and a second later SIGKILL (RLIMIT_CPU).
        open_files: how many descriptors (RLIMIT_NOFILE).
        processes: how many processes and threads *the user* has, those outside the kernel included
            (RLIMIT_NPROC). It does not hold root back.
    """

    memory: Amount | None = None
    cpu_seconds: Amount | None = None
    open_files: Amount | None = None
    processes: Amount | None = None

    def check(self) -> None:
        """See that the limits can be set here.

        Raises:
            InvalidLaunchParameter: this system has none, or does not allow that much.
        """
        if sys.platform != "linux":
            raise InvalidLaunchParameter("launch parameter 'limits' has an effect on Linux alone")
        for name, number in _RESOURCES.items():
            amount: int | None = getattr(self, name)
            _, most = resource.getrlimit(number)
            if amount is not None and most != resource.RLIM_INFINITY and amount > most:
                raise InvalidLaunchParameter(
                    f"launch parameter 'limits': {name} can be {most} at the most, because this "
                    "program has that limit itself"
                )

    def apply(self, pid: int) -> None:
        """Limit a process that has just been started, for good, with all that it will start.

        For a fraction of a millisecond it has run without; a kernel takes longer to read its own
        code, let alone the user's. To set the limits in the child before it runs would take a
        ``preexec_fn``, which can deadlock where there are threads, or another program in between,
        which would hide why one cannot be run.

        Raises:
            InvalidLaunchParameter: the system refuses.
        """
        if sys.platform == "linux":
            for name, number in _RESOURCES.items():
                amount: int | None = getattr(self, name)
                if amount is not None:
                    grace = _CPU_GRACE if name == "cpu_seconds" else 0
                    try:
                        resource.prlimit(pid, number, (amount, amount + grace))
                    except (OSError, ValueError, OverflowError) as error:
                        raise InvalidLaunchParameter(
                            f"launch parameter 'limits': {name} cannot be {amount}: {error}"
                        ) from error

    def reason(self, end: Exit, output: str, *, inherited: int = 0) -> DeathReason | None:
        """Return which limit has ended the kernel, as far as that can be known; or None.

        Args:
            end: how its process has ended.
            output: the last that it has written.
            inherited: a peak of memory, in bytes, that tells nothing; see ``inherited_peak``.
        """
        if self.cpu_seconds is not None and (
            end.returncode == -signal.SIGXCPU
            or (end.returncode == -signal.SIGKILL and end.cpu_seconds >= self.cpu_seconds)
        ):
            return DeathReason(f"it had used up its {self.cpu_seconds} s of CPU time", "cpu_limit")
        if end.returncode in _NO_FAILURES:
            return None
        for name, complaint in _COMPLAINTS.items():
            limit: int | None = getattr(self, name)
            if limit is not None and re.search(complaint, output, re.IGNORECASE):
                words = f"its last output suggests that it had reached its {_in_words(name, limit)}"
                return DeathReason(words, _CAUSES[name])
        known = end.peak_memory > inherited
        if self.memory is not None and known and end.peak_memory >= _MUCH_MEMORY * self.memory:
            words = _in_words("memory", self.memory)
            return DeathReason(
                f"with {end.peak_memory} bytes in use it had probably reached its {words}",
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


def inherited_peak() -> int:
    """Return the peak of memory that a process may have from this program, in bytes.

    Linux counts the memory of a program for the processes that it starts as well. So the peak of a
    kernel that has used less than its program is not known.
    """
    if sys.platform != "linux":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def raise_open_files() -> int | None:
    """Raise the soft limit of this process for open files to the hard limit.

    Kernels that are started afterwards get the soft limit that this process had before: programs
    that use select(), or close all descriptors one by one, need a low one.

    Returns:
        how many files this process may now open; None where the system has no such limit.
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


def lower_open_files(pid: int) -> None:
    """Give a process that was just started the soft limit that this one had at its start."""
    if sys.platform == "linux" and _at_start is not None:
        with suppress(OSError):  # the process has ended
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (min(_at_start, hard), hard))
