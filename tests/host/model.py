"""A model of a host: the real code of both sides, on connections in memory that can be cut.

Real are Link, HostProtocol, the channels and MessageStream here, and Connection, Requests, Kernel
and MessageLog of the host. The model replaces the sockets, the loop of the host and the kernel's
process. A seed decides all that may vary, and tests.simulation.schedule orders the tasks.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.bell import Bell
from kernelproto.launch.programs.host import frames, zmtp
from kernelproto.launch.programs.host.connection import Connection
from kernelproto.launch.programs.host.kernel import Kernel, Place
from kernelproto.launch.programs.host.message_log import Limits
from kernelproto.launch.programs.host.process import Exit
from kernelproto.launch.programs.host.requests import Requests

KERNEL_ID = "k"

# What a connection holds in each direction.
_HELD_BYTES = 200


class Wire:
    """One connection: the bytes that are on the way, and the ends.

    Args:
        chance: decides how many bytes each call takes.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.to_host = bytearray()
        self.to_client = bytearray()
        self.is_cut = False
        self.moved = Bell()

    def cut(self) -> None:
        """Cut the connection; the bytes on the way are lost."""
        self.is_cut = True
        self.moved.ring()

    def take(self, data: bytearray, most: int) -> bytes:
        """Take some of the bytes that are on the way."""
        size = self.chance.randint(1, min(most, len(data)))
        taken = bytes(data[:size])
        del data[:size]
        self.moved.ring()
        return taken

    def put(self, data: bytearray, more: bytes) -> int:
        """Put some bytes on the way; return how many, 0 if there is no room."""
        room = _HELD_BYTES - len(data)
        size = self.chance.randint(1, min(room, len(more))) if room > 0 else 0
        data += more[:size]
        self.moved.ring()
        return size


class HostEnd:
    """The end of the host, with the methods of a socket that Connection uses."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    def recv_into(self, buffer: memoryview) -> int:
        if self.wire.is_cut:
            raise ConnectionResetError
        if not self.wire.to_host:
            raise BlockingIOError
        data = self.wire.take(self.wire.to_host, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def sendmsg(self, buffers: Sequence[memoryview]) -> int:
        if self.wire.is_cut:
            raise BrokenPipeError
        sent = self.wire.put(self.wire.to_client, b"".join(buffers))
        if not sent:
            raise BlockingIOError
        return sent

    def getsockopt(self, *arguments: object) -> bytes:
        raise OSError

    def close(self) -> None:
        self.wire.cut()


class ClientEnd(ByteStream):
    """The end of the program."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await checkpoint()
        while not self.wire.to_client:
            if self.wire.is_cut:
                raise anyio.EndOfStream
            await self.wire.moved.wait()
        return self.wire.take(self.wire.to_client, max_bytes)

    async def send(self, item: bytes) -> None:
        await checkpoint()
        while item:
            if self.wire.is_cut:
                raise anyio.BrokenResourceError
            sent = self.wire.put(self.wire.to_host, item)
            item = item[sent:]
            if not sent:
                await self.wire.moved.wait()

    async def send_eof(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self.wire.cut()
        await checkpoint()


class _Channel:
    """A channel of the kernel, which takes the messages later."""

    def __init__(self, host: Host, number: int) -> None:
        self.socket = None
        self.unsent_bytes = 0
        self._host = host
        self._number = number
        self._unsent: deque[tuple[int, bytes]] = deque()

    def send(self, number: int, message: bytes) -> None:
        self._unsent.append((number, message))
        self.unsent_bytes += len(message)

    def forget_numbers(self) -> None:
        self._unsent = deque((0, message) for _, message in self._unsent)

    def pass_on(self) -> None:
        """Pass a message on to the kernel."""
        if self._unsent:
            number, message = self._unsent.popleft()
            self.unsent_bytes -= len(message)
            self._host.taken.append((self._number, message))
            self._host.kernel._was_passed(self._number, number, len(message))

    def close(self, now: float = 0.0) -> None:
        self._unsent.clear()


class _Output:
    def tail(self) -> str:
        return "the end"


class Host:
    """The host of one kernel.

    Args:
        folder: for the files of the log.
        chance: decides all that varies.

    Attributes:
        taken: the messages that the kernel has taken, with the channel of each.
        sent: how many messages the kernel has sent.
        cuts: how often a connection was cut.
    """

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.kernel = Kernel(KERNEL_ID, Place(str(folder), {}), Limits(kept=0), None, 0.0)
        self.channels = [_Channel(self, number) for number in range(len(frames.CHANNELS))]
        self.kernel.channels = self.channels  # type: ignore[assignment]
        self.kernel.output = _Output()  # type: ignore[assignment]
        self.kernel.process = _Process()
        self.kernels = {KERNEL_ID: self.kernel}
        self.taken: list[tuple[int, bytes]] = []
        self.sent = 0
        self.cuts = 0
        self._chance = chance
        self._requests = Requests(self, None)  # type: ignore[arg-type]
        self._connections: dict[Connection, Wire] = {}
        self._connected = Bell()

    async def connect(self) -> ByteStream:
        """Connect to the host; a Connect function."""
        await checkpoint()
        wire = Wire(self._chance)
        connection = Connection(HostEnd(wire), self._requests.answer)  # type: ignore[arg-type]
        self._connections[connection] = wire
        self._connected.ring()
        return ClientEnd(wire)

    def replace(self, owner: Connection) -> None:
        """Close the connection of an owner that has connected again; called by Requests."""
        owner.disconnect({"kind": "replaced", "reason": "the owner has connected again"})

    async def run(self) -> None:
        """Serve all connections, as Server does."""
        async with anyio.create_task_group() as tasks:
            while True:
                for connection in list(self._connections):
                    tasks.start_soon(self._serve, connection, self._connections.pop(connection))
                await self._connected.wait()

    async def _serve(self, connection: Connection, wire: Wire) -> None:
        while not connection.is_over:
            connection.flush()
            connection.receive()
            if connection.due is not None and anyio.current_time() >= self._due(connection):
                connection.acknowledge()
            if self._chance.random() < 0.5:
                self._chance.choice(self.channels).pass_on()
            connection.pump()
            connection.finish()
            if connection.is_over:
                break
            with anyio.move_on_after(0.01):
                await wire.moved.wait()
        connection.close(anyio.current_time())

    def _due(self, connection: Connection) -> float:
        """Return when an acknowledgement is due; the real clock says only that there is one."""
        return anyio.current_time() if self._chance.random() < 0.2 else float("inf")

    def emit(self) -> None:
        """Let the kernel send its next message."""
        self.sent += 1
        message = zmtp.join(
            [b"topic", str(self.sent).encode() + b" " * self._chance.randint(0, 99)]
        )
        self.kernel._arrived(frames.IOPUB, message)
        self._pump()

    def end(self) -> None:
        """Let the process end, with no more messages."""
        self.kernel.note_exit(Exit(3), 0.0)
        self.kernel.over = True
        self._pump()

    def cut(self) -> None:
        """Cut the connection of the owner, if there is one."""
        owner: Any = self.kernel.owner
        if owner is not None:
            self.cuts += 1
            owner.socket.wire.cut()

    def _pump(self) -> None:
        if self.kernel.owner is not None:
            self.kernel.owner.pump()


class _Process:
    pid = 1
    started = "1"

    def signal(self, signum: int) -> None:
        raise NotImplementedError

    def reap(self) -> Exit | None:
        return None
