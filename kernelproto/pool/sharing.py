"""SharingExecutor: performs the plan of a pool whose registry other programs use as well.

Theory of operation
-------------------
Each program has a pool, a plan and a node of its own. The registry has a row for every kernel of
all nodes, even for those that end with their program. The registry checks the limits on adding a
row, so together the nodes never exceed them. The plan counts the kernels of other nodes as well,
from a recent list: so a request waits, or an idle kernel of this node is evicted, if all nodes
together are full. The plan evicts no kernel of another node; a program with a way to the other
nodes can have them call ``evict_idle``.

A node that cannot renew its claims may lose its kernels to other nodes. Before its claims lapse,
the node no longer culls kernels, and a dead kernel waits for the registry before the restart. The
node ends no kernel for that reason. Kernels of nodes that are gone, or have released them, are
adopted by the node that gets a request for them, or some seconds later by any node that can reach
them. A kernel that no node can reach is removed from the registry after a longer time.
"""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import anyio

from kernelproto.concurrency.bell import Bell
from kernelproto.exceptions import PoolFull, RegistryError
from kernelproto.pool.adoption import Found, detach
from kernelproto.pool.keeping import KeepingExecutor
from kernelproto.pool.launcher import StartOptions
from kernelproto.pool.pooled_kernel import ManagedKernel
from kernelproto.pool.slots import Lease
from kernelproto.registry.interface import RegisteredKernel
from kernelproto.supervise import Kernel
from kernelproto.supervise.instance import Launch, Launched

logger = logging.getLogger(__name__)

# How long a claim holds: another node can adopt the kernel of a node that was killed after this.
CLAIM_SECONDS = 15.0

# The time before its claims lapse at which a node stops culling and restarting kernels.
_MARGIN_SECONDS = 1.0

# How often a node looks for kernels without a node.
_SWEEP_SECONDS = 30.0


class SharingExecutor(KeepingExecutor):
    """Performs the plan of a pool whose registry other nodes use as well.

    Args:
        facts: the arguments of KeepingExecutor.
        unheld_seconds: seconds after which a kernel that no node holds, and this one cannot reach,
            is removed from the registry.
        named: the named arguments of KeepingExecutor.
    """

    def __init__(self, *facts: Any, unheld_seconds: float, **named: Any) -> None:
        super().__init__(*facts, claim_seconds=CLAIM_SECONDS, is_shared=True, **named)
        self._unheld_seconds = unheld_seconds
        self._starts: dict[int, StartOptions] = {}
        self._taking: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()
        self._held_until = 0.0
        self._renewed = Bell()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[SharingExecutor]:
        async with super().__asynccontextmanager__():
            assert self._tasks is not None
            await self._renew_once()
            self._tasks.start_soon(self._suspend)
            self._tasks.start_soon(self._sweep)
            yield self

    @asynccontextmanager
    async def hand_over(
        self, lease: Lease, **options: Any
    ) -> AsyncGenerator[tuple[ManagedKernel, Kernel]]:
        """Yield a lease's kernel as Executor does; count the kernels of other nodes before a start.

        Raises:
            RegistryError: the kernel must be started, and the registry cannot be read.
        """
        if self._tasks is not None and self.find(lease) is None:
            await self._count_elsewhere()
        async with super().hand_over(lease, **options) as handed_over:
            yield handed_over

    async def take_over(self, row: RegisteredKernel) -> None:
        """Adopt a kernel that no node holds, if this node can reach it.

        Args:
            row: the kernel in the registry, as read a moment ago.

        Raises:
            RegistryError: the registry cannot be read or written.
        """
        lease = Lease(row.owner, row.name)
        async with self._taking.setdefault(row.kernel_id, anyio.Lock()):
            if self.find(lease) is not None:
                return
            found: list[Found] = []
            try:
                await self._adoption.take(row, found)
            finally:
                tasks = self._tasks  # None once the pool is closing
                for each in found:
                    if self.find(lease) is None and tasks is not None:
                        self._restore(each, tasks)
                    elif each.launched is not None:
                        with anyio.CancelScope(shield=True):
                            await detach(each.launched[1])

    async def evict_idle(self) -> bool:
        """End the kernel that has been idle longest, as ``KernelPool.evict_idle`` does."""
        if (tasks := self._tasks) is None:
            return False
        action = self._plan.evict(anyio.current_time(), self._look)
        if action is None:
            return False
        managed = self._kernels[action.slot]
        self._perform(action, tasks)
        self._update()
        await managed.gone.wait()
        await self._store_ends()  # the other node counts the rows
        return True

    async def _serve(self, managed: ManagedKernel, start: StartOptions) -> None:
        self._starts[managed.number] = start
        try:
            await super()._serve(managed, start)
        finally:
            del self._starts[managed.number]

    async def _run(self, managed: ManagedKernel, launch: Launch, cwd: str | None) -> None:
        await super()._run(managed, partial(self._launch_counted, managed, launch), cwd)

    async def _launch_counted(
        self, managed: ManagedKernel, launch: Launch, **options: Any
    ) -> Launched:
        """Launch a kernel that is in the registry; restart a kernel only while its claim holds."""
        start = self._starts[managed.number]
        if managed.number not in self._fences:
            await self._add(managed, start)
        while managed.running and self._plan.is_suspended:
            await self._renewed.wait()
        return await launch(**options)

    async def _add(self, managed: ManagedKernel, start: StartOptions) -> int:
        try:
            return await super()._add(managed, start)
        except PoolFull:
            await self._count_elsewhere()
            raise

    def _limits(self, start: StartOptions) -> dict[str, int]:
        of_user = start.get("lease_limits") or self._plan.limits
        return {
            "max_kernels": self._plan.limits.max_kernels,
            "max_per_owner": of_user.max_per_user,
        }

    async def _renew_once(self) -> None:
        began_at = anyio.current_time()
        await super()._renew_once()
        await self._count_elsewhere()
        self._held_until = began_at + self._claim_seconds - _MARGIN_SECONDS
        if self._plan.is_suspended:
            logger.warning("the registry answers again: kernels are culled and restarted again")
        self._plan.is_suspended = False
        self._renewed.ring()
        self._update()

    async def _count_elsewhere(self) -> None:
        self._plan.elsewhere = max(0, await self._registry.count() - len(self._fences))

    async def _suspend(self) -> None:
        """Stop to cull and restart kernels when the claims of this node may have lapsed."""
        while True:
            await anyio.sleep_until(self._held_until)
            if anyio.current_time() >= self._held_until:
                logger.warning(
                    "the claims on the kernels could not be renewed: until the registry answers, "
                    "no kernel is culled or restarted, and none is ended"
                )
                self._plan.is_suspended = True
                await self._renewed.wait()

    async def _sweep(self) -> None:
        """Adopt the kernels without a node, and remove those that no node can reach."""
        while True:
            # Nodes that were started together do not look at the same time.
            await anyio.sleep(_SWEEP_SECONDS * (0.5 + random.random()))
            try:
                for row in await self._registry.kernels(unheld=True):
                    await self.take_over(row)
                for kernel_id in await self._registry.remove_unheld(seconds=self._unheld_seconds):
                    logger.warning(
                        "kernel %s is lost: no server could reach it for %g s",
                        kernel_id,
                        self._unheld_seconds,
                    )
                    self.counts["lost"] += 1
            except RegistryError as error:
                logger.warning("kernels without a server are not adopted yet: %s", error)
