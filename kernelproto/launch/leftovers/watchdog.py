"""The watchdog: a process that ends this program's kernels if the program is killed.

Theory of operation
-------------------
Nothing that runs in a program can clean up after a ``kill -9`` of it. So a second process, the
watchdog, is told of every kernel, and does it (see watchdog.py). There is one for all
kernels of a program; it starts with the first of them and ends with the last.

A child that is made by ``os.fork()`` has no part in this: the kernels are its parent's.
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
    """A kernel in the watchdog's care, until it is closed. Every method is for any thread.

    Without a Python to run the watchdog, in a frozen application for example, there is none; this
    is logged.

    Args:
        kernel: the kernel, before it is started, and what is to be done if this program dies.
    """

    def __init__(self, kernel: WatchedKernel) -> None:
        self._kernel = kernel
        with _lock:
            _Watchdog.watch(kernel)

    def group_started(self, group: int, started: str) -> None:
        """Tell of the kernel's process group, and of the start time of its leader."""
        self._kernel.group, self._kernel.started = group, started
        with _lock:
            _Watchdog.change(self._kernel)

    def group_ended(self) -> None:
        """Strike off the process group, before its number goes to somebody else."""
        if self._kernel.group:
            self._kernel.group = 0
            with _lock:
                _Watchdog.change(self._kernel)

    def close(self) -> None:
        """Leave the kernel and its files alone from now on; more than once is fine."""
        with _lock:
            _Watchdog.forget(self._kernel)


class _Watchdog:
    """The process and the pipe to it; every method is called with the lock held."""

    kernels: ClassVar[dict[bytes, WatchedKernel]] = {}
    current: ClassVar[_Watchdog | None] = None

    def __init__(self) -> None:
        read_fd, write_fd = os.pipe()
        self._pipe = FileIO(write_fd, "w")
        # It is always empty: a watchdog that takes nothing out any more is replaced.
        os.set_blocking(write_fd, False)
        try:
            with FileIO(read_fd, "r") as read_end:
                self._process = subprocess.Popen(
                    [python_executable(), "-I", "-S", watchdog.__file__, str(os.getpid())],
                    # It is no child of the kernel that this program itself may run in.
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
        """Take a kernel into care."""
        cls.kernels[kernel.kernel_id] = kernel
        cls._say(kernel.encode())

    @classmethod
    def change(cls, kernel: WatchedKernel) -> None:
        """Tell of a change of a kernel that is in care; ignored for others."""
        if kernel.kernel_id in cls.kernels:
            cls._say(kernel.encode())

    @classmethod
    def forget(cls, kernel: WatchedKernel) -> None:
        """Take a kernel out of care; end the watchdog with the last one."""
        if cls.kernels.pop(kernel.kernel_id, None) is None:
            return
        if cls.kernels:
            cls._say(kernel.forget())
        elif cls.current is not None:
            cls.current.end()

    @classmethod
    def _say(cls, message: bytes) -> None:
        """Send a message; where nobody takes it, start a watchdog that hears of everything."""
        if cls.current is not None:
            if cls.current.takes(message):
                return
            cls.current.end()
        try:
            cls.current = cls()
        except OSError as error:
            logger.warning(
                "kernels may outlive this program: no watchdog can be started: %s", error
            )
            return
        for kernel in cls.kernels.values():
            cls.current.takes(kernel.encode())

    def takes(self, message: bytes) -> bool:
        """Send a message; return whether it could be sent."""
        try:
            return self._pipe.write(message) == len(message)
        except OSError:  # it has been killed
            return False

    def end(self) -> None:
        """End the process. It gets no time to act on it."""
        _Watchdog.current = None
        self._process.kill()
        self._process.wait()
        self._pipe.close()

    def leave_to_parent(self) -> None:
        """Let go, in a fork of the program."""
        _Watchdog.current = None
        self._pipe.close()
        self._process.returncode = 0  # it is nobody's to wait for here


def python_executable() -> str:
    """Return the interpreter that runs this program.

    Raises:
        OSError: none is known; an application that embeds or bundles one says that it is itself.
    """
    name = os.path.basename(sys.executable or "").lower()
    if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")):
        raise FileNotFoundError(f"{sys.executable!r} is no Python interpreter")
    return sys.executable


def _after_fork_in_child() -> None:
    _Watchdog.kernels.clear()
    if _Watchdog.current is not None:
        _Watchdog.current.leave_to_parent()
    _lock.release()


if hasattr(os, "register_at_fork"):
    # A child must find the lock free, and no pipe: the watchdog waits for its last writer to end.
    os.register_at_fork(
        before=_lock.acquire,
        after_in_parent=_lock.release,
        after_in_child=_after_fork_in_child,
    )
