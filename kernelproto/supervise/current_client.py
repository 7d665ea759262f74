"""CurrentClient: sends an execution to the process that serves when it is sent."""

from __future__ import annotations

from kernelproto.client.client import KernelClient
from kernelproto.client.execution import Execution
from kernelproto.supervise.generations import Generations
from kernelproto.wire.message import Message


class CurrentClient:
    """Implements ExecutionSender for one execution of a Kernel.

    An execution is made before it is sent, and a kernel may be restarted in between.

    Args:
        generations: the kernel's processes.
    """

    def __init__(self, generations: Generations) -> None:
        self._generations = generations
        self._client: KernelClient = generations.current.client

    async def send_execution(self, execution: Execution) -> None:
        """Send it to the kernel as it is now; wait for one that is being restarted."""
        self._client = await self._generations.client()
        await self._client.send_execution(execution)

    def forget_execution(self, execution: Execution) -> None:
        """Deliver nothing more to it."""
        self._client.forget_execution(execution)

    async def send_input(self, text: str, request: Message) -> None:
        """Answer an input_request."""
        await self._client.send_input(text, request)

    async def interrupt_kernel(self) -> None:
        """Interrupt the running code, in whichever way the kernel wants it."""
        await self._client.interrupt_kernel()
