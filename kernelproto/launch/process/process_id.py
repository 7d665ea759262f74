"""ProcessId: identifies a process, although the system reuses process numbers.

The number and the start time identify a process of one pid namespace since the boot of the machine.
The state of a process on another machine, or in another container, is unknown. Processes from
before the last boot of this machine have ended.
"""

from __future__ import annotations

import os
import socket
from functools import cache
from typing import Annotated

import msgspec

from kernelproto.launch.process.proc import boot_id, pid_namespace
from kernelproto.launch.programs.watchdog import start_time

# Other numbers have another meaning for kill().
_ProcessNumber = Annotated[int, msgspec.Meta(ge=1, lt=2**31)]


class Machine(msgspec.Struct, frozen=True):
    """The machine on which a process number is valid; unknown fields are ""."""

    host: str
    boot: str
    pid_namespace: str


class ProcessId(msgspec.Struct, frozen=True):
    """A process.

    Args:
        pid: the number of the process.
        started: the start time in the system's units, "" if unknown.
        machine: the machine of the process.
    """

    pid: _ProcessNumber
    started: str
    machine: Machine

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return the identity of the process that runs under this number."""
        return cls(pid, start_time(pid), _this_machine())

    @property
    def is_here(self) -> bool:
        """Whether the process is on this machine, visible to this program and its signals."""
        return self.machine == _this_machine()

    @property
    def is_gone(self) -> bool:
        """Whether the process has certainly ended."""
        here = _this_machine()
        if self.machine != here:
            return self.machine.host == here.host and self.machine.boot != here.boot
        if self.started:
            try:
                return start_time(self.pid) != self.started
            except OSError:  # there are no file descriptors left to look
                return False
        if os.name != "posix":
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


@cache
def _this_machine() -> Machine:
    boot = boot_id()
    return Machine(socket.gethostname(), boot, pid_namespace() if boot else "")
