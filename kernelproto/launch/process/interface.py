"""Process: the interface of a kernel's process on any platform.

posix.py, forked.py and windows.py implement the interface for processes of this program, adopt.py
for those of other programs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process has ended.

    Args:
        returncode: the exit status, negative for a signal.
        cpu_seconds: CPU time of the process and of its reaped children.
        peak_memory: the largest peak of memory of one of these processes, in bytes; None if
            unknown.
    """

    returncode: int
    cpu_seconds: float
    peak_memory: int | None


class Process(Protocol):
    """The process of a kernel with the process group.

    Attributes:
        pid: the number of the process.
        exit: how the process has ended, once poll() or wait() has noticed the end; None before, and
            if unknown.
        killed: whether kill(), or another method with the same effect, has been called.
    """

    pid: int
    exit: Exit | None
    killed: bool

    def poll(self) -> bool:
        """Return whether the process has ended; if so, end the rest of the group."""
        ...

    async def wait(self) -> int | None:
        """Wait until the process has ended; return the exit status, None if unknown.

        Raises:
            RuntimeError: the process has been released.
        """
        ...

    def signal(self, signum: int) -> None:
        """Send a signal to every process of the group; ignored once the process has ended.

        Raises:
            PermissionError: all of them run as another user.
        """
        ...

    def interrupt(self) -> None:
        """Interrupt the process, on POSIX by SIGINT."""
        ...

    def terminate(self) -> None:
        """Ask the group to end, on POSIX by SIGTERM."""
        ...

    def kill(self) -> None:
        """End the group."""
        ...

    def close(self) -> None:
        """Close the descriptors of wait(), once the process has ended; more than once is fine."""
        ...

    def release(self) -> None:
        """Close the descriptors while the process goes on; wait() cannot be used afterwards."""
        ...


class StartedProcess(Process, Protocol):
    """A process that this program has started.

    Attributes:
        before_reaping: called after the end, if possible before the system reuses the number.
    """

    before_reaping: Callable[[], None]

    def outlive(self) -> None:
        """Let the process go on after this program; call this once the process is recorded."""
        ...

    def abort(self) -> None:
        """End the group and close(), after a failed launch; may block for a moment."""
        ...
