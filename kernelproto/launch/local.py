"""LocalKernelManager: the handle on a kernel that runs as a process on this machine."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from typing import Protocol

import anyio
import anyio.to_thread
import msgspec

from kernelproto.concurrency.process_owner import Owner
from kernelproto.exceptions import LaunchError, UnsupportedRequest
from kernelproto.interfaces import DeathReason
from kernelproto.launch.address.ports import address_was_taken
from kernelproto.launch.leftovers.records import Record
from kernelproto.launch.leftovers.watchdog import Watch
from kernelproto.launch.output.forward import Forwarder
from kernelproto.launch.process.interface import Process
from kernelproto.launch.process.limits import Limits, inherited_peak
from kernelproto.launch.process.proc import oom_kills
from kernelproto.launch.process.wrapped import interrupt_wrapped
from kernelproto.launch.programs.watchdog import kill_members, reap_orphans
from kernelproto.launch.spec.kernelspec import InterruptMode
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

_KILL_SECONDS = Timeouts().kill

# How long whoever gets the output may take for what is left of it at the end.
_RELAY_SECONDS = 1.0


class Output(Protocol):
    """What is known of the output of a kernel's processes."""

    def text(self) -> str:
        """Return the last of it; also after close()."""
        ...

    def close(self) -> None:
        """Let go of the descriptors; more than once is fine."""
        ...


class Files(Protocol):
    """The connection file, and what belongs to it.

    Attributes:
        path: of the connection file, absolute.
    """

    path: str

    @property
    def info(self) -> ConnectionInfo:
        """What the connection file says."""
        ...

    def remove(self) -> None:
        """Remove all of them; more than once is fine."""
        ...


class LocalKernelManager:
    """The handle on a kernel that runs as a process on this machine.

    It implements KernelManager, DescribesFailure, ExplainsDeath and IsListed. Signals go to the
    process group: to the kernel and to what it has started, save for processes that have left the
    group. Those that outlive the kernel are killed when its end is noticed, by whichever method
    comes first. On Linux cleanup() also kills those that have left the group but still have
    KERNELPROTO_KERNEL_ID, which is the kernel's id, in their environment.

    When this program dies, of whatever, the same is done by the watchdog, and the files go too.

    In a fork of this program the kernel stays the parent's: waiting and signals raise WrongProcess,
    and cleanup() does nothing.

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
        self._forwarder = forwarder
        self._owner = Owner()
        self._oom_kills = oom_kills()
        self._is_detached = False
        self._is_over = False

    @property
    def connection_info(self) -> ConnectionInfo:
        """What the connection file says."""
        return self._files.info

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or where it can't be known."""
        if self._owner.is_here:
            self._process.poll()
        return None if self._process.exit is None else self._process.exit.returncode

    async def is_alive(self) -> bool:
        """Return whether the kernel's process runs."""
        self._owner.check("kernel")
        return not self._process.poll()

    async def wait(self) -> int | None:
        """Wait until the process has ended; return its exit status, None where it can't be known.

        It may be called by many tasks, and after cleanup(). A negative status is the number of the
        signal that ended the process.
        """
        self._owner.check("kernel")
        return await self._process.wait()

    async def signal(self, signum: int) -> None:
        """Send a signal to the process group; a process that has ended ignores it.

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
        if self._interrupt_mode == "message":
            raise UnsupportedRequest(
                "this kernel takes no signal for an interrupt: send interrupt_request on control"
            )
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
        """Kill what still runs, and remove everything that the launch has made.

        It is not cancelled half-way, takes 5 seconds at the most, and may be called again and by
        several tasks at once. A process that even SIGKILL does not end in this time, because it
        hangs in a system call, is logged and left to itself.
        """
        if self._is_detached or not self._owner.is_here:
            return
        members_ended = False
        try:
            with anyio.move_on_after(_KILL_SECONDS, shield=True) as waiting:
                self._process.kill()
                await self._process.wait()
                # In a thread, because it looks at every process of the machine.
                await anyio.to_thread.run_sync(self._kill_members)
                members_ended = True
            if waiting.cancelled_caught:
                logger.warning(
                    "process %d of kernel %s is still there %g s after SIGKILL",
                    self.pid,
                    self.kernel_id,
                    _KILL_SECONDS,
                )
        finally:
            if not members_ended:  # no shield of anyio's withstands the cancel() of an asyncio task
                self._kill_members()
            self._process.close()
            self._output.close()
            self._files.remove()
            if self._watch is not None:
                self._watch.close()
            self._record.remove()
            self._is_over = True
        if self._forwarder is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._forwarder.join, _RELAY_SECONDS)

    async def detach(self) -> None:
        """Close what this program holds of a kernel that was launched detached, which goes on.

        No task may wait for the kernel meanwhile. Its files and its record stay for other programs,
        see ``launch.adopt``. Afterwards only the attributes of this manager are of use, and
        cleanup() does nothing.

        Raises:
            RuntimeError: the kernel was not launched detached.
        """
        if not self.detached:
            raise RuntimeError("only a kernel that was launched detached can be detached")
        if not self._is_detached and self._owner.is_here:
            self._is_detached = True
            self._process.release()
            self._output.close()

    def list_as(self, kernel_id: str) -> None:
        """Let other programs find the kernel under another id than that of its launch.

        Where that cannot be written down it is logged, and the kernel stays listed as it was.
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

    def address_was_taken(self) -> bool:
        """Return whether somebody else listens at one of the kernel's tcp ports.

        Ask only about a kernel that does not answer; see ``launch.ports``.
        """
        running = not self._process.poll()
        return address_was_taken(self.connection_info, self.pid if running else None)

    def output_tail(self) -> str:
        """Return the last 64 KiB of all that was written to standard output and standard error."""
        return self._output.text()

    def death_reason(self) -> str | None:
        """Return why the process has ended, where it is more than its exit status tells."""
        end = self._process.exit
        if end is None or self._process.killed:
            return None
        if self._limits is not None:
            tail = self.output_tail()
            reason = self._limits.reason(end, tail, inherited=inherited_peak())
            if reason is not None:
                return reason
        if oom_kills() != self._oom_kills and end.returncode == -signal.SIGKILL:
            return DeathReason(
                "it was killed, perhaps because the machine ran out of memory", "out_of_memory"
            )
        return None

    def _kill_members(self) -> None:
        killed = kill_members({self.kernel_id.encode()})
        if sys.platform != "win32" and self._process.poll():  # its leader has been reaped
            reap_orphans(self.pid, killed)
