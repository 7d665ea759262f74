"""Processes of kernels: starting them, and learning how they have ended."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from ..forked_kernel import take_over
from ..watchdog import kill_group, start_time

TAIL_BYTES = 64 * 1024
_READ_BYTES = 64 * 1024

# The unit in which getrusage counts memory.
_UNIT = 1 if sys.platform == "darwin" else 1024


class Exit(NamedTuple):
    """How a process has ended; a returncode of None is unknown."""

    returncode: int | None
    cpu_seconds: float = 0.0
    peak_memory: int | None = None


class Process(Protocol):
    """The process of a kernel.

    Attributes:
        pid: the number of the process and of the group.
        started: the start time, see watchdog.start_time().
    """

    pid: int
    started: str

    def signal(self, signum: int) -> None:
        """Send a signal to the group; the process must not have been reaped."""
        ...

    def reap(self) -> Exit | None:
        """Kill the group and return how the process has ended; None while running."""
        ...


class Output:
    """The standard output and standard error of a kernel.

    Args:
        path: a file to append the output to; None keeps the last 64 KiB.

    Attributes:
        target: the descriptor for the process; close_target() closes this descriptor.
        pipe: the descriptor to read from; -1 without one.

    Raises:
        OSError: the file cannot be opened, or there are no descriptors left.
    """

    def __init__(self, path: str | None) -> None:
        self.pipe = self.target = -1
        self._path = path
        self._kept = bytearray()
        if path is None:
            self.pipe, self.target = os.pipe()
            os.set_blocking(self.pipe, False)
        else:
            # A named pipe without a reader must not block the host.
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK
            self.target = os.open(path, flags, 0o600)
            os.set_blocking(self.target, True)

    def read(self) -> bool:
        """Read from the pipe; return whether there may be more."""
        try:
            data = os.read(self.pipe, _READ_BYTES)
        except BlockingIOError:
            return True
        self._kept += data
        del self._kept[:-TAIL_BYTES]
        return bool(data)

    def tail(self) -> str:
        """Return the last 64 KiB."""
        data = bytes(self._kept)
        if self._path is not None:
            with suppress(OSError, ValueError), open(_opened(self._path), "rb") as file:
                if file.seekable():
                    file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
                    data = file.read(TAIL_BYTES)
        return data.decode("utf-8", "replace")

    def close_target(self) -> None:
        """Close the descriptor that the process has by now."""
        if self.target >= 0:
            os.close(self.target)
            self.target = -1

    def close(self) -> None:
        """Close all descriptors."""
        self.close_target()
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1


def _opened(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


class Child:
    """A process that is a child of the host, in a session of its own; implements Process.

    Args:
        command: the program with arguments.
        env: the whole environment.
        cwd: the working directory.
        output: the descriptor for standard output and standard error.
        limits: the number, the soft and the hard value of limits to set.
        state: the state of the program that starts the kernel, see program_state.py; None keeps
            the state of the host.

    Raises:
        OSError: the program cannot be run.
        ValueError: an argument or a variable cannot be handed to a program.
        subprocess.SubprocessError: the process cannot have the state or the limits.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        output: int,
        limits: Sequence[Sequence[int]],
        state: dict[str, Any] | None,
    ) -> None:
        def prepare() -> None:  # in the child; the host has one thread, so this is safe
            for signum in (signal.SIGHUP, signal.SIGINT, signal.SIGCHLD):
                signal.signal(signum, signal.SIG_DFL)
            if state is not None:
                take_over(state)
            for number, soft, hard in limits:
                resource.setrlimit(number, (soft, hard))

        popen = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=prepare,
        )
        popen.returncode = 0  # reap() waits for the process
        self.pid = popen.pid
        self.started = start_time(self.pid)

    def signal(self, signum: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)

    def reap(self) -> Exit | None:
        if hasattr(os, "waitid"):
            # The number is free for another process only after wait4().
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                return None
            self.signal(signal.SIGKILL)
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        if not hasattr(os, "waitid"):
            kill_group(self.pid, self.started)
        return Exit(
            os.waitstatus_to_exitcode(status),
            usage.ru_utime + usage.ru_stime,
            usage.ru_maxrss * _UNIT,
        )
