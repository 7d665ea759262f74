"""A kernel's process from a fork server, from the request to the end of the process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from typing import Protocol

import anyio

from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.signals import SignalledProcess
from kernelproto.launch.programs.watchdog import start_time


class ServesKernels(Protocol):
    """The part of a fork server that the kernels use."""

    def send_signal(self, process: ForkedProcess, signum: int) -> None:
        """Send a signal to the group of a running kernel; never block."""
        ...

    def keep(self, process: ForkedProcess) -> None:
        """Let a kernel go on after this program and the server."""
        ...

    def forget(self, process: ForkedProcess) -> None:
        """Report the end of a kernel no more."""
        ...


class ForkRequest:
    """A request for a kernel, and the answer.

    The request opens every descriptor that this program needs for the kernel's process. So without
    descriptors the launch fails, not the thread that receives the answer.

    Attributes:
        number: the number of the request.
        process: the kernel's process; None before the fork.

    Raises:
        OSError: there are no file descriptors left.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: ForkedProcess | None = None
        self.ticks = 0
        read_fd, write_fd = os.pipe()
        self.sign, self.signaller = FileIO(read_fd, "r"), FileIO(write_fd, "w")
        self._failure: Exception | None = None
        self._answered = False

    def succeed(self) -> None:
        """Answer with the process; called by the server's thread."""
        self._answer()

    def fail(self, error: Exception) -> None:
        """Answer with an error; called by the server's thread."""
        self._failure = error
        self._answer()

    async def answer(self) -> ForkedProcess:
        """Wait for the answer.

        Raises:
            Exception: the error that fail() was called with.
        """
        while not self._answered:
            await anyio.wait_readable(self.sign)
        self.sign.read(1)
        if self._failure is not None:
            raise self._failure
        assert self.process is not None
        return self.process

    def close(self) -> None:
        """Close the descriptors, unless a process has taken them over."""
        if self.process is None:
            self.sign.close()
            self.signaller.close()

    def _answer(self) -> None:
        self._answered = True
        if not self.signaller.closed:  # the end of the process has written there already
            self.signaller.write(b".")


class ForkedProcess(SignalledProcess):
    """A kernel's process from a fork server, with the process group; implements Process.

    Args:
        server: sends signals to the process.
        pid: the number of the process.
        started: the start time, see start_time().
        request: the request; the process takes over the descriptors.

    Attributes:
        before_reaping: called after the end; the server has reaped the process by then.
        outlives: whether the process goes on after this program and the server.
    """

    def __init__(self, server: ServesKernels, pid: int, started: str, request: ForkRequest) -> None:
        super().__init__(pid, request.sign)
        self.before_reaping: Callable[[], None] = lambda: None
        self.started = started
        self.outlives = False
        self._server = server
        self._lock = threading.Lock()
        self._over = False
        self._told = False
        self._dropped = False
        self._signaller = request.signaller

    def end(self, exit_: Exit | None) -> None:
        """Record the end of the process; called by the server's thread."""
        with self._lock:
            self.exit = exit_
            self._over = True
            if self._signaller.closed:  # the process has been released
                return
            # A byte, not just the closed pipe: a fork of this process may hold another copy of it.
            with self._signaller:
                self._signaller.write(b".")
            if self._dropped:
                self._sign.close()

    def poll(self) -> bool:
        if self._over and not self._told:
            self._told = True
            self.before_reaping()
        return self._told

    def close(self) -> None:
        if self.poll():
            self._sign.close()

    def abort(self) -> None:
        """End the group without waiting; no task may wait for the end afterwards."""
        self.kill()
        with self._lock:
            self._dropped = True
            if self._over:
                self._sign.close()

    def has_ended(self) -> bool:
        """Return whether the system shows that the process has ended; False if unknown."""
        try:
            return self.started not in ("", start_time(self.pid))
        except OSError:
            return False

    def signal_directly(self, signum: int) -> None:
        """Send a signal without the server, if the process still runs."""
        with suppress(OSError):
            if self.started and start_time(self.pid) == self.started:
                os.killpg(self.pid, signum)

    def _send(self, signum: int) -> None:
        self._server.send_signal(self, signum)

    def outlive(self) -> None:
        self.outlives = True
        self._server.keep(self)

    def release(self) -> None:
        self._server.forget(self)
        with self._lock:
            self._sign.close()
            self._signaller.close()
