"""LocalKernelManager: the handle on a kernel that runs as a process on this machine."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.to_thread
import msgspec

from kernelproto.concurrency.process_owner import Owner
from kernelproto.concurrency.shield import to_the_end
from kernelproto.exceptions import LaunchError
from kernelproto.interfaces import DeathReason, KernelHandle
from kernelproto.launch.address.ports import address_was_taken
from kernelproto.launch.leftovers.records import Record
from kernelproto.launch.leftovers.watchdog import Watch
from kernelproto.launch.output.forward import Forwarder
from kernelproto.launch.process.interface import Process
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.process.proc import oom_kills
from kernelproto.launch.process.signals import still_runs
from kernelproto.launch.process.wrapped import interrupt_wrapped
from kernelproto.launch.programs.watchdog import kill_members, reap_orphans, remove_files
from kernelproto.launch.signalling import require_signals
from kernelproto.launch.spec.kernelspec import InterruptMode
from kernelproto.launch.spec.naming import HOST, LOCAL
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ConnectionInfo

if TYPE_CHECKING:
    from kernelproto.launch.process.control_groups import ControlGroups  # Linux only

logger = logging.getLogger(__name__)

_KILL_SECONDS = Timeouts().kill

# Time for forwarding the rest of the output at the end.
_FORWARD_SECONDS = 1.0


class Output(Protocol):
    """The tail of the output of a kernel's processes."""

    def text(self) -> str:
        """Return the last 64 KiB; also after close()."""
        ...

    def close(self) -> None:
        """Close the descriptors; more than once is fine."""
        ...


class Files(Protocol):
    """The connection file and the sockets of a kernel.

    Attributes:
        path: the absolute path of the connection file.
    """

    path: str

    @property
    def info(self) -> ConnectionInfo:
        """The contents of the connection file."""
        ...

    def remove(self) -> None:
        """Remove all of them; more than once is fine."""
        ...


class LocalKernelManager:
    """The handle on a kernel that runs as a process on this machine.

    Implements KernelManager, DescribesFailure, ExplainsDeath, IsListed and HasHandle. Signals go to
    the process group: to the kernel and its descendants, except those that have left the group.
    Processes of the group that outlive the kernel are killed as soon as a method notices the
    kernel's end. On Linux, cleanup() also kills processes that have left the group but still have
    the kernel's id as KERNELPROTO_KERNEL_ID in their environment.

    If this program is killed, the watchdog does the same and removes the files.

    In a fork of this program the kernel belongs to the parent: waiting and signals raise
    WrongProcess, and cleanup() does nothing.

    Attributes:
        kernel_id: a UUID.
        connection_file: the path of that file.
        command: the command line of the process.
        pid: the number of the process and of its group.
        detached: whether the kernel outlives this program.
    """

    def __init__(
        self,
        record: Record,
        *,
        process: Process,
        output: Output,
        connection_file: Files,
        interrupt_mode: InterruptMode,
        watch: Watch | None = None,
        limits: Limits | None = None,
        control_groups: ControlGroups | None = None,
        forwarder: Forwarder | None = None,
    ) -> None:
        self.kernel_id = record.kernel_id
        self.command: Sequence[str] = record.command
        self.detached = record.detached
        self.connection_file = connection_file.path
        self.pid = process.pid
        self._record = record
        self._process = process
        self._output = output
        self._files = connection_file
        self._interrupt_mode = interrupt_mode
        self._watch = watch
        self._limits = limits
        self._control_groups = control_groups
        self._forwarder = forwarder
        self._owner = Owner()
        self._oom_kills = oom_kills()
        self._is_detached = False
        self._are_members_ended = False
        self._is_over = False

    @property
    def connection_info(self) -> ConnectionInfo:
        """The contents of the connection file."""
        return self._files.info

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None for a running process or if unknown."""
        if self._owner.is_here:
            self._process.poll()
        return None if self._process.exit is None else self._process.exit.returncode

    @property
    def has_ended(self) -> bool:
        """Whether the kernel's process has ended."""
        self._owner.check("kernel")
        return self._process.poll()

    async def is_alive(self) -> bool:
        """Return whether the kernel's process runs."""
        return not self.has_ended

    async def wait(self) -> int | None:
        """Wait until the process has ended; return the exit status, None if unknown.

        Many tasks may call ``wait``, even after cleanup(). A negative status is the number of the
        signal that ended the process.
        """
        self._owner.check("kernel")
        return await self._process.wait()

    async def signal(self, signum: int) -> None:
        """Send a signal to the process group; do nothing if the process has ended.

        Raises:
            PermissionError: the kernel runs as another user.
        """
        self._owner.check("kernel")
        self._process.signal(signum)

    async def interrupt(self) -> None:
        """Send SIGINT to the process group, or below a wrapper to the kernel and its children.

        Raises:
            UnsupportedRequest: this kernel is interrupted by a message, not by a signal.
        """
        require_signals(self._interrupt_mode)
        self._owner.check("kernel")
        if self._process.poll() or interrupt_wrapped(self.pid, self.connection_file):
            return
        self._process.interrupt()

    async def terminate(self) -> None:
        """Ask the process group to end (SIGTERM)."""
        self._owner.check("kernel")
        self._process.terminate()

    async def kill(self) -> None:
        """End the process group (SIGKILL)."""
        self._owner.check("kernel")
        self._process.kill()

    async def cleanup(self) -> None:
        """Kill the processes that still run, and remove everything that the launch has made.

        ``cleanup`` cannot be cancelled half-way, takes at most 5 seconds, and may be called again
        and by several tasks at once. A process that SIGKILL does not end in this time, because it
        hangs in a system call, is logged and left running. Its record stays: ``cleanup`` may be
        called again, and after the end of this program, the watchdog or the next launch ends and
        removes what is left.
        """
        if self._is_detached or not self._owner.is_here:
            return
        try:
            await to_the_end(self._end_processes, seconds=_KILL_SECONDS)
            if not self._are_members_ended:
                self._report_left()
        finally:
            self._process.close()
            self._output.close()
            self._files.remove()
            if self._are_members_ended:
                self._record.remove()
                if self._watch is not None:  # last: until then the watchdog removes the rest
                    self._watch.close()
            self._is_over = True
        if self._forwarder is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._forwarder.join, _FORWARD_SECONDS)

    async def detach(self) -> None:
        """Stop managing a detached kernel, which goes on; no task may be waiting for its end.

        The files and the record of the kernel stay, and this program no longer owns the kernel, so
        that any program can adopt it, see ``launch.adopt``. If that cannot be written, as on a full
        disk, the failure is logged, and the kernel can be adopted after the end of this program.
        Afterwards only the attributes of this manager can be used, and cleanup() does nothing.

        Raises:
            RuntimeError: the kernel was not launched detached.
        """
        if not self.detached:
            raise RuntimeError("only a kernel that was launched detached can be detached")
        if not self._is_detached and self._owner.is_here:
            self._is_detached = True
            self._process.release()
            self._output.close()
            if sys.platform == "win32":  # where no program can adopt a kernel
                return
            self._record.ownership.let_go()

    def list_as(self, kernel_id: str) -> None:
        """Let other programs find the kernel under another id than that of the launch.

        If the record cannot be written, this is logged, and the kernel stays listed as before.
        """
        listed_as = "" if kernel_id == self.kernel_id else kernel_id
        if self._is_over or self._is_detached or listed_as == self._record.listed_as:
            return
        self._owner.check("kernel")
        record = msgspec.structs.replace(self._record, listed_as=listed_as)
        try:
            record.write()
        except LaunchError as error:
            logger.warning("kernel %s cannot be listed as %s: %s", self.kernel_id, kernel_id, error)
        else:
            self._record = record

    def handle(self) -> KernelHandle | None:
        """Return the handle of a detached kernel; None for other kernels."""
        return local_handle(self._record) if self.detached else None

    def address_was_taken(self) -> bool:
        """Return whether another program listens at one of the kernel's tcp ports.

        Only for a kernel that does not answer; see ``address/ports.py``.
        """
        running = not self._process.poll()
        return address_was_taken(self.connection_info, self.pid if running else None)

    def output_tail(self) -> str:
        """Return the last 64 KiB of standard output and standard error."""
        return self._output.text()

    def death_reason(self) -> str | None:
        """Return why the process has ended, if more than the exit status is known."""
        end = self._process.exit
        if end is None or self._process.killed:
            return None
        if self._control_groups is not None:
            reason = self._control_groups.reason(end)
            if reason is not None:
                return reason
        if self._limits is not None:
            reason = self._limits.reason(end, self.output_tail())
            if reason is not None:
                return reason
        if oom_kills() != self._oom_kills and end.returncode == -signal.SIGKILL:
            return DeathReason(
                "it was killed, perhaps because the machine ran out of memory", "out_of_memory"
            )
        return None

    async def _end_processes(self) -> None:
        self._process.kill()
        await self._process.wait()
        # In a thread, because the kill reads the environment of every process of the machine. A
        # process that hangs may block the thread, so the thread is left alone after the time limit.
        await anyio.to_thread.run_sync(self._kill_members, abandon_on_cancel=True)
        self._are_members_ended = True

    def _report_left(self) -> None:
        """Log what cleanup() has left, and what the user can do."""
        left = f"processes with the environment variable KERNELPROTO_KERNEL_ID={self.kernel_id} "
        left += f"may still run: they were not found within {_KILL_SECONDS:g} s, because a read of "
        left += "/proc blocks"
        if not self._process.poll():
            left = still_runs(self.pid, _KILL_SECONDS)
        logger.warning(
            "kernel %s: %s; the record of the kernel stays, and the next launch after the end of "
            "this program removes what is left",
            self.kernel_id,
            left,
        )

    def _kill_members(self) -> None:
        # Linux has ended all processes of a sandbox with the first one.
        in_sandbox = self._control_groups is not None and self._process.poll()
        killed: set[int] = set() if in_sandbox else kill_members({self.kernel_id.encode()})
        if sys.platform != "win32" and self._process.poll():  # the leader has been reaped
            reap_orphans(self.pid, killed)
        if self._control_groups is not None:
            self._control_groups.remove()
        else:  # those of a kernel that another program has launched
            remove_files(map(os.fsencode, self._record.control_groups))


def local_handle(record: Record) -> KernelHandle:
    """Return the handle of a kernel of this machine, for adoption by its host or LocalHost."""
    if record.host is not None:
        return KernelHandle(
            host=HOST,
            kernel_type=record.kernel_name,
            kernel_id=record.listed_as or record.kernel_id,
            place={"folder": record.host, "kernel": record.kernel_id},
        )
    return KernelHandle(
        host=LOCAL,
        kernel_type=record.kernel_name,
        kernel_id=record.listed_as or record.kernel_id,
        place={"kernel_id": record.kernel_id, "connection_file": record.connection_file},
    )
