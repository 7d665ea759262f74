"""JobFolder: the folder of a kernel in a batch job, on a file system that the nodes share."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from kernelproto.exceptions import DiscoveryError, LaunchError, RemoteProtocolError
from kernelproto.launch.leftovers.claims import Ownership
from kernelproto.launch.leftovers.kernel_folder import KernelFolder
from kernelproto.launch.output.file import FileTail
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.programs import batch_job
from kernelproto.wire.connection import CHANNEL_NAMES

PROGRAM = "job.py"
KERNEL_FILE = "kernel.json"
SCRIPT_OUTPUT = "script-output"

# A program on another machine that has not renewed the lease for so long has ended.
_DEAD_SECONDS = 120.0


class JobPlan(msgspec.Struct, frozen=True):
    """The file that has the command for the first process of a job."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str | None
    linger: float | None


class End(msgspec.Struct, frozen=True):
    """The file about the end of a kernel, written by the first process of the job."""

    returncode: int | None
    cause: str


class JobFolder(KernelFolder):
    """The folder of one kernel."""

    @property
    def ownership(self) -> Ownership:
        """The program that owns the kernel, perhaps on another machine."""
        record = self.record
        return Ownership(
            self.file("owner.json"),
            record.kernel_id,
            record.owner,
            record.detached,
            is_gone=self._is_gone,
        )

    def prepare(self, plan: JobPlan, kernel_file: Callable[[], bytes]) -> None:
        """Write all files of a job.

        Args:
            plan: the command of the kernel, with the variables.
            kernel_file: returns the connection file of the kernel, with ports 0.

        Raises:
            LaunchError: they cannot be written.
        """
        try:
            self.write(batch_job.PLAN, lambda: msgspec.json.encode(plan))
            self.write(KERNEL_FILE, kernel_file)
            self.write(batch_job.LEASE, bytes)
            shutil.copyfile(batch_job.__file__, self.file(PROGRAM))
        except (OSError, RuntimeError, ValueError) as error:
            raise LaunchError(
                f"cannot write the files of a job in {self.path!r}: {error}"
            ) from error

    def renew_lease(self) -> None:
        """Tell the job that the owner lives; errors are ignored until the next time."""
        with suppress(OSError):
            os.utime(self.file(batch_job.LEASE))

    def ports(self) -> dict[str, int] | None:
        """Return the ports that the kernel has chosen; None before that."""
        try:
            found = msgspec.json.decode(self.read(KERNEL_FILE), type=dict[str, msgspec.Raw])
            ports = {
                f"{name}_port": msgspec.json.decode(found[f"{name}_port"], type=int)
                for name in CHANNEL_NAMES
            }
        except (OSError, ValueError, LookupError):
            return None  # the file is being written
        return ports if all(ports.values()) else None

    def has_address(self) -> bool:
        """Return whether the launching program has stored the address of the kernel.

        Without the address, no other program can adopt the kernel.
        """
        with suppress(DiscoveryError, RemoteProtocolError):
            return bool(self.info.ip)
        return False

    def end(self) -> End | None:
        """Return how the kernel has ended; None before the first process of the job reports it."""
        try:
            return msgspec.json.decode(self.read(batch_job.END), type=End)
        except (OSError, ValueError):
            return None

    def output_tail(self) -> str:
        """Return the last 64 KiB of the output of the kernel, or else of the script."""
        output = FileTail(self.file(batch_job.OUTPUT)).text()
        return output or FileTail(self.file(SCRIPT_OUTPUT)).text()

    def _is_gone(self, owner: ProcessId) -> bool:
        if owner.is_here or owner.is_gone:
            return owner.is_gone
        try:
            renewed = os.stat(self.file(batch_job.LEASE)).st_mtime
        except OSError:
            return False
        return time.time() - renewed > _DEAD_SECONDS
