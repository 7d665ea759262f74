"""ExitWatch: notices the end of a child process, and then reaps the child. POSIX only.

A process that has ended keeps its number until the parent reaps the process. Noticing the end
without reaping needs ``waitid``, which Python has on Linux, and on macOS since 3.13. Without
``waitid`` a thread reaps the child as soon as it ends. Until poll() is called, the system could
then give the number to another process, but hands out tens of thousands of other numbers first.
"""

from __future__ import annotations

import os
import resource
import selectors
import sys
import threading
from contextlib import suppress
from io import FileIO
from typing import Protocol

from kernelproto.launch.process.interface import Exit

_Reaped = tuple[int, int, resource.struct_rusage]


class ExitWatch(Protocol):
    """The end of one child process.

    Attributes:
        sign: a descriptor that becomes readable when the process ends.
    """

    sign: FileIO

    def has_come(self) -> bool:
        """Return whether the process has ended.

        Raises:
            ChildProcessError: another part of the program has reaped the process.
        """
        ...

    def wait(self, seconds: float) -> None:
        """Block until the process has ended, at most for some seconds."""
        ...

    def reap(self) -> Exit:
        """Reap the ended process; return how the process has ended."""
        ...

    def close(self) -> None:
        """Close the descriptor, once the process has ended; more than once is fine."""
        ...


def watch_exit(pid: int) -> ExitWatch:
    """Watch a child process in the best way that this system has.

    Raises:
        OSError: there are no file descriptors left.
        RuntimeError: no thread can be started.
    """
    if not hasattr(os, "waitid"):
        return _ReapingThread(pid)
    try:
        return _Pidfd(pid)
    except (AttributeError, OSError):
        # Not Linux, or a Linux before 5.3, or a sandbox that denies the call.
        return _Thread(pid)


class _Pidfd:
    """Watches with a pidfd of Linux."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._inherited = _peak_memory(resource.getrusage(resource.RUSAGE_SELF))
        self.sign = self._open_sign()

    def has_come(self) -> bool:
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        return os.waitid(os.P_PID, self._pid, options) is not None

    def wait(self, seconds: float) -> None:
        with selectors.PollSelector() as selector:
            selector.register(self.sign, selectors.EVENT_READ)
            selector.select(seconds)

    def reap(self) -> Exit:
        return _exit(os.wait4(self._pid, 0), self._inherited)

    def close(self) -> None:
        self.sign.close()

    def _open_sign(self) -> FileIO:
        return FileIO(os.pidfd_open(self._pid), "r")


class _Thread(_Pidfd):
    """Watches with a thread that waits for the process."""

    def _open_sign(self) -> FileIO:
        read_fd, write_fd = os.pipe()
        sign, signaller = FileIO(read_fd, "r"), FileIO(write_fd, "w")
        self._thread = threading.Thread(
            target=self._watch, args=[signaller], name=f"kernelproto-wait-{self._pid}", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:
            sign.close()
            signaller.close()
            raise
        return sign

    def close(self) -> None:
        self._thread.join()
        super().close()

    def _watch(self, signaller: FileIO) -> None:
        # A byte, not just the closed pipe: a fork of this process may hold a copy of the pipe.
        with signaller:
            with suppress(ChildProcessError):
                self._wait()
            signaller.write(b".")

    def _wait(self) -> None:
        os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)


class _ReapingThread(_Thread):
    """Watches with a thread that also reaps the process."""

    _reaped: _Reaped | None = None
    _was_not_ours = False

    def has_come(self) -> bool:
        if self._was_not_ours:
            raise ChildProcessError
        return self._reaped is not None

    def reap(self) -> Exit:
        assert self._reaped is not None
        return _exit(self._reaped, self._inherited)

    def _wait(self) -> None:
        try:
            self._reaped = os.wait4(self._pid, 0)
        except ChildProcessError:
            self._was_not_ours = True


def _exit(reaped: _Reaped, inherited: int) -> Exit:
    """Return how a process has ended that was started with a peak of memory of *inherited* bytes.

    Linux counts the peak of a program for its child processes as well. So the peak of a process
    that has used less memory than the program is unknown.
    """
    _, status, usage = reaped
    peak = _peak_memory(usage)
    return Exit(
        os.waitstatus_to_exitcode(status),
        usage.ru_utime + usage.ru_stime,
        peak if peak > inherited else None,
    )


def _peak_memory(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
