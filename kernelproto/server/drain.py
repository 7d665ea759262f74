"""Drain: let busy kernels finish before the server ends.

During the drain, the server refuses new kernels and WebSockets, and clients keep receiving outputs.
Then it closes the WebSockets with a reason.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import anyio

from kernelproto.concurrency.bell import Bell
from kernelproto.pool import KernelPool

SHUTTING_DOWN = "the server is shutting down: try again in a moment"

_LOOK_AGAIN_SECONDS = 0.1

# The time limit for closing all WebSockets.
_CLOSING_SECONDS = 5


class Drain:
    """The shutdown of a server, from the signal to the last WebSocket.

    Attributes:
        beginning: set when the shutdown begins.
        closing: set when the WebSockets must close.
    """

    def __init__(self) -> None:
        self.beginning = anyio.Event()
        self.closing = anyio.Event()
        self._connections = 0
        self._empty = Bell()
        self._hurried = False

    @property
    def begun(self) -> bool:
        """Whether the shutdown has begun."""
        return self.beginning.is_set()

    @contextmanager
    def connection(self) -> Generator[None]:
        """Count a WebSocket for the block."""
        self._connections += 1
        try:
            yield
        finally:
            self._connections -= 1
            if not self._connections:
                self._empty.ring()

    async def run(self, pool: KernelPool, *, grace: float) -> None:
        """Wait for busy kernels, then close the WebSockets; return when the server can end.

        Args:
            pool: the kernels of the server.
            grace: seconds to wait for busy kernels.
        """
        self.beginning.set()
        with anyio.move_on_after(grace):
            while not self._hurried:
                if all(kernel.state != "busy" for kernel in pool.kernels()):
                    break
                await anyio.sleep(_LOOK_AGAIN_SECONDS)
        self.closing.set()
        with anyio.move_on_after(_CLOSING_SECONDS):
            while self._connections:
                await self._empty.wait()

    def hurry(self) -> None:
        """Stop waiting for busy kernels."""
        self._hurried = True
