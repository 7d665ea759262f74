"""CurrentClient: sends an execution to the process that serves when it is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kernelproto.client.client import KernelClient
from kernelproto.client.execution import Execution
from kernelproto.supervise.lifecycle import Lifecycle
from kernelproto.timeouts import Timeouts
from kernelproto.wire.message import Message


class CurrentClient:
    """Implements ExecutionSender for one execution of a Kernel.

    An execution is made before it is sent, and a kernel may be restarted in between.

    Args:
        lifecycle: the kernel's processes.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._generations = lifecycle
        self._client: KernelClient = lifecycle.current.client

    @property
    def timeouts(self) -> Timeouts:
        """How long the kernel may take to react to an interrupt."""
        return self._client.executions.timeouts

    async def send_execution(self, execution: Execution) -> None:
        """Send it to the kernel as it is now; wait for one that is being restarted."""
        self._client = await self._generations.client()
        await self._client.executions.send_execution(execution)

    def forget_execution(self, execution: Execution) -> None:
        """Deliver nothing more to it."""
        self._client.executions.forget_execution(execution)

    async def send_input(self, text: str, request: Message) -> None:
        """Answer an input_request."""
        await self._client.executions.send_input(text, request)

    async def interrupt_kernel(self) -> None:
        """Interrupt the running code, in whichever way the kernel wants it."""
        await self._client.interrupt_kernel()

    async def restart_kernel(self) -> None:
        """Replace the kernel's process by a new one."""
        await self._generations.restart()

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function for as long as the kernel is served, also across a restart."""
        self._generations.start_task(function, *args)
