"""ProcessGroup: a process with its process group on POSIX.

Theory of operation
-------------------
A process that has ended keeps its number, and its group's number, until the parent reaps the
process. So poll() looks for the end without reaping, then kills the rest of the group, and only
then reaps: no signal reaches another process that got the number later. poll() never blocks; wait()
calls poll() whenever a descriptor shows that the process has ended.

A process inherits the signals that the parent blocks or ignores. If there are any, reset_signals.py
is started instead and starts the program, which takes 10 ms more.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from io import FileIO
from typing import ClassVar

from kernelproto.launch.leftovers.watchdog import python_executable
from kernelproto.launch.process.exit_watch import watch_exit
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.signals import SignalledProcess
from kernelproto.launch.programs import reset_signals


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

    # Released processes that still run. The next launch reaps those that have ended.
    _released: ClassVar[list[ProcessGroup]] = []

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
        ProcessGroup._released = [group for group in self._released if not group.poll()]
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
        if self.poll():
            self._end.close()

    def abort(self) -> None:
        """End the group, block until the end, and close(); after a failed launch."""
        self.kill()
        while not self.poll():
            self._end.wait()
        self.close()

    def outlive(self) -> None:
        """Do nothing: only the watchdog ends a process with this program."""

    def release(self) -> None:
        if self.poll():
            self._end.close()
        else:
            self._sign.close()
            self._released.append(self)


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
