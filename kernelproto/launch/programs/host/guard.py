"""Guard: the watchdog of the host, a fork that ends the kernels if the host is killed."""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from .. import watchdog
from ..watchdog import WatchedKernel

_PIPE = 0


class Guard:
    """The watchdog with a pipe, started with the first kernel. See watchdog.py."""

    def __init__(self) -> None:
        self._kernels: dict[bytes, WatchedKernel] = {}
        self._pid = 0
        self._pipe = -1

    def watch(self, kernel: WatchedKernel) -> None:
        """Watch a kernel that is about to be started.

        Raises:
            OSError: no watchdog can be started.
        """
        self._kernels[kernel.kernel_id] = kernel
        if self._pid:
            self._send(kernel.encode())
        else:
            self._start()

    def started(self, kernel: WatchedKernel, group: int, started: str) -> None:
        """Send the process group of a kernel."""
        kernel.group, kernel.started = group, started
        self._kernels[kernel.kernel_id] = kernel
        self._send(kernel.encode())

    def ended(self, kernel: WatchedKernel) -> None:
        """Withdraw the process group, before a reuse of the number; the files stay watched."""
        self._kernels[kernel.kernel_id] = kernel
        self._send(kernel.encode())

    def forget(self, kernel: WatchedKernel) -> None:
        """Stop watching a kernel."""
        if self._kernels.pop(kernel.kernel_id, None) is not None:
            self._send(kernel.forget())

    def look(self) -> None:
        """Start another watchdog if this one has ended."""
        if self._pid and os.waitpid(self._pid, os.WNOHANG)[0]:
            os.close(self._pipe)
            self._pid = 0
            with suppress(OSError):  # the next kernel starts one
                self._start()

    def close(self) -> None:
        """End the watchdog, which does nothing then."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            os.close(self._pipe)
            self._pid = 0

    def _start(self) -> None:
        read_end, self._pipe = os.pipe()
        host = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(read_end)
            os.close(self._pipe)
            raise
        if pid == 0:
            try:
                _become_watchdog(read_end, host)
            finally:
                os._exit(1)
        os.close(read_end)
        os.set_blocking(self._pipe, False)
        self._pid = pid
        for kernel in self._kernels.values():
            self._send(kernel.encode())

    def _send(self, message: bytes) -> None:
        if self._pid:
            with suppress(OSError):  # look() notices that the watchdog has ended
                os.write(self._pipe, message)


def _become_watchdog(read_end: int, host: int) -> None:
    """Watch, in a fork of the host, without anything that the host has open."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(read_end, _PIPE)
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            with suppress(OSError):  # the descriptor of the list
                os.close(int(name))
    watchdog.main(host)
    os._exit(0)
