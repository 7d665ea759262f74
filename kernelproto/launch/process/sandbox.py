"""Sandbox: how a kernel is kept apart from this machine and from other kernels. Linux only."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.interfaces import DeathReason
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.limits import NO_FAILURES, Amount, Limits
from kernelproto.launch.programs.sandbox_mounts import HOME, TMP

Path = Annotated[str, msgspec.Meta(pattern=r"\A/[^\0]*\Z")]
UserId = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 2)]
UserRange = Annotated[str, msgspec.Meta(pattern=r"\A\d{1,10}-\d{1,10}\Z")]

# The variables that a sandboxed kernel inherits. All others may hold secrets of the caller.
_INHERITED = {
    "CONDA_DEFAULT_ENV",
    "CONDA_PREFIX",
    "LANG",
    "LANGUAGE",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONPATH",
    "TZ",
    "VIRTUAL_ENV",
}
_NO_SPACE = re.compile(r"no space left on device|ENOSPC", re.IGNORECASE)

# A shell that runs the kernel as a child ends with 128 and the number of the signal.
_FILTERED = () if sys.platform == "win32" else (-signal.SIGSYS, 128 + signal.SIGSYS)

_OF_SANDBOX = {"HOME": HOME, "TMPDIR": TMP}


class Sandbox(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sandbox for a kernel and all its processes. All paths are absolute.

    Args:
        network: ``"none"``; ``"loopback"``, a loopback interface of the sandbox's own, which the
            debugger needs; or ``"full"``, the network of this machine.
        read_only: whether the files of this machine are read-only.
        tmp: bytes of a private ``/tmp``, which also holds the home folder and the shared memory.
        writable: folders that the kernel may write to. With a number, the kernel gets an empty
            folder with this quota in bytes; with None, the folder of this machine, without a quota.
        hidden: files and folders that the kernel does not see, in addition to those that every
            sandbox hides.
        visible: files and folders that the kernel sees, read-only, in hidden folders.
        uid: the user of the kernel, if this program is root; None means 65534 (nobody). Without
            root, the kernel has the user of this program. With a range, such as
            ``"200000-299999"``, each kernel gets a number that has no account and that no other
            kernel uses.
        processes: number of processes and threads in the sandbox.
        memory: bytes of memory of all processes in the sandbox together, with the files in ``/tmp``
            and other folders with a quota; None means no limit. A kernel with more is killed.
        cpu: CPU time of all processes together, per second of real time: 0.5 is half of one CPU.
            None means no limit.
        seccomp: ``"default"`` filters system calls, on x86_64 and aarch64; ``"none"`` does not.
    """

    network: Literal["none", "loopback", "full"] = "none"
    read_only: bool = True
    tmp: Amount = 64 * 2**20
    writable: Mapping[Path, Amount | None] = {}
    hidden: tuple[Path, ...] = ()
    visible: tuple[Path, ...] = ()
    uid: UserId | UserRange | None = None
    processes: Amount = 256
    memory: Amount | None = None
    cpu: Annotated[float, msgspec.Meta(ge=0.01)] | None = None
    seccomp: Literal["default", "none"] = "default"

    def check(self, transport: str, limits: Limits | None) -> None:
        """Check that the sandbox fits the other launch parameters.

        Raises:
            InvalidLaunchParameter: the kernel cannot be reached in the sandbox, or another
                parameter limits the number of processes as well.
        """
        if self.network != "full" and transport == "tcp":
            raise InvalidLaunchParameter(
                f"launch parameter 'sandbox': a kernel with network {self.network!r} cannot be "
                "reached over tcp: add the launch parameter transport='ipc' if the kernel supports "
                "ipc sockets, or set network to 'full'"
            )
        if limits is not None and limits.processes is not None:
            raise InvalidLaunchParameter(
                "launch parameter 'limits': processes cannot be used with a sandbox, which counts "
                "its own processes: set processes of the launch parameter 'sandbox'"
            )


class SandboxLimits(Limits, frozen=True, kw_only=True):
    """The limits of a sandboxed kernel, and other reasons for which a sandbox ends a kernel."""

    @classmethod
    def of(cls, sandbox: Sandbox, limits: Limits | None) -> SandboxLimits:
        """Return the limits of a sandbox, and those of each process in the sandbox."""
        each = msgspec.structs.asdict(limits or Limits())
        return cls(**{**each, "processes": sandbox.processes})

    def reason(self, end: Exit, output: str) -> DeathReason | None:
        """Return why the sandbox has probably ended the kernel; see ``Limits.reason``."""
        if end.returncode in _FILTERED:
            return DeathReason(
                "the filter of system calls of its sandbox has ended it; a program for another "
                "architecture, such as one of 32 bits, cannot run in a sandbox",
                "seccomp",
            )
        reason = super().reason(end, output)
        if reason is None and end.returncode not in NO_FAILURES and _NO_SPACE.search(output):
            return DeathReason(
                "its last output suggests that a folder of its sandbox was full: raise tmp, or the "
                "quota of the folder in writable",
                "disk_quota",
            )
        return reason


def sandbox_environment(
    environment: Mapping[str, str], given: Iterable[str] = ()
) -> dict[str, str]:
    """Return the variables of an environment that a sandboxed kernel gets.

    Args:
        environment: the whole environment, with inherited variables.
        given: the names of the variables that were not inherited.
    """
    kept = _INHERITED | set(given)
    variables = {k: v for k, v in environment.items() if k in kept or k.startswith("LC_")}
    return {**_OF_SANDBOX, **variables}
