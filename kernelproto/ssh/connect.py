"""SSHConnect: connects to the host of another machine over its SSH connection."""

from __future__ import annotations

from anyio.abc import ByteStream

from kernelproto.concurrency.reachability import Reachability
from kernelproto.host.far_manager import greeted
from kernelproto.host.link import HostGone
from kernelproto.ssh.connection import Connection
from kernelproto.ssh.failures import RemoteHostError


class SSHConnect:
    """Connects to the program of a host on another machine; a Connect function.

    Args:
        connection: the connection to the machine.
        path: the socket of the host there.

    Attributes:
        connection: the same.
        machine: the name of the machine.
        reachability: whether the kernel can be reached; its problem is kept up to date.
    """

    def __init__(self, connection: Connection, path: str) -> None:
        self.connection = connection
        self.machine = connection.host
        self.reachability = Reachability()
        self._path = path

    async def __call__(self) -> ByteStream:
        host = self.machine
        try:
            stream = await greeted(await self.connection.connect(self._path))
            if stream is not None:
                return stream
            # The connection is there, but nothing listens at its other end.
            answer = await self.connection.ask("listens", socket=self._path)
        except (RemoteHostError, TimeoutError) as error:
            problem = str(error) or f"the host {host!r} does not answer"
            if self.reachability.problem is not None:
                self.reachability.lose(problem)
            raise ConnectionError(problem) from error
        if not answer.get("listens"):
            raise HostGone(f"the program that ran the kernels on {host!r} has ended")
        raise ConnectionError(f"the host {host!r} has closed the connection")

    async def release(self) -> None:
        """Release the connection to the machine."""
        await self.connection.release()
