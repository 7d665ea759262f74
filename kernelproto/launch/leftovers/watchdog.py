"""The watchdog: a process that ends this program's kernels if the program is killed.

Theory of operation
-------------------
A program cannot clean up after its own ``kill -9``. So a second process, the watchdog, gets a
message about every kernel and cleans up (see programs/watchdog.py). One watchdog serves all kernels
of a program, starts with the first kernel and ends with the last. If the program has a fork server,
the watchdog starts and ends with the server: a start takes longer than the fork of a kernel.

A child made by ``os.fork()`` has no watchdog: the kernels belong to the parent.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from io import FileIO
from typing import ClassVar

from kernelproto.launch.programs import watchdog
from kernelproto.launch.programs.watchdog import KERNEL_ID_VARIABLE, WatchedKernel

logger = logging.getLogger(__name__)

_lock = threading.Lock()


class Watch:
    """Has the watchdog end a kernel if this program dies, until close(). Thread-safe.

    If there is no Python to run the watchdog, as in a frozen application, this is logged.

    Args:
        kernel: the kernel with its files, before the start.
    """

    def __init__(self, kernel: WatchedKernel) -> None:
        self._kernel = kernel
        with _lock:
            _Watchdog.watch(kernel)

    def group_started(self, group: int, started: str) -> None:
        """Send the kernel's process group and the start time of the leader."""
        self._kernel.group, self._kernel.started = group, started
        with _lock:
            _Watchdog.change(self._kernel)

    def group_ended(self) -> None:
        """Withdraw the process group, before the system gives the number to another process."""
        if self._kernel.group:
            self._kernel.group = 0
            with _lock:
                _Watchdog.change(self._kernel)

    def close(self) -> None:
        """Stop watching the kernel and the files; more than once is fine."""
        with _lock:
            _Watchdog.forget(self._kernel)


class Hold:
    """Has the watchdog run without kernels, until close(). Thread-safe."""

    def __init__(self) -> None:
        with _lock:
            _Watchdog.holds.add(self)
            if _Watchdog.current is None:
                _Watchdog.start()

    def close(self) -> None:
        """Let the watchdog end with the last kernel; more than once is fine."""
        with _lock:
            _Watchdog.holds.discard(self)
            if _Watchdog.current is not None and not _Watchdog.kernels and not _Watchdog.holds:
                _Watchdog.current.end()


class _Watchdog:
    """The process with a pipe; every method is called with the lock held."""

    kernels: ClassVar[dict[bytes, WatchedKernel]] = {}
    holds: ClassVar[set[Hold]] = set()
    current: ClassVar[_Watchdog | None] = None

    def __init__(self) -> None:
        read_fd, write_fd = os.pipe()
        self._pipe = FileIO(write_fd, "w")
        # A watchdog that no longer reads is replaced, so the pipe never fills.
        os.set_blocking(write_fd, False)
        try:
            with FileIO(read_fd, "r") as read_end:
                self._process = subprocess.Popen(
                    [python_executable(), "-I", "-S", watchdog.__file__, str(os.getpid())],
                    # If this program runs in a kernel, the watchdog does not belong to that kernel.
                    env={k: v for k, v in os.environ.items() if k != KERNEL_ID_VARIABLE},
                    cwd="/",
                    stdin=read_end,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
        except BaseException:
            self._pipe.close()
            raise

    @classmethod
    def watch(cls, kernel: WatchedKernel) -> None:
        """Start to watch a kernel."""
        cls.kernels[kernel.kernel_id] = kernel
        cls._send(kernel.encode())

    @classmethod
    def change(cls, kernel: WatchedKernel) -> None:
        """Send a change of a kernel that is watched; do nothing for others."""
        if kernel.kernel_id in cls.kernels:
            cls._send(kernel.encode())

    @classmethod
    def forget(cls, kernel: WatchedKernel) -> None:
        """Stop watching a kernel; without a hold, end the watchdog with the last one."""
        if cls.kernels.pop(kernel.kernel_id, None) is None:
            return
        if cls.kernels:
            cls._send(kernel.forget())
        elif cls.current is not None and not (cls.holds and cls.current.takes(kernel.forget())):
            cls.current.end()

    @classmethod
    def _send(cls, message: bytes) -> None:
        """Send a message; if the watchdog is gone, start another one and send all kernels."""
        if cls.current is not None:
            if cls.current.takes(message):
                return
            cls.current.end()
        cls.start()

    @classmethod
    def start(cls) -> None:
        """Start a watchdog and send all kernels."""
        try:
            cls.current = cls()
        except OSError as error:
            logger.warning(
                "kernels may outlive this program, because no watchdog can be started: %s", error
            )
            return
        for kernel in cls.kernels.values():
            cls.current.takes(kernel.encode())

    def takes(self, message: bytes) -> bool:
        """Send a message; return whether that succeeded."""
        try:
            return self._pipe.write(message) == len(message)
        except OSError:  # the watchdog has been killed
            return False

    def end(self) -> None:
        """Kill the process before it acts on the closed pipe."""
        _Watchdog.current = None
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def leave_to_parent(self) -> None:
        """Close the pipe, in a fork of the program."""
        _Watchdog.current = None
        self._pipe.close()
        self._process.returncode = 0  # a fork is not the parent and cannot wait


def python_executable() -> str:
    """Return the interpreter that runs this program.

    Raises:
        OSError: none is known; in an application that embeds Python, sys.executable is the
            application.
    """
    name = os.path.basename(sys.executable or "").lower()
    if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")):
        raise FileNotFoundError(f"{sys.executable!r} is no Python interpreter")
    return sys.executable


def _after_fork_in_child() -> None:
    _Watchdog.kernels.clear()
    _Watchdog.holds.clear()
    if _Watchdog.current is not None:
        _Watchdog.current.leave_to_parent()
    _lock.release()


if hasattr(os, "register_at_fork"):
    # A child must find the lock free, and close the pipe: the watchdog waits for the last writer.
    os.register_at_fork(
        before=_lock.acquire,
        after_in_parent=_lock.release,
        after_in_child=_after_fork_in_child,
    )
