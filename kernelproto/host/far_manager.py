"""FarKernelManager: the handle on a kernel of another machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.reachability import Reachability
from kernelproto.host.manager import HostedKernelManager
from kernelproto.interfaces import KernelHandle

# A host that takes longer to answer cannot be reached.
_PROBE_SECONDS = 3.0
_GREETING_SECONDS = 10.0

_RECEIVE_BYTES = 64 * 1024


class FarConnect(Protocol):
    """A Connect function for the program of a host on another machine.

    Attributes:
        machine: the name of the machine, for messages.
        reachability: whether the kernel can be reached; the function keeps its problem up to date.
    """

    machine: str
    reachability: Reachability

    async def __call__(self) -> ByteStream:
        """Connect; see ``link.Connect``."""
        ...

    async def release(self) -> None:
        """Give up all that the function has open; it is not called any more."""
        ...


class FarKernelManager:
    """The handle on a kernel of another machine.

    Implements KernelManager, BringsChannels, DescribesFailure, ExplainsDeath, IsListed, HasHandle,
    MayOutlive, NotesReadiness, KeepsMessages and MayBecomeUnreachable.

    Args:
        hosted: the handle on the kernel in the host.
        connect: connects to the host; this manager releases the connection.

    Attributes:
        kernel_id: a UUID.
        command: the command line.
        open_channels: opens the channels; see BringsChannels.
        reachability: whether the kernel can be reached.
    """

    def __init__(self, hosted: HostedKernelManager, connect: FarConnect) -> None:
        self.kernel_id = hosted.kernel_id
        self.command = hosted.command
        self.open_channels = hosted.open_channels
        self.reachability = connect.reachability
        self.list_as = hosted.list_as
        self.note_ready = hosted.note_ready
        self.output_tail = hosted.output_tail
        self.death_reason = hosted.death_reason
        self.wait = hosted.wait
        self.signal = hosted.signal
        self.interrupt = hosted.interrupt
        self.terminate = hosted.terminate
        self.kill = hosted.kill
        self.hold = hosted.hold
        self.confirm = hosted.confirm
        self._hosted = hosted
        self._link = hosted.link
        self._connect = connect
        self._released = False
        self._link.on_change = self._note_change
        self._note_change()

    @property
    def last_number(self) -> int:
        """The number of the last message that was received."""
        return self._hosted.last_number

    @property
    def acknowledged(self) -> int:
        """The number of the last message that this or an earlier owner has acknowledged."""
        return self._hosted.acknowledged

    @property
    def lost(self) -> int:
        """The number of messages that were lost, because the log of the host was full."""
        return self._hosted.lost

    async def is_alive(self) -> bool:
        """Return whether the kernel's process runs, as far as this program can know."""
        if self.reachability.problem is None:
            with anyio.move_on_after(_PROBE_SECONDS):
                return await self._hosted.is_alive()
        await checkpoint()
        return self._hosted.exit is None and not self._link.is_over

    async def probe(self) -> bool:
        """Return whether the host answers within three seconds; otherwise connect again."""
        with anyio.move_on_after(_PROBE_SECONDS):
            await self._hosted.is_alive()
            return True
        self.reachability.lose(f"the host {self._connect.machine!r} does not answer")
        await self._link.reconnect()
        return False

    async def cleanup(self) -> None:
        """End the kernel, and have the host remove all its files.

        Cancellation does not stop the cleanup. If the host does not answer, that is logged, and the
        kernel ends after the linger time.
        """
        try:
            await self._hosted.cleanup()
        finally:
            await self._let_go()

    async def detach(self) -> None:
        """Release the kernel, which goes on; any program of this user can adopt it."""
        try:
            await self._hosted.detach()
        finally:
            await self._let_go()

    def handle(self) -> KernelHandle | None:
        """Return the handle of the kernel, which outlives this program."""
        return self._hosted.handle()

    async def _let_go(self) -> None:
        if not self._released:
            self._released = True
            self.reachability.end()
            await self._connect.release()

    def _note_change(self) -> None:
        if self._link.is_over:
            self.reachability.end()
        elif self._link.reachable:
            self.reachability.regain()
        elif self.reachability.problem is None:
            self.reachability.lose(f"the connection to {self._connect.machine!r} is lost")


async def greeted(stream: ByteStream) -> ByteStream | None:
    """Wait for the greeting of the host; return None if the other end closes the stream instead.

    Args:
        stream: to the host; it is closed unless this returns a stream.

    Raises:
        TimeoutError: there is no greeting within ten seconds.
    """
    try:
        with anyio.fail_after(_GREETING_SECONDS):
            return _Greeted(stream, await stream.receive(_RECEIVE_BYTES))
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        await anyio.aclose_forcefully(stream)
        return None
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


class _Greeted(ByteStream):
    """A stream after the first bytes were received."""

    def __init__(self, stream: ByteStream, first: bytes) -> None:
        self._stream = stream
        self._first = first

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        return self._stream.extra_attributes  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    async def receive(self, max_bytes: int = _RECEIVE_BYTES) -> bytes:
        if self._first:
            await checkpoint()
            first, self._first = self._first[:max_bytes], self._first[max_bytes:]
            return first
        return await self._stream.receive(max_bytes)

    async def send(self, item: bytes) -> None:
        await self._stream.send(item)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
