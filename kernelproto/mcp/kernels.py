"""The kernels of conversations: the sources of these kernels."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Protocol, TypeAlias

import msgspec

from kernelproto.client.execution import Execution
from kernelproto.exceptions import PoolFull
from kernelproto.launch.process.confinement import NOBODY
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.mcp.limits import Refused
from kernelproto.pool import KernelPool, PooledKernel
from kernelproto.supervise import Kernel


class KernelSeat:
    """The place of one kernel in a conversation.

    Args:
        kernel_type: the type of the kernel.

    Attributes:
        kernel_id: the id of each kernel in this place.
        process_since: the start of the process that the model knows of; None if there is none.
        unfinished: code that was cancelled and may still run.
    """

    def __init__(self, kernel_type: str) -> None:
        self.kernel_type = kernel_type
        self.kernel_id = str(uuid.uuid4())
        self.process_since: datetime | None = None
        self.unfinished: Execution | None = None


# Returns the kernels that run no code of a call, those unused for the longest time first.
FindSpares: TypeAlias = Callable[[], list[KernelSeat]]


class ConversationKernels(Protocol):
    """Starts and ends the kernels of conversations."""

    async def get(
        self, conversation: str, seat: KernelSeat, cwd: str, spares: FindSpares
    ) -> Kernel:
        """Return a kernel, ready; start a kernel if there is none.

        Args:
            conversation: the name of the conversation.
            seat: the place of the kernel.
            cwd: the kernel's working directory.
            spares: the kernels that may be ended to make room for this one.

        Raises:
            Refused: there is no room for another kernel.
            KernelProtoError: the kernel cannot be started.
        """
        ...

    async def restart(self, conversation: str, seat: KernelSeat) -> None:
        """Restart a kernel.

        Raises:
            KernelProtoError: there is no kernel, or the kernel cannot be restarted.
        """
        ...

    async def release(self, conversation: str, seat: KernelSeat) -> None:
        """Shut a kernel down, if there is one; return after the end."""
        ...

    def describe(self, conversation: str, seat: KernelSeat) -> PooledKernel | None:
        """Describe a kernel; None if there is none."""
        ...


class PoolKernels:
    """The kernels of a pool in which each conversation is a user.

    Args:
        pool: the pool, which ends an idle kernel to make room for another one.
        sandbox: the sandbox of each kernel, with a writable working directory; None means that
            kernels are not confined.
    """

    def __init__(self, pool: KernelPool, sandbox: Sandbox | None = None) -> None:
        self._pool = pool
        self._sandbox = sandbox

    async def get(
        self, conversation: str, seat: KernelSeat, cwd: str, spares: FindSpares
    ) -> Kernel:
        """Return a kernel, ready; raises as ConversationKernels.get does."""
        try:
            return await self._pool.get(
                conversation,
                name=seat.kernel_type,
                kernel_type=seat.kernel_type,
                cwd=cwd,
                kernel_id=seat.kernel_id,
                launch_params=self._launch_params(cwd),
            )
        except PoolFull:
            raise Refused(
                f"all {self._pool.limits.max_kernels} kernels run code now: try again later, or "
                "reset a conversation that is not needed"
            ) from None

    async def restart(self, conversation: str, seat: KernelSeat) -> None:
        """Restart a kernel."""
        await self._pool.restart(conversation, name=seat.kernel_type)

    async def release(self, conversation: str, seat: KernelSeat) -> None:
        """Shut a kernel down, if there is one."""
        await self._pool.release(conversation, name=seat.kernel_type)

    def describe(self, conversation: str, seat: KernelSeat) -> PooledKernel | None:
        """Describe a kernel; None if there is none."""
        kernels = self._pool.kernels(conversation)
        return next((kernel for kernel in kernels if kernel.name == seat.kernel_type), None)

    def _launch_params(self, cwd: str) -> dict[str, object]:
        return {} if self._sandbox is None else {"sandbox": sandbox_in(self._sandbox, cwd)}


def sandbox_in(sandbox: Sandbox, cwd: str) -> dict[str, object]:
    """Return the settings of a sandbox with a writable working directory."""
    settings = msgspec.to_builtins(sandbox)
    return {**settings, "writable": {**settings["writable"], cwd: None}}


def owner_of_files(sandbox: Sandbox | None) -> int | None:
    """Return the user that owns the files of conversations; None means this program's user.

    A sandboxed kernel of root runs as another user.
    """
    if sandbox is None or os.geteuid():
        return None
    assert not isinstance(sandbox.uid, str)  # the settings refuse a range of users
    return sandbox.uid or NOBODY
