"""ProcessGroup: a process with its process group on POSIX.

Theory of operation
-------------------
A process that has ended keeps its number, and its group's number, until the parent reaps the
process. So poll() looks for the end without reaping, then kills the rest of the group, and only
then reaps: no signal reaches another process that got the number later. poll() never blocks; wait()
calls poll() whenever a descriptor shows that the process has ended.

A process that hangs in a system call does not end by SIGKILL before the call returns. Nothing waits
for such a process without a limit. The process stays among those that the next launch reaps.

A process inherits the signals that the parent blocks or ignores. If there are any, reset_signals.py
is started instead and starts the program, which takes 10 ms more.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from typing import ClassVar

from kernelproto.launch.leftovers.watchdog import python_executable
from kernelproto.launch.process.exit_watch import watch_exit
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.signals import SignalledProcess, still_runs
from kernelproto.launch.programs import reset_signals

logger = logging.getLogger(__name__)

# The event loop waits meanwhile. SIGKILL ends a process within milliseconds.
_ABORT_SECONDS = 1.0


class ProcessGroup(SignalledProcess):
    """A process that was started in a session of its own, with all processes of the group.

    Args:
        command: the program with arguments; the program is searched on the PATH of *env*.
        env: the whole environment.
        cwd: the working directory; None means the caller's.
        output: takes standard output and standard error; standard input is empty.

    Attributes:
        before_reaping: called after the end, before the system can reuse the number.

    Raises:
        OSError: the program cannot be run; nothing is left of the attempt.
        ValueError: an argument or a variable cannot be handed to a program.
    """

    # Processes that were released, or closed while SIGKILL had not ended them. The next launch
    # reaps those that have ended.
    _running: ClassVar[list[ProcessGroup]] = []

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        output: FileIO,
    ) -> None:
        if reset_signals.is_needed():
            command = _with_signals_reset(command, env, cwd)
        ProcessGroup._running = [group for group in self._running if not group._has_closed()]
        popen = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        popen.returncode = 0  # this class waits for the process; Popen must not warn
        try:
            self._end = watch_exit(popen.pid)
        except BaseException:
            os.killpg(popen.pid, signal.SIGKILL)
            os.waitpid(popen.pid, 0)
            raise
        super().__init__(popen.pid, self._end.sign)
        self.before_reaping: Callable[[], None] = lambda: None
        self._ended = False

    def poll(self) -> bool:
        if self._ended:
            return True
        try:
            if not self._end.has_come():
                return False
        except ChildProcessError:
            # Another part of the program has reaped the process: the exit status is lost, and
            # another process may have the number.
            self.before_reaping()
        else:
            # Processes of other users stay; macOS raises this also if the whole group has ended.
            with suppress(PermissionError, ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self.before_reaping()
            self.exit: Exit | None = self._end.reap()
        self._ended = True
        return True

    def close(self) -> None:
        if not self._has_closed() and self not in self._running:
            self._running.append(self)

    def abort(self) -> None:
        """End the group, block until the end, and close(); after a failed launch.

        The call blocks for a second at most. A process that hangs in a system call is logged.
        """
        self.kill()
        by = time.monotonic() + _ABORT_SECONDS
        while not self.poll() and (left := by - time.monotonic()) > 0:
            self._end.wait(left)
        if not self.poll():
            logger.warning(still_runs(self.pid, _ABORT_SECONDS))
        self.close()

    def outlive(self) -> None:
        """Do nothing: only the watchdog ends a process with this program."""

    def release(self) -> None:
        if self.poll():
            self._end.close()
        else:
            self._sign.close()
            self._running.append(self)

    def _has_closed(self) -> bool:
        """Close the descriptors if the process has ended; return whether it has."""
        if self.poll():
            self._end.close()
        return self._ended


def _with_signals_reset(
    command: Sequence[str], env: Mapping[str, str], cwd: str | None
) -> Sequence[str]:
    """Return the command that runs *command* with no signal blocked or ignored.

    Raises:
        OSError: the program does not exist or cannot be run.
    """
    program = command[0]
    if os.sep in program:
        path: str | None = os.path.join(cwd or os.curdir, program)
    else:
        path = shutil.which(program, path=env.get("PATH", os.defpath))
    if path is None or not os.path.exists(path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), program)
    if not os.access(path, os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), program)
    try:
        python = python_executable()
    except OSError:  # in a frozen application kernels inherit the signals
        return command
    return [python, "-I", "-S", reset_signals.__file__, env.get("LC_CTYPE", ""), *command]
