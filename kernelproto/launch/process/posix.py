"""ProcessGroup: a process and those it has started, from first to last; on POSIX.

Theory of operation
-------------------
A process that has ended keeps its number, and with it that of its group, until its parent reaps it.
So poll() looks for the end without reaping, then kills what is left of the group, and only then
reaps: no signal reaches a stranger who was given the number again. poll() does all of it at once
and never blocks; wait() is poll() whenever a descriptor says that the process has ended.

A process inherits which signals the thread blocks, and the program ignores, that starts it. Where
there are any, reset_signals.py is started in its place, which takes 10 ms more.
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
    """A process that was started in a session of its own, with all that stays in its group.

    Args:
        command: the program and its arguments; the program is looked for on the PATH of *env*.
        env: the whole environment.
        cwd: the working directory; None means the caller's.
        output: takes standard output and standard error; standard input is empty.

    Attributes:
        before_reaping: called when the process has ended, before others can get its number.

    Raises:
        OSError: the program cannot be run; nothing is left of the attempt.
        ValueError: an argument or a variable cannot be handed to a program.
    """

    # Who has been released and lives on. When they end they must be reaped, and nobody waits.
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
        popen.returncode = 0  # it is waited for here, and Popen is not to warn that nobody does
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
            # Reaped behind our back: the exit status is lost, and the number may be a stranger's.
            self.before_reaping()
        else:
            # Who runs as somebody else stays; macOS says the same of a group that is all dead.
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
        """End the group, block until it has ended, and close(): for a launch that fails."""
        self.kill()
        while not self.poll():
            self._end.wait()
        self.close()

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
        OSError: there is no such program, or it cannot be run.
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
    except OSError:  # a frozen application has none; its kernels inherit its signals
        return command
    return [python, "-I", "-S", reset_signals.__file__, env.get("LC_CTYPE", ""), *command]
