"""FarKernelManager: the handle on a kernel of another machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.reachability import Reachability
from kernelproto.host.link import HostGone
from kernelproto.host.manager import HostedKernelManager
from kernelproto.interfaces import KernelHandle
from kernelproto.ssh.connection import Connection
from kernelproto.ssh.failures import RemoteHostError

# A host that takes longer to answer cannot be reached.
_PROBE_SECONDS = 3.0
_GREETING_SECONDS = 10.0

_RECEIVE_BYTES = 64 * 1024


class FarKernelManager:
    """The handle on a kernel of another machine.

    Implements KernelManager, BringsChannels, DescribesFailure, ExplainsDeath, IsListed, HasHandle,
    MayOutlive and MayBecomeUnreachable.

    Args:
        hosted: the handle on the kernel in the host.
        connect: connects to the host; this manager holds the connection.

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
        self.output_tail = hosted.output_tail
        self.death_reason = hosted.death_reason
        self.wait = hosted.wait
        self.signal = hosted.signal
        self.interrupt = hosted.interrupt
        self.terminate = hosted.terminate
        self.kill = hosted.kill
        self._hosted = hosted
        self._link = hosted.link
        self._connection: Connection | None = connect.connection
        self._host = connect.connection.host
        self._link.on_change = self._note_change
        self._note_change()

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
        self.reachability.lose(f"the host {self._host!r} does not answer")
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
        connection, self._connection = self._connection, None
        if connection is not None:
            self.reachability.regain()  # so that no task waits for a kernel that was given up
            await connection.release()

    def _note_change(self) -> None:
        if self._link.reachable or self._link.is_over:
            self.reachability.regain()
        elif self.reachability.problem is None:
            self.reachability.lose(f"the connection to {self._host!r} is lost")


class FarConnect:
    """Connects to the program of a host on another machine; a Connect function.

    Args:
        connection: the connection to the machine.
        path: the socket of the host there.

    Attributes:
        connection: the same.
        reachability: whether the kernel can be reached; ``connect`` updates its problem.
    """

    def __init__(self, connection: Connection, path: str) -> None:
        self.connection = connection
        self.reachability = Reachability()
        self._path = path

    async def __call__(self) -> ByteStream:
        host = self.connection.host
        try:
            stream = await self._greeted()
            if stream is not None:
                return stream
            # The connection works, but no program listens at the other end.
            answer = await self.connection.ask("listens", socket=self._path)
        except (RemoteHostError, TimeoutError) as error:
            problem = str(error) or f"the host {host!r} does not answer"
            if self.reachability.problem is not None:
                self.reachability.lose(problem)
            raise ConnectionError(problem) from error
        if not answer.get("listens"):
            raise HostGone(f"the program that ran the kernels on {host!r} has ended")
        raise ConnectionError(f"the host {host!r} has closed the connection")

    async def _greeted(self) -> ByteStream | None:
        """Connect, and wait for the greeting of the host; None if the connection was closed."""
        stream = await self.connection.connect(self._path)
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
