"""The signals of managers whose kernels another program runs: a host, an engine, a batch system."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod

from kernelproto.exceptions import UnsupportedRequest


def require_signals(interrupt_mode: str) -> None:
    """Raise UnsupportedRequest if a kernel is interrupted by a message."""
    if interrupt_mode == "message":
        raise UnsupportedRequest(
            "this kernel is interrupted by a message: send interrupt_request on control"
        )


class SendsSignals(ABC):
    """The part of a KernelManager that sends signals, by ``signal()`` alone.

    Args:
        interrupt_mode: ``"signal"`` or ``"message"``.
    """

    def __init__(self, interrupt_mode: str) -> None:
        self._interrupt_mode = interrupt_mode

    @abstractmethod
    async def signal(self, signum: int) -> None:
        """Send a signal to the kernel; do nothing after its end."""

    async def interrupt(self) -> None:
        """Send SIGINT; see ``signal``.

        Raises:
            UnsupportedRequest: this kernel is interrupted by a message, not by a signal.
        """
        require_signals(self._interrupt_mode)
        await self.signal(signal.SIGINT)

    async def terminate(self) -> None:
        """Ask the kernel to end (SIGTERM); see ``signal``."""
        await self.signal(signal.SIGTERM)

    async def kill(self) -> None:
        """End the kernel (SIGKILL); see ``signal``."""
        await self.signal(signal.SIGKILL)
