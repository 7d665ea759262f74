"""ProcessGroup: a process and those it has started, from first to last. What is POSIX is here.

Theory of operation
-------------------
A process that has ended keeps its number, and with it that of its group, until its parent reaps it.
So poll() looks for the end without reaping, then kills what is left of the group, and only then
reaps: no signal reaches a stranger who was given the number again. poll() does all of it at once
and never blocks; wait() is poll() whenever a descriptor says that the process has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO

import anyio


class ProcessGroup:
    """A process that was started in a session of its own, with all that stays in its group.

    Args:
        command: the program and its arguments; the program is looked for on the PATH of *env*.
        env: the whole environment.
        cwd: the working directory; None means the caller's.
        output: takes standard output and standard error; standard input is empty.

    Attributes:
        pid: the number of the process and of its group.
        returncode: the exit status, once poll() or wait() has found the end; negative for a signal,
            None until then and also where somebody else has reaped the process.

    Raises:
        OSError: the program cannot be run; nothing is left of the attempt.
        ValueError: an argument or a variable cannot be handed to a program.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        output: FileIO,
    ) -> None:
        self._popen = subprocess.Popen(
            command,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self.returncode: int | None = None
        self._ended = False
        try:
            self._end_sign, self._watcher = _watch_end(self.pid)
        except BaseException:
            os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
            raise
        # Only one task at a time may wait for a descriptor; the others wait for their turn.
        self._turn = anyio.Lock()

    def poll(self) -> bool:
        """Return whether the process has ended; if so, kill the rest of its group and reap it."""
        if self._ended:
            return True
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                return False
        except ChildProcessError:
            # Reaped behind our back: the exit status is lost, and the number may be a stranger's.
            self._popen.wait()
        else:
            # Who runs as somebody else stays; macOS says the same of a group that is all dead.
            with suppress(PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self.returncode = self._popen.wait()
        self._ended = True
        return True

    async def wait(self) -> int | None:
        """Wait until the process has ended; return what is then the returncode."""
        async with self._turn:
            while not self.poll():
                await anyio.wait_readable(self._end_sign)
        return self.returncode

    def signal(self, signum: int) -> None:
        """Send a signal to every process of the group; ignored once the process has ended.

        Raises:
            PermissionError: all of them run as somebody else.
        """
        if not self.poll():
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signum)

    def interrupt(self) -> None:
        """Send SIGINT to the group."""
        self.signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM to the group."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the group."""
        self.signal(signal.SIGKILL)

    def close(self) -> None:
        """Let go of the descriptor that wait() needs, once the process has ended. Idempotent."""
        if self.poll():
            if self._watcher is not None:
                self._watcher.join()
            self._end_sign.close()


def _watch_end(pid: int) -> tuple[FileIO, threading.Thread | None]:
    """Return a descriptor that can be read once *pid* has ended, and the thread that sees to it."""
    try:
        return FileIO(os.pidfd_open(pid), "r"), None
    except (AttributeError, OSError):
        # Not Linux, or a Linux before 5.3, or a sandbox that denies the call.
        return _watch_end_from_thread(pid)


def _watch_end_from_thread(pid: int) -> tuple[FileIO, threading.Thread]:
    read_fd, write_fd = os.pipe()
    end_sign, sign = FileIO(read_fd, "r"), FileIO(write_fd, "w")

    def watch() -> None:
        # A byte, not just the closed pipe: a fork of this process may hold another copy of it.
        with sign:
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            sign.write(b".")

    thread = threading.Thread(target=watch, name=f"kernelproto-wait-{pid}", daemon=True)
    try:
        thread.start()
    except BaseException:
        end_sign.close()
        sign.close()
        raise
    return end_sign, thread
