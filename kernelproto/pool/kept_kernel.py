"""KeptKernel: one kernel of a pool that outlives the pool."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from typing import Any

import anyio

from kernelproto.exceptions import ClientClosed
from kernelproto.pool.pooled_kernel import ManagedKernel
from kernelproto.registry.interface import RegisteredKernel
from kernelproto.supervise import KernelRestarter, RestartPolicy, open_kernel
from kernelproto.supervise.instance import Launch
from kernelproto.timeouts import Timeouts


class KeptKernel(ManagedKernel):
    """One kernel of a pool that goes on after the pool, unless ``end`` is called.

    Cancelling ``serve`` has no effect, because the cancelled tasks of a kernel end its process.
    The task that runs ``serve`` is ended by ``leave``: then ``serve`` returns after no more than
    a shutdown, or the start of a restored kernel.

    Args:
        facts: the arguments of ManagedKernel.
        restored: the kernel in the registry, if it has outlived another pool.

    Attributes:
        is_kept: whether the process goes on after ``serve``.
    """

    def __init__(self, *facts: Any, restored: RegisteredKernel | None = None, **named: Any) -> None:
        super().__init__(*facts, **named)
        self.is_kept = False
        self._restored = restored
        self._left = anyio.Event()
        self._reason: ClientClosed | None = None

    def leave(self, reason: ClientClosed) -> None:
        """Let go of the kernel; ``gone`` is set when this is done.

        A kernel that is being started is ended: it has no user's state.

        Args:
            reason: raised by later calls on the kernel.
        """
        if self._kernel is None and self._restored is None:
            self.end(reason)
        elif not self.ending:
            self._reason = reason
            self._left.set()

    async def serve(
        self, launch: Launch, cwd: str | None, timeouts: Timeouts, restart: RestartPolicy | None
    ) -> None:
        """Start the kernel, and return when it has ended, or was left and goes on."""
        with anyio.CancelScope(shield=True):
            await super().serve(launch, cwd, timeouts, restart)

    async def _live(
        self, launch: Launch, cwd: str | None, timeouts: Timeouts, restart: RestartPolicy | None
    ) -> None:
        async with (
            open_kernel(launch, timeouts=timeouts, cwd=cwd, outlives=True) as kernel,
            nullcontext() if restart is None else KernelRestarter(kernel, restart),
        ):
            self._begin(kernel)
            try:
                await self._left.wait()
            finally:
                lives = kernel.state in ("idle", "busy", "unreachable")
                self.is_kept = not self.ending and lives
                self.ending = True
                if not self.is_kept:
                    await kernel.shutdown()
                elif self._reason is not None:
                    kernel.client.fail(self._reason)

    def _note_start(self) -> None:
        super()._note_start()
        if self._restored is not None:
            age, idle = self._restored.age, self._restored.idle
            self.ready_at -= age
            self.active_at -= idle
            self._last_activity -= timedelta(seconds=idle)
            self._started_at -= timedelta(seconds=age)
            self._process_started_at = self._started_at
            self._has_worked = True  # if the kernel is busy now, it works for a client
