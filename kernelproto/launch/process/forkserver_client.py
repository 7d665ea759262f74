"""ForkServerClient: sends requests to a fork server and receives the answers; POSIX only."""

from __future__ import annotations

import copy
import errno
import itertools
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from io import FileIO
from typing import Any

from kernelproto.concurrency.turns import turn
from kernelproto.exceptions import InvalidLaunchParameter, LaunchError
from kernelproto.launch.leftovers.watchdog import Hold
from kernelproto.launch.process.forked import ForkedProcess, ForkRequest
from kernelproto.launch.process.forkserver_link import Link, Posted
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.program_state import open_working_directory
from kernelproto.launch.process.signals import still_runs
from kernelproto.launch.programs.watchdog import kill_group, start_time

logger = logging.getLogger(__name__)

# While an answer is due, ticks of 0.1 s without news are counted. A program that was suspended
# counts one tick, however long that took.
_TICK_SECONDS = 0.1

# After this many ticks without news a server counts as not answering. During the loading of
# modules, which takes long on a cold disk, the limit is higher.
_START_TICKS = 1200
_SILENT_TICKS = 100

# The limit for signals is lower, because one of them may be a SIGKILL.
_SIGNAL_TICKS = 10
_SIGNAL_SECONDS = 0.9 * _SIGNAL_TICKS * _TICK_SECONDS
_MOST_SIGNALS = 1000

# Time for a forked process to become a kernel: the working directory may hang.
_ENTERING_TICKS = 300

# Time for a server to end.
_END_SECONDS = 2.0

# Servers that SIGKILL has not ended, because they hang in a system call. The next client reaps
# those that have ended meanwhile.
_unreaped: list[subprocess.Popen[bytes]] = []


class ServerLost(Exception):
    """A server cannot fork this kernel; another one may."""


class ForkServerClient:
    """Has a fork server fork kernels, and receives their exit statuses, until the server ends.

    Every method is thread-safe; join() blocks.

    Args:
        link: the link to the server; closed at the end.
        process: the server's process; waited for at the end.
        hold: has the watchdog stay between two kernels; closed at the end.

    Attributes:
        dead: whether the server forks no more.

    Raises:
        RuntimeError: no thread can be started.
    """

    def __init__(self, link: Link, process: subprocess.Popen[bytes], hold: Hold) -> None:
        self.dead = False
        self._link = link
        self._process = process
        self._hold = hold
        self._owner = os.getpid()
        self._state = threading.Lock()  # guards everything below
        self._numbers = itertools.count(1)
        self._requests: dict[int, ForkRequest] = {}
        self._processes: dict[int, ForkedProcess] = {}
        self._signals: dict[int, tuple[ForkedProcess, int]] = {}
        self._quiet_ticks = 0
        self._is_ready = self._is_silent = False
        self._fault: LaunchError | None = None
        self._leaving = threading.Event()
        _unreaped[:] = [server for server in _unreaped if server.poll() is None]
        self._thread = threading.Thread(
            target=self._listen, name=f"kernelproto-fork-{process.pid}", daemon=True
        )
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether the server has not ended."""
        return self._thread.is_alive()

    async def fork(self, message: Mapping[str, Any], output: FileIO) -> ForkedProcess:
        """Request a kernel; cancelled, this leaves no process.

        Args:
            message: the details of the request, see programs/forkserver.py.
            output: takes standard output and standard error.

        Raises:
            ServerLost: this server cannot fork the kernel; another one may.
            LaunchError: the server did not become ready, and another one would not either.
            OSError: the kernel cannot be forked, or the working directory cannot be entered.
            ValueError: an argument or a variable cannot be handed to a process.
        """
        with ExitStack() as undo:
            request = ForkRequest(next(self._numbers))
            undo.callback(request.close)
            # A duplicate, because the caller may close the output before the message is sent.
            output_copy = os.dup(output.fileno())
            undo.callback(os.close, output_copy)
            working_directory = open_working_directory()
            undo.callback(os.close, working_directory)
            details = _file_with(json.dumps(message).encode())
            undo.callback(os.close, details)
            posted = Posted(
                {"fork": request.number, "sandboxed": message.get("sandbox") is not None},
                [output_copy, working_directory, details],
                refuse=partial(self._fail, request.number),
            )
            with self._state:
                if self.dead:
                    raise ServerLost("it has ended")
                self._requests[request.number] = request
                undo.pop_all()
                self._link.post(posted)
        try:
            process = await request.answer()
            await turn()
        except BaseException:
            self._withdraw(request, posted)
            raise
        return process

    def send_signal(self, process: ForkedProcess, signum: int) -> None:
        """Send a signal to the group of a running kernel.

        Raises:
            RuntimeError: this is a fork of the program that has started the kernel.
        """
        if os.getpid() != self._owner:
            raise RuntimeError(
                "this kernel belongs to the program that this process was forked from: start "
                "another kernel here"
            )
        with self._state:
            if not self._is_silent:
                # The system also discards a signal while another signal of the same kind is
                # pending.
                signals = self._signals
                if len(signals) < _MOST_SIGNALS or (process, signum) not in signals.values():
                    number = next(self._numbers)
                    self._signals[number] = process, signum
                    self._post_signal(process.pid, signum, number, seconds=_SIGNAL_SECONDS)
                return
        process.signal_directly(signum)

    def keep(self, process: ForkedProcess) -> None:
        """Have the server let a kernel go on when this program ends."""
        self._link.post(Posted({"keep": process.pid}))

    def forget(self, process: ForkedProcess) -> None:
        """Report the end of a kernel no more."""
        with self._state:
            self._processes.pop(process.pid, None)

    def retire(self) -> None:
        """Have the server fork no more, and end with the last kernel."""
        with self._state:
            self.dead = True
        self._link.post(Posted({"retire": True}))

    def join(self) -> None:
        """End the server and its kernels; block until the end, at most a few seconds."""
        if os.getpid() == self._owner:
            self._leaving.set()
            self._link.shut_down()
            self._thread.join()

    def leave_to_parent(self) -> None:
        """Close the link, in a fork of this program."""
        self._link.leave_to_parent()
        self._process.returncode = 0  # this process is not the parent, and cannot wait

    def _withdraw(self, request: ForkRequest, posted: Posted) -> None:
        """End the kernel of an abandoned request, even if the kernel is forked later."""
        with self._state:
            self._requests.pop(request.number, None)
            self._link.withdraw(posted)
        if request.process is None:
            request.close()
        else:
            request.process.abort()

    def _post_signal(self, pid: int, signum: int, number: int, *, seconds: float) -> None:
        by = time.monotonic() + seconds
        self._link.post(Posted({"signal": signum, "pid": pid, "number": number, "by": by}))

    # Only the thread calls the methods below.

    def _listen(self) -> None:
        """Receive the server's messages until the end of the server."""
        try:
            self._link.run(self._take, self._look, _TICK_SECONDS)
        except Exception:
            logger.exception(
                "the fork server %d is ended, because reading its messages failed",
                self._process.pid,
            )
        with self._state:
            self.dead = True
            requests, processes = dict(self._requests), dict(self._processes)
            self._requests.clear()
            self._processes = {pid: each for pid, each in processes.items() if each.outlives}
            self._is_silent = True  # signals are sent without the server from now on
        self._link.close()
        self._end_process()
        self._hold.close()
        # Init is the parent of the kernels now, and reaps those that have ended.
        for process in processes.values():
            if not process.outlives:
                kill_group(process.pid, process.started)
                process.end(None)
        for request in requests.values():
            request.fail(self._reason_of_end())
        while self._processes and not self._leaving.wait(_TICK_SECONDS):
            self._look_after_kernels()

    def _end_process(self) -> None:
        try:
            self._process.wait(_END_SECONDS)
            return
        except subprocess.TimeoutExpired:
            self._process.kill()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            _unreaped.append(self._process)
            logger.warning("the fork server: %s", still_runs(self._process.pid, _END_SECONDS))

    def _reason_of_end(self) -> Exception:
        if self._fault is not None:
            return copy.copy(self._fault)
        if not self._is_ready:
            return LaunchError(
                "the fork server has ended before it was ready; see that ipykernel starts, and "
                "that none of the preloaded modules ends the process"
            )
        return ServerLost("it has ended")

    def _take(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            self._fault = _fault(message)
            self._is_ready = self._fault is None
        elif "forked" in message:
            self._take_forked(message["forked"], message["pid"])
            if message["entered"]:
                self._succeed(message["forked"])
        elif "entered" in message:
            self._succeed(message["entered"])
        elif "failed" in message:
            self._fail(message["failed"], _error(message))
        elif "signalled" in message:
            with self._state:
                self._signals.pop(message["signalled"], None)
        else:
            exit_ = Exit(message["returncode"], message["cpu_seconds"], message["peak_memory"])
            with self._state:
                process = self._processes.pop(message["ended"], None)
            if process is not None:
                process.end(exit_)

    def _take_forked(self, number: int, pid: int) -> None:
        started = ""
        with suppress(OSError):
            started = start_time(pid)
        with self._state:
            request = self._requests.get(number)
            if request is None:  # withdrawn
                self._post_signal(pid, signal.SIGKILL, 0, seconds=math.inf)
            else:
                request.process = ForkedProcess(self, pid, started, request)
                self._processes[pid] = request.process

    def _succeed(self, number: int) -> None:
        with self._state:
            request = self._requests.pop(number, None)
            if request is not None:
                request.succeed()

    def _fail(self, number: int, error: Exception) -> None:
        with self._state:
            request = self._requests.pop(number, None)
            if request is not None:
                request.fail(error)

    def _look(self, has_news: bool, has_ticked: bool) -> bool:
        """Check whether the server answers; return whether to check again after the next tick."""
        with self._state:
            if has_news:
                self._quiet_ticks, self._is_silent = 0, False
            self._quiet_ticks += has_ticked
            forking = [r for r in self._requests.values() if r.process is None]
            entering = [r for r in self._requests.values() if r.process is not None]
            is_asked = bool(forking or self._signals)
            if self._is_ready and is_asked and self._quiet_ticks >= _SIGNAL_TICKS:
                self._is_silent = True
            overdue = list(self._signals.values()) if self._is_silent else []
            if overdue:
                self._signals.clear()
            if self._quiet_ticks < (_SILENT_TICKS if self._is_ready else _START_TICKS):
                forking.clear()
            for request in entering:
                request.ticks += has_ticked
            if not is_asked:
                self._quiet_ticks = 0
        for process, signum in overdue:
            process.signal_directly(signum)
        for request in forking:
            self._fail(request.number, ServerLost("it does not answer"))
        for request in entering:
            if request.ticks >= _ENTERING_TICKS:
                self._fail(request.number, _too_late())
        if self._is_silent and has_ticked:
            self._look_after_kernels()
        return is_asked or bool(entering) or (self._is_silent and bool(self._processes))

    def _look_after_kernels(self) -> None:
        """Find the kernels of a silent server that have ended; end a silent server without any."""
        with self._state:
            processes = list(self._processes.values())
        for process in processes:
            if process.has_ended():
                self.forget(process)
                if process.outlives:  # the server, which would kill the rest, may have ended
                    kill_group(process.pid, process.started)
                process.end(None)
        if self.dead and not self._processes and not self._requests:
            self._process.kill()


def _fault(ready: Mapping[str, Any]) -> LaunchError | None:
    """Return the reason why a server that has begun cannot be used."""
    broken = ready["broken"]
    if broken:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in broken.items())
        return InvalidLaunchParameter(f"the fork server cannot import {reasons}")
    if ready["threads"] > 1:
        return LaunchError(
            f"the fork server cannot fork: {ready['threads'] - 1} threads were started by the "
            "modules that it has imported, and would be missing in its kernels; preload other "
            "modules"
        )
    return None


def _error(failure: Mapping[str, Any]) -> Exception:
    """Return the exception for a kernel that could not be forked."""
    if failure["unfit"]:
        return ServerLost(f"its kernels cannot take over our state: {failure['reason']}")
    if failure["errno"] is None:
        return ValueError(failure["reason"])
    return OSError(failure["errno"], failure["reason"], failure["file"])


def _too_late() -> OSError:
    seconds = _ENTERING_TICKS * _TICK_SECONDS
    return OSError(
        errno.ETIMEDOUT,
        f"the forked process was not ready to be a kernel within {seconds:g} s; see that its "
        "working directory can be entered",
    )


def _file_with(content: bytes) -> int:
    """Return a descriptor of a file without a name."""
    if sys.platform == "linux":
        descriptor = os.memfd_create("request")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor
