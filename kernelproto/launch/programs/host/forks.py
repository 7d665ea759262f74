"""ForkServer: an interpreter with ipykernel loaded that forks kernels, see forkserver.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ..watchdog import kill_group, start_time
from .process import Exit

_RECEIVE_BYTES = 64 * 1024

# The fork server drops a signal that was not sent by then.
_SIGNAL_SECONDS = 30.0


class Forked:
    """A kernel that a fork server has forked; implements Process.

    Args:
        server: the fork server.
        pid: the number of the process.
    """

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid = pid
        self.started = start_time(pid)
        self._server = server

    def signal(self, signum: int) -> None:
        """Send a signal to the group of a process that the fork server has not reaped."""
        self._server.signal(self, signum)

    def reap(self) -> Exit | None:
        """Return how the process has ended; None while running."""
        return self._server.ended.pop(self.pid, None)


class ForkServer:
    """A fork server, which is a child of the host and ends with the host.

    Args:
        command: the command line that runs forkserver.py, without arguments.
        modules: modules to load in addition to ipykernel.
        env: the environment.

    Attributes:
        socket: the socket to the server.
        alive: whether the server may fork.
        ended: the kernels that have ended and were reaped, by the number of the process.

    Raises:
        OSError: the server cannot be started.
    """

    def __init__(
        self, command: Sequence[str], modules: Sequence[str], env: Mapping[str, str]
    ) -> None:
        self.alive = True
        self.ended: dict[int, Exit] = {}
        self._kernels: dict[int, Forked] = {}
        self._entering: dict[int, Forked] = {}  # by the number of the request
        self._unread = b""
        self._signals = 0
        self.socket, end = socket.socketpair()
        with end:
            self._process = subprocess.Popen(
                [*command, str(end.fileno()), json.dumps(list(modules))],
                env=env,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[end.fileno()],
                start_new_session=True,
            )
        self.socket.setblocking(False)

    def fork(
        self, number: int, details: Mapping[str, Any], cwd: str, output: int, folder: str
    ) -> None:
        """Ask for a fork; the answer comes with receive().

        Args:
            number: the number of the request.
            details: the details for forked_kernel.py.
            cwd: the working directory.
            output: the descriptor for the output.
            folder: a folder for a temporary file.

        Raises:
            OSError: the server does not answer, or the working directory cannot be entered.
        """
        descriptors = [output]
        try:
            flags = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY
            descriptors.append(os.open(cwd, flags))
            descriptors.append(_temporary_file(folder, json.dumps({**details, "cwd": None})))
            sandboxed = details.get("sandbox") is not None
            self._send({"fork": number, "sandboxed": sandboxed}, descriptors)
        finally:
            for descriptor in descriptors[1:]:
                os.close(descriptor)

    def signal(self, kernel: Forked, signum: int) -> None:
        """Send a signal to the group of a kernel."""
        if self.alive:
            self._signals += 1
            by = time.monotonic() + _SIGNAL_SECONDS
            with suppress(OSError):
                self._send({"signal": signum, "pid": kernel.pid, "number": self._signals, "by": by})

    def receive(self) -> list[dict[str, Any]]:
        """Return the answers to forks that have arrived; note which kernels have ended.

        Each has "forked" and the "kernel", or "failed" and a reason, or "broken" modules. The last
        one of a fork server has "lost".
        """
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        *lines, self._unread = (self._unread + data).split(b"\n")
        answers: list[dict[str, Any]] = []
        for line in lines:
            message = json.loads(line)
            if "ended" in message:
                self._kernels.pop(message["ended"], None)
                self.ended[message["ended"]] = Exit(
                    message["returncode"], message["cpu_seconds"], message["peak_memory"]
                )
            elif "forked" in message:
                forked = self._entering[message["forked"]] = Forked(self, message["pid"])
                self._kernels[forked.pid] = forked
                if message["entered"]:
                    message["entered"] = message["forked"]
            if message.get("entered"):
                number = message["entered"]
                answers.append({"forked": number, "kernel": self._entering.pop(number)})
            elif "failed" in message:
                self._entering.pop(message["failed"], None)
                answers.append(message)
            elif message.get("broken"):
                answers.append(message)
        if not data:
            self._lose()
            answers.append({"lost": True})
        return answers

    def close(self) -> None:
        """End the fork server, which ends all its kernels."""
        self.alive = False
        self.socket.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
            return
        self._process.kill()
        self._process.wait()

    def _lose(self) -> None:
        """Kill the kernels of a fork server that has ended; how they end is unknown."""
        self.alive = False
        self._process.kill()
        self._process.wait()
        for kernel in self._kernels.values():
            kill_group(kernel.pid, kernel.started)
            self.ended[kernel.pid] = Exit(None)
        self._kernels.clear()

    def _send(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        data = json.dumps(request).encode() + b"\n"
        try:
            if descriptors:
                sent = socket.send_fds(self.socket, [data], descriptors)
            else:
                sent = self.socket.send(data)
        except BlockingIOError:
            raise OSError("the fork server does not answer") from None
        if sent != len(data):  # never seen for so few bytes; the rest could not follow in order
            self._process.send_signal(signal.SIGKILL)
            raise OSError("the fork server does not answer")


def _temporary_file(folder: str, text: str) -> int:
    """Return the descriptor of a file without a name, which has this text."""
    path = os.path.join(folder, "details")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(path)
        with open(os.dup(descriptor), "wb") as file:
            file.write(text.encode())
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
