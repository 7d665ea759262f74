"""SSHConnect: connects to the host of another machine over its SSH connection."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from anyio.abc import ByteStream

from kernelproto.concurrency.reachability import Reachability
from kernelproto.host.far_manager import greeted
from kernelproto.host.link import HostGone
from kernelproto.host.local import SOCKET
from kernelproto.ssh.connection import Connection
from kernelproto.ssh.failures import RemoteHostError

# A host that ends just now is waited for: a host ends with its last kernel.
_ATTEMPTS = 20


class SSHConnect:
    """Connects to the program of a host on another machine; a Connect function.

    Args:
        connection: the connection to the machine.
        folder: the folder of the host there.
        start: starts the host if there is none; None means that its kernels have ended with it.

    Attributes:
        start: the same.
        connection: the same.
        machine: the name of the machine.
        reachability: whether the kernel can be reached; its problem is kept up to date.
    """

    def __init__(
        self,
        connection: Connection,
        folder: str,
        start: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.connection = connection
        self.machine = connection.host
        self.reachability = Reachability()
        self.start = start
        self._folder = folder

    async def __call__(self) -> ByteStream:
        host = self.machine
        try:
            for _ in range(_ATTEMPTS):
                stream = await greeted(await self.connection.connect(f"{self._folder}/{SOCKET}"))
                if stream is not None:
                    return stream
                # The connection is there, but nothing listens at its other end.
                answer = await self.connection.ask("listens", folder=self._folder)
                if answer.get("listens"):
                    raise ConnectionError(f"the host {host!r} has closed the connection")
                if self.start is None:
                    break
                await self.start()
        except (RemoteHostError, TimeoutError) as error:
            problem = str(error) or f"the host {host!r} does not answer"
            if self.reachability.problem is not None:
                self.reachability.lose(problem)
            raise ConnectionError(problem) from error
        raise HostGone(f"the program that ran the kernels on {host!r} has ended")

    async def release(self) -> None:
        """Release the connection to the machine."""
        await self.connection.release()
