"""ServerKernels: the kernels of a user's conversations, among the user's other kernels."""

from __future__ import annotations

from starlette.exceptions import HTTPException

from kernelproto.exceptions import PoolError, QuotaExceeded
from kernelproto.interfaces import User
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.mcp.kernels import FindSpares, KernelSeat
from kernelproto.mcp.limits import Refused
from kernelproto.pool import PooledKernel
from kernelproto.server.user_kernels import UserKernels
from kernelproto.server.user_messages import user_message
from kernelproto.supervise import Kernel


class ServerKernels:
    """The kernels of one user's conversations. They count as any other kernel of the user.

    Args:
        user_kernels: starts the kernels.
        user: the user.
        sandbox: the sandbox of each kernel, with a writable working directory; None means that of
            the user's other kernels, if any.

    Attributes:
        user: the user, as authenticated last.
    """

    def __init__(self, user_kernels: UserKernels, user: User, sandbox: Sandbox | None) -> None:
        self.user = user
        self._sandbox = sandbox
        self._user_kernels = user_kernels
        self._pool = user_kernels.pool

    async def get(
        self, conversation: str, seat: KernelSeat, cwd: str, spares: FindSpares
    ) -> Kernel:
        """Return a kernel, ready; raises as ConversationKernels.get does."""
        try:
            return await self._user_kernels.get(
                self.user,
                seat.kernel_type,
                kernel_id=seat.kernel_id,
                folder=cwd,
                sandbox=self._sandbox,
                find_spare=lambda: next((spare.kernel_id for spare in spares()), None),
            )
        except HTTPException as error:
            raise Refused(error.detail) from None
        except QuotaExceeded as error:
            raise Refused(
                f"{user_message(error)}. The other kernels run code, or do not belong to a "
                "conversation"
            ) from None
        except PoolError as error:
            raise Refused(user_message(error)) from None

    async def restart(self, conversation: str, seat: KernelSeat) -> None:
        """Restart a kernel; raises as ConversationKernels.restart does."""
        kernel = self.describe(conversation, seat)
        try:
            if kernel is not None:
                await self._user_kernels.restart(self.user, kernel)
        except HTTPException as error:
            raise Refused(error.detail) from None

    async def release(self, conversation: str, seat: KernelSeat) -> None:
        """Shut a kernel down, if there is one."""
        kernel = self.describe(conversation, seat)
        if kernel is not None:
            await self._user_kernels.end(self.user, kernel)

    def describe(self, conversation: str, seat: KernelSeat) -> PooledKernel | None:
        """Describe a kernel; None if there is none."""
        return self._pool.find(seat.kernel_id, user=self.user.name)
