"""ForkServer: an interpreter with ipykernel loaded that forks ready kernels; POSIX only.

Theory of operation
-------------------
The server is a process of its own, forkserver_process.py, with a single thread: this program has
several, and could not be forked safely. They talk over a pair of sockets that nobody else can
reach. The kernels are the server's children; it reaps them and tells of their end. A thread of this
program listens to it, because kernels are waited for in any event loop, or in none. When this
program ends, of whatever, the server kills its kernels; when the server dies, this program does.

There is one server for each set of preloaded modules. It starts with the first kernel, and is
started again when it has died.
"""

from __future__ import annotations

import atexit
import errno
import itertools
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from queue import Empty, SimpleQueue
from typing import Any, ClassVar

from kernelproto.exceptions import InvalidLaunchParameter, LaunchError
from kernelproto.launch import forkserver_process, ipykernel_process
from kernelproto.launch.process import Exit
from kernelproto.launch.signalled import SignalledProcess
from kernelproto.launch.watchdog_process import KERNEL_ID_VARIABLE

logger = logging.getLogger(__name__)

# Importing what is preloaded takes long on a cold disk; forking does not.
_START_SECONDS = 120.0
_FORK_SECONDS = 30.0

# The number that no request has.
_READY = 0


class ForkedProcess(SignalledProcess):
    """A kernel's process that a ForkServer has forked, and its group; implements Process.

    Attributes:
        before_reaping: called when it has ended; the server has reaped it then.
    """

    def __init__(self, server: ForkServer, pid: int) -> None:
        read_fd, write_fd = os.pipe()
        super().__init__(pid, FileIO(read_fd, "r"))
        self.before_reaping: Callable[[], None] = lambda: None
        self._server = server
        self._over = threading.Event()
        self._told = False
        self._signaller = FileIO(write_fd, "w")

    def end(self, exit_: Exit | None) -> None:
        """Take note of its end; called by the server's thread."""
        self.exit = exit_
        self._over.set()
        # A byte, not just the closed pipe: a fork of this process may hold another copy of it.
        with self._signaller:
            self._signaller.write(b".")

    def poll(self) -> bool:
        if self._over.is_set() and not self._told:
            self._told = True
            self.before_reaping()
        return self._told

    def close(self) -> None:
        if self.poll():
            self._sign.close()

    def abort(self) -> None:
        """End the group, block until it has ended, and close(): for a launch that fails."""
        self.kill()
        self._over.wait()
        self.close()

    def _send(self, signum: int) -> None:
        self._server.send_signal(self.pid, signum)

    def release(self) -> None:
        raise RuntimeError("a forked kernel ends with the server that has forked it")


class ForkServer:
    """The running server for a set of preloaded modules; ``running`` gives it.

    Every method is for any thread.

    Args:
        preload: modules that are imported beside ipykernel.
    """

    _lock: ClassVar = threading.Lock()
    servers: ClassVar[dict[tuple[str, ...], ForkServer]] = {}

    def __init__(self, preload: Sequence[str]) -> None:
        self._processes: dict[int, ForkedProcess] = {}
        self._answers: dict[int, SimpleQueue[dict[str, Any]]] = {_READY: SimpleQueue()}
        self._numbers = itertools.count(_READY + 1)
        self._judging = threading.Lock()
        self._handing_over = threading.Lock()
        self._sending = threading.Lock()
        self._judged = False
        self.dead = False
        self._socket, other_end = socket.socketpair()
        with other_end:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-Xfrozen_modules=off",  # as IPykernelProvider has it, and why
                    forkserver_process.__file__,
                    str(other_end.fileno()),
                    json.dumps(list(preload)),
                ],
                # It is no child of the kernel that this program itself may run in.
                env={k: v for k, v in os.environ.items() if k != KERNEL_ID_VARIABLE},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[other_end.fileno()],
                start_new_session=True,
            )
        self._listener = threading.Thread(
            target=self._listen, name=f"kernelproto-fork-{self._process.pid}", daemon=True
        )
        self._listener.start()

    @classmethod
    def running(cls, preload: Sequence[str]) -> ForkServer:
        """Return the server for these modules; start it if there is none, and wait until it is up.

        It blocks meanwhile: call it in a worker thread.

        Raises:
            InvalidLaunchParameter: a module cannot be imported.
            LaunchError: the server cannot be started, or is not fit to be forked.
        """
        key = tuple(sorted(set(preload)))
        with cls._lock:
            server = cls.servers.get(key)
            if server is None or server.dead:
                server = cls.servers[key] = cls(key)
        server._wait_until_ready()
        return server

    def fork(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: str | None, output: FileIO
    ) -> ForkedProcess:
        """Fork a kernel.

        Args:
            command: how ipykernel_process.py would be run by its path; its arguments count.
            env: the kernel's whole environment.
            cwd: its working directory; None means this program's.
            output: takes standard output and standard error; standard input is empty.

        Raises:
            OSError: it cannot be forked, or the working directory cannot be entered.
            ValueError: an argument or a variable cannot be handed to a process.
        """
        number = next(self._numbers)
        request = {
            "fork": number,
            "argv": list(command[command.index(ipykernel_process.__file__) :]),
            "env": dict(env),
            "cwd": cwd or os.getcwd(),
        }
        answers: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._answers[number] = answers
        answer: dict[str, Any]
        try:
            self._send(request, output.fileno())
            answer = answers.get(timeout=_FORK_SECONDS)
        except Empty:
            reason = f"the fork server has not answered within {_FORK_SECONDS:g} s"
            answer = {"errno": errno.ETIMEDOUT, "reason": reason, "file": None}
        finally:
            with self._handing_over:  # from here on an answer is too late, and known to be
                del self._answers[number]
        if "forked" not in answer:
            raise OSError(answer["errno"], answer["reason"], answer["file"])
        process: ForkedProcess = answer["forked"]
        return process

    def send_signal(self, pid: int, signum: int) -> None:
        """Send a signal to a kernel's group, unless it has ended."""
        with suppress(OSError):
            self._send({"signal": signum, "pid": pid})

    def close(self) -> None:
        """End the server and its kernels."""
        with suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._listener.join()

    def leave_to_parent(self) -> None:
        """Let go, in a fork of this program."""
        self._socket.close()
        self._process.returncode = 0  # it is nobody's to wait for here

    @classmethod
    def close_all(cls) -> None:
        """End every server of this program, and so their kernels; the next fork starts another."""
        with cls._lock:
            servers = list(cls.servers.values())
            cls.servers.clear()
        for server in servers:
            server.close()

    def _wait_until_ready(self) -> None:
        with self._judging:
            if self._judged:
                return
            try:
                ready = self._answers[_READY].get(timeout=_START_SECONDS)
            except Empty:
                ready = {}
            fault = self._fault(ready)
            if fault is not None:
                self.dead = True
                self.close()
                raise fault
            self._judged = True

    def _fault(self, ready: Mapping[str, Any]) -> LaunchError | None:
        """Say what is wrong with a server that has begun, or should have."""
        if "broken" not in ready:
            return LaunchError(
                f"the fork server has ended, or was not up within {_START_SECONDS:g} s; "
                "see that ipykernel starts, and that none of the preloaded modules ends the process"
            )
        broken = ready["broken"]
        if broken:
            reasons = "; ".join(f"{name!r}: {why}" for name, why in broken.items())
            return InvalidLaunchParameter(f"the fork server cannot import {reasons}")
        if ready["threads"] > 1:
            return LaunchError(
                f"the fork server cannot fork: {ready['threads'] - 1} threads were started by what "
                "it has imported, and would be missing in its kernels; preload other modules"
            )
        return None

    def _send(self, request: Mapping[str, Any], *descriptors: int) -> None:
        data = json.dumps(request).encode() + b"\n"
        with self._sending:
            sent = socket.send_fds(self._socket, [data], descriptors)
            self._socket.sendall(data[sent:])

    def _listen(self) -> None:
        """Take in what the server tells, until it has ended."""
        with self._socket.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                self._take(json.loads(line))
        self.dead = True
        self._socket.close()
        self._process.wait()
        for pid, process in list(self._processes.items()):
            # Nobody else could reap it, so its number is its own; init has it now.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            process.end(None)
        self._processes.clear()
        for answers in list(self._answers.values()):
            answers.put({"errno": errno.EPIPE, "reason": "the fork server has ended", "file": None})

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._answers[_READY].put(message)
        elif "ended" in message:
            exit_ = Exit(message["returncode"], message["cpu_seconds"], message["peak_memory"])
            process = self._processes.pop(message["ended"], None)
            if process is not None:
                process.end(exit_)
        elif "forked" in message:
            self._hand_over(message["forked"], message["pid"])
        else:
            with self._handing_over:
                if message["failed"] in self._answers:
                    self._answers[message["failed"]].put(message)

    def _hand_over(self, number: int, pid: int) -> None:
        """Give a forked kernel to who has asked for it; end it if nobody waits any more."""
        with self._handing_over:
            answers = self._answers.get(number)
            if answers is not None:
                self._processes[pid] = ForkedProcess(self, pid)
                answers.put({"forked": self._processes[pid]})
        if answers is None:
            self.send_signal(pid, signal.SIGKILL)


def _close_in_child() -> None:
    # The server must see the end of its owner, also when a fork of the owner lives on.
    for server in ForkServer.servers.values():
        server.leave_to_parent()
    ForkServer.servers.clear()


os.register_at_fork(after_in_child=_close_in_child)
atexit.register(ForkServer.close_all)
