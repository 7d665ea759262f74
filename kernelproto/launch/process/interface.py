"""Process: what a kernel manager needs of the kernel's process, on any platform.

posix.py has it for those that are started here, adopted.py for those of others, and windows.py.
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
        cpu_seconds: what it and the children it has waited for have used.
        peak_memory: the most bytes that one of them has had in memory.
    """

    returncode: int
    cpu_seconds: float
    peak_memory: int


class Process(Protocol):
    """What a kernel manager does with the kernel's processes; a way for each platform.

    Attributes:
        pid: the number of the process.
        exit: how it has ended, once poll() or wait() has found that; None until then, and also
            where it can't be known.
        killed: whether kill() has been called, or another method to the same effect.
    """

    pid: int
    exit: Exit | None
    killed: bool

    def poll(self) -> bool:
        """Return whether the process has ended; if so, end what is left of its group."""
        ...

    async def wait(self) -> int | None:
        """Wait until the process has ended; return its exit status, None where it can't be known.

        Raises:
            RuntimeError: the process has been released.
        """
        ...

    def signal(self, signum: int) -> None:
        """Send a signal to every process of the group; ignored once the process has ended.

        Raises:
            PermissionError: all of them run as somebody else.
        """
        ...

    def interrupt(self) -> None:
        """Interrupt what the process does, with SIGINT where there are signals."""
        ...

    def terminate(self) -> None:
        """Ask the group to end, with SIGTERM where there are signals."""
        ...

    def kill(self) -> None:
        """End the group."""
        ...

    def close(self) -> None:
        """Let go of what wait() needs, once the process has ended; more than once is fine."""
        ...

    def release(self) -> None:
        """Let go of it while the process goes on; nobody may wait for it then."""
        ...


class StartedProcess(Process, Protocol):
    """A process that this program has started.

    Attributes:
        before_reaping: called when it has ended, before others can get its number where possible.
    """

    before_reaping: Callable[[], None]

    def abort(self) -> None:
        """End the group and close(), for a launch that fails; it may block for a moment."""
        ...
