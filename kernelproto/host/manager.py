"""HostedKernelManager: the handle on a kernel of a host."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress

import anyio
import msgspec
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.process_owner import Owner
from kernelproto.concurrency.reachability import Reachability
from kernelproto.exceptions import KernelProtoError
from kernelproto.host.channels import open_link_channels
from kernelproto.host.link import HostGone, Link, RequestRefused
from kernelproto.host.protocol import KernelExit
from kernelproto.interfaces import Channels, DeathReason, Deliver, KernelHandle
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.signalling import SendsSignals
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

_KILL_SECONDS = Timeouts().kill

# A host that takes longer to answer cannot be reached.
_PROBE_SECONDS = 3.0


class HostedKernelManager(SendsSignals):
    """The handle on a kernel of a host, which goes on if this program ends.

    Implements KernelManager, BringsChannels, DescribesFailure, ExplainsDeath, HasProcess, IsListed,
    HasHandle, MayOutlive, NotesReadiness, KeepsMessages and MayBecomeUnreachable. While the host is
    unreachable, methods wait.

    Args:
        link: the attachment to the kernel.
        info: the addresses and keys of the kernel.
        handle: the handle of the kernel.
        pid: the number of the process on the machine of the host.
        connection_file: the path of the connection file there.
        command: the command line.
        interrupt_mode: "signal" or "message".
        limits: the limits that may end the kernel.
        lifts_linger: whether the kernel has a linger time only until it is ready.

    Attributes:
        kernel_id: a UUID.
        command: the command line.
        pid: the number of the process.
        connection_file: the path of the connection file.
        detached: True, because the kernel outlives this program.
        link: the attachment to the kernel.
        reachability: whether the host answers.
    """

    detached = True

    def __init__(
        self,
        link: Link,
        info: ConnectionInfo,
        handle: KernelHandle,
        *,
        pid: int,
        connection_file: str = "",
        command: Sequence[str] = (),
        interrupt_mode: str = "signal",
        limits: Limits | None = None,
        lifts_linger: bool = False,
    ) -> None:
        super().__init__(interrupt_mode)
        self.kernel_id = handle.kernel_id
        self.command = command
        self.pid = pid
        self.connection_file = connection_file
        self.link = link
        self.reachability = Reachability()
        link.on_change = self._note_change
        self._info = info
        self._handle = handle
        self._limits = limits
        self._lifts_linger = lifts_linger
        self._owner = Owner()
        self._killed = False
        self._is_over = False
        self._tail = ""

    @property
    def connection_info(self) -> ConnectionInfo:
        """The contents of the connection file."""
        return self._info

    @property
    def exit(self) -> KernelExit | None:
        """How the kernel has ended; None while running."""
        return self.link.exit

    def open_channels(
        self,
        info: ConnectionInfo,
        deliver: Deliver,
        *,
        identity: bytes,
        topics: Sequence[bytes] = (b"",),
    ) -> AbstractAsyncContextManager[Channels]:
        """Open the channels over the link to the host; see ``interfaces.OpenChannels``."""
        self._owner.check("kernel")
        return open_link_channels(self.link, deliver, topics)

    @property
    def last_number(self) -> int:
        """The number of the last message that was received."""
        return self.link.protocol.last

    @property
    def acknowledged(self) -> int:
        """The number of the last message that this or an earlier owner has acknowledged."""
        return self.link.protocol.acknowledged

    @property
    def lost(self) -> int:
        """How many messages were lost, because the log of the host was full."""
        return self.link.protocol.lost

    def hold(self) -> None:
        """Acknowledge only messages that ``confirm`` names, instead of all that arrive."""
        self.link.protocol.hold()

    def confirm(self, number: int) -> None:
        """Acknowledge all messages up to a number, within 0.05 s."""
        self.link.confirm(number)

    async def is_alive(self) -> bool:
        """Return whether the kernel's process runs."""
        self._owner.check("kernel")
        if self.exit is not None or self._is_over:
            return False
        if self.reachability.problem is not None:
            await checkpoint()
            return not self.link.is_over
        try:
            status = await self.link.request("status")
        except KernelProtoError:
            return False
        self._tail = str(status.get("tail", ""))
        return status.get("ended") is None

    async def probe(self) -> bool:
        """Return whether the host answers within three seconds; connect again if it does not."""
        with anyio.move_on_after(_PROBE_SECONDS):
            await self.link.request("status")
            return True
        self.reachability.lose("the host of the kernel does not answer")
        await self.link.reconnect()
        return False

    async def wait(self) -> int | None:
        """Wait until the process has ended; return the exit status, None if unknown.

        A kernel that another program has taken over has ended for this program.
        """
        self._owner.check("kernel")
        await self.link.drive(lambda: self.exit is not None)
        return None if self.exit is None else self.exit.returncode

    async def signal(self, signum: int) -> None:
        """Send a signal to the process group; do nothing if the process has ended."""
        self._owner.check("kernel")
        if self.exit is not None or self._is_over:
            return
        self._killed |= signum == signal.SIGKILL
        with suppress(HostGone):
            await self.link.request("signal", number=int(signum))

    async def cleanup(self) -> None:
        """End the kernel, and have the host remove all its files.

        ``cleanup`` cannot be cancelled half-way, and takes at most 5 seconds. If the host cannot be
        reached in this time, that is logged, and the kernel ends after the linger time.
        """
        if self._is_over or not self._owner.is_here:
            return
        with anyio.CancelScope(shield=True):
            try:
                with anyio.move_on_after(_KILL_SECONDS) as waiting:
                    with suppress(HostGone, RequestRefused):
                        self._note_exit(await self.link.request("end"))
                if waiting.cancelled_caught:
                    logger.warning(
                        "kernel %s may go on: its host did not answer within %g s",
                        self.kernel_id,
                        _KILL_SECONDS,
                    )
            except KernelProtoError as error:
                logger.warning("kernel %s is left alone: %s", self.kernel_id, error)
            finally:
                self._is_over = True
                await self.link.aclose()

    async def note_ready(self) -> None:
        """Have the host keep a kernel without a linger time from now on, also without an owner."""
        self._owner.check("kernel")
        if self._lifts_linger and not self._is_over:
            with suppress(HostGone, RequestRefused):  # the kernel has ended
                await self.link.request("linger", seconds=None)
            self._lifts_linger = False

    async def detach(self) -> None:
        """Release the kernel, which goes on; any program of this user can adopt it."""
        if not self._is_over and self._owner.is_here:
            with anyio.move_on_after(_KILL_SECONDS, shield=True):
                self.link.protocol.acknowledge()
                try:
                    await self.note_ready()
                    await self.link.sent()
                except KernelProtoError as error:
                    logger.debug("kernel %s is not there any more: %s", self.kernel_id, error)
            if self._lifts_linger:
                logger.warning(
                    "kernel %s ends after a minute unless a program adopts it: its host did not "
                    "answer within %g s",
                    self.kernel_id,
                    _KILL_SECONDS,
                )
            self._is_over = True
            with anyio.CancelScope(shield=True):
                await self.link.aclose()

    def handle(self) -> KernelHandle | None:
        """Return the handle of the kernel."""
        return self._handle

    def list_as(self, kernel_id: str) -> None:
        """Let other programs find the kernel under another id than that of the launch."""
        if self._is_over or kernel_id == self._handle.kernel_id:
            return
        self._owner.check("kernel")
        self._handle = msgspec.structs.replace(self._handle, kernel_id=kernel_id)
        listed_as = "" if kernel_id == self.kernel_id else kernel_id
        self.link.post("record", changes={"listed_as": listed_as})

    def output_tail(self) -> str:
        """Return the last 64 KiB of the output, as far as the host has sent it."""
        return self._tail if self.exit is None else self.exit.tail

    def death_reason(self) -> str | None:
        """Return why the process has ended, if more than the exit status is known."""
        if self.exit is None or self.exit.returncode is None:
            failure = self.link.failure
            cause = failure.cause if isinstance(failure, HostGone) else "other"
            return None if failure is None else DeathReason(str(failure), cause)
        if self._killed or self._limits is None:
            return None
        end = Exit(self.exit.returncode, self.exit.cpu_seconds, self.exit.peak_memory)
        return self._limits.reason(end, self.exit.tail)

    def _note_change(self) -> None:
        if self.link.is_over:
            self.reachability.end()
        elif self.link.reachable:
            self.reachability.regain()

    def _note_exit(self, result: object) -> None:
        if self.link.protocol.exit is None:
            self.link.protocol.exit = msgspec.convert(result, KernelExit, strict=False)
        self.link.wake()
