"""SignalledProcess: the common part of all processes on POSIX."""

from __future__ import annotations

import os
import signal
from abc import ABC, abstractmethod
from contextlib import suppress
from io import FileIO

import anyio

from kernelproto.launch.process.interface import Exit


def still_runs(pid: int, seconds: float) -> str:
    """Describe a process that SIGKILL has not ended, with the remedy.

    Args:
        pid: the number of the process.
        seconds: the time since SIGKILL.
    """
    return (
        f"process {pid} still runs {seconds:g} s after SIGKILL: it hangs in a system call, and "
        f"ends when the call returns; see /proc/{pid}/wchan, and whether its file systems answer"
    )


class SignalledProcess(ABC):
    """Implements most of Process: waiting for a descriptor, and signals to the group.

    Args:
        pid: the number of the process and of the group.
        sign: a descriptor that becomes readable when the process ends.
    """

    exit: Exit | None

    def __init__(self, pid: int, sign: FileIO) -> None:
        self.pid = pid
        self.exit = None
        self.killed = False
        self._sign = sign
        # Only one task at a time may wait for a descriptor; the others wait for their turn.
        self._turn = anyio.Lock()

    @abstractmethod
    def poll(self) -> bool: ...

    async def wait(self) -> int | None:
        async with self._turn:
            while not self.poll():
                if self._sign.closed:
                    raise RuntimeError(
                        "this kernel has been released and cannot be waited for here"
                    )
                await anyio.wait_readable(self._sign)
        return None if self.exit is None else self.exit.returncode

    def signal(self, signum: int) -> None:
        if not self.poll():
            self.killed |= signum == signal.SIGKILL
            self._send(signum)

    def interrupt(self) -> None:
        self.signal(signal.SIGINT)

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)

    def _send(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signum)
