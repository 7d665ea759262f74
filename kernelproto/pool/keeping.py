"""KeepingExecutor: performs the plan of a pool whose kernels outlive it.

Theory of operation
-------------------
The registry has a row for each kernel: added before the launch, given the handle of each process as
soon as that is started, and removed after the end. When the pool is closed, the kernels are
detached and their rows released. When the program is killed, the rows stay, with a claim of its
node. The next pool of this node adopts the kernels, and then claims the rows: the host of a kernel
knows for sure whether a running program owns the kernel, so a second pool disturbs no row of it.

A task renews the claims, and stores how long each kernel that was used has been idle. If the
registry does not answer, that is logged, and the pool keeps its kernels; ends of kernels are stored
as soon as it answers again. If another node has claimed a kernel, the pool lets go of the kernel
without ending it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import anyio
import msgspec
from anyio.abc import TaskGroup

from kernelproto.exceptions import (
    ClientClosed,
    DiscoveryError,
    KernelInUse,
    KernelProtoError,
    LaunchError,
    PoolError,
    RegistryError,
)
from kernelproto.host.launch import adopt
from kernelproto.interfaces import HasHandle, KernelHandle, KernelManager, MayOutlive
from kernelproto.launch.finder import KernelFinder
from kernelproto.pool.executor import Executor, Launcher
from kernelproto.pool.kept_kernel import KeptKernel
from kernelproto.pool.launcher import StartOptions
from kernelproto.pool.plan import Plan
from kernelproto.pool.pooled_kernel import ManagedKernel
from kernelproto.pool.slots import Lease
from kernelproto.registry.interface import RegisteredKernel, Registry
from kernelproto.supervise import RestartPolicy
from kernelproto.supervise.instance import Launch, Launched
from kernelproto.timeouts import Timeouts

logger = logging.getLogger(__name__)

# How long a claim holds, and how often the claims are renewed.
_CLAIM_SECONDS = 30.0
_RENEW_SECONDS = 5.0

# Time to store the end of a kernel, and to let go of one.
_SETTLE_SECONDS = 10.0


class _Found(NamedTuple):
    """A kernel that this pool has adopted."""

    row: RegisteredKernel
    fence: int
    launched: Launched


class KeepingExecutor(Executor):
    """Performs the plan of a pool whose kernels outlive it.

    Args:
        plan: as for Executor.
        launcher: launches detached kernels.
        timeouts: as for Executor.
        restart: as for Executor.
        registry: stores the kernels; open during the block.
        finder: adopts kernels.
        node: the name of this program in the registry.

    Raises:
        RegistryError: on entering the block, the registry cannot be read or written.
    """

    def __init__(
        self,
        plan: Plan,
        launcher: Launcher,
        timeouts: Timeouts,
        restart: RestartPolicy | None,
        *,
        registry: Registry,
        finder: KernelFinder,
        node: str,
    ) -> None:
        super().__init__(plan, launcher, timeouts, restart)
        self._registry = registry
        self._finder = finder
        self._node = node
        self._fences: dict[int, int] = {}
        self._adopted: dict[int, Launched] = {}
        # The kernels that have ended while the registry did not answer, with their fences.
        self._unstored_ends: dict[str, int] = {}
        self._stored_at = -float("inf")
        self._new_kernel = KeptKernel

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[KeepingExecutor]:
        found: list[_Found] = []
        try:
            await self._find(found)
        except BaseException:
            for _, _, (_, manager) in found:
                await _detach(manager)
            raise
        async with super().__asynccontextmanager__():
            assert self._tasks is not None
            for kernel in found:
                self._restore(kernel, self._tasks)
            self._tasks.start_soon(self._renew)
            try:
                yield self
            finally:  # without a checkpoint before the base class refuses new kernels
                for managed in self._kernels:
                    if isinstance(managed, KeptKernel):
                        managed.leave(ClientClosed("the pool was closed; the kernel goes on"))

    async def _find(self, found: list[_Found]) -> None:
        """Adopt the kernels in the registry that no program owns."""
        for row in await self._registry.kernels():
            if row.held and row.node != self._node:
                continue
            if row.handle is None:
                # A program of this node was killed during the launch. If the program still runs,
                # it notices at the end of the launch, and ends the kernel.
                await self._registry.remove(row.kernel_id, row.fence)
                continue
            launched = await self._adopt(row, row.handle)
            if launched is not None:
                await self._claim(row, launched, found)

    async def _claim(self, row: RegisteredKernel, launched: Launched, found: list[_Found]) -> None:
        """Claim a kernel that was adopted, or let go of it."""
        fence = None
        try:
            fence = await self._registry.claim(
                row.kernel_id, node=self._node, seconds=_CLAIM_SECONDS
            )
        finally:
            if fence is None:  # another node was faster, or the registry does not answer
                await _detach(launched[1])
        if fence is not None:
            found.append(_Found(row, fence, launched))

    async def _adopt(self, row: RegisteredKernel, handle: KernelHandle) -> Launched | None:
        about = f"kernel {row.name!r} of {row.owner!r} ({row.kernel_id})"
        try:
            return await adopt(self._finder, handle)
        except KernelInUse as error:
            logger.warning("the %s is left to its owner: %s", about, error)
        except DiscoveryError as error:
            logger.warning("the %s is lost: %s", about, error)
            self.counts["lost"] += 1
            await self._registry.remove(row.kernel_id, row.fence)
        except LaunchError as error:
            logger.warning("the %s cannot be adopted now: %s", about, error)
        return None

    def _restore(self, found: _Found, tasks: TaskGroup) -> None:
        row = found.row
        number = self._plan.restore(Lease(row.owner, row.name))
        managed = KeptKernel(
            number,
            Lease(row.owner, row.name),
            row.kernel_type,
            kernel_id=row.kernel_id,
            counts=self.counts,
            deaths=self.deaths,
            on_change=self._note_change,
            restored=row,
        )
        self._kernels.add(managed)
        self._fences[number] = found.fence
        self._adopted[number] = found.launched
        self.counts["restored"] += 1
        tasks.start_soon(self._serve, managed, StartOptions(kernel_type=row.kernel_type))

    async def _run(self, managed: ManagedKernel, launch: Launch, cwd: str | None) -> None:
        try:
            await super()._run(managed, partial(self._launch, managed, launch), cwd)
        finally:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _SETTLE_SECONDS):
                await self._settle(managed)

    async def _launch(
        self, managed: ManagedKernel, launch: Launch, *, env: Mapping[str, str], cwd: str | None
    ) -> Launched:
        """Return the kernel that was adopted, or launch one and store its handle."""
        if managed.number in self._adopted:
            return self._adopted.pop(managed.number)
        fence = self._fences.get(managed.number)
        if fence is None:
            fence = await self._add(managed)
        info, manager = await launch(env=env, cwd=cwd)
        try:
            handle = manager.handle() if isinstance(manager, HasHandle) else None
            if handle is None:
                raise PoolError(
                    f"the {managed} cannot outlive this program: its kernel type "
                    f"{managed.kernel_type!r} has no handles; use a pool without a registry"
                )
            handle = msgspec.structs.replace(handle, kernel_id=managed.kernel_id)
            if not await self._registry.set_handle(managed.kernel_id, fence, handle):
                # Another program has claimed the kernel, or has removed it as ended.
                fence = await self._add(managed)
                await self._registry.set_handle(managed.kernel_id, fence, handle)
        except BaseException:
            await manager.cleanup()
            raise
        return info, manager

    async def _add(self, managed: ManagedKernel) -> int:
        await self._store_ends()
        add = partial(
            self._registry.add,
            managed.kernel_id,
            owner=managed.lease.user,
            name=managed.lease.name,
            kernel_type=managed.kernel_type,
            node=self._node,
            seconds=_CLAIM_SECONDS,
        )
        fence = await add()
        if fence is None:
            await self._remove_ended(managed.lease)
            fence = await add()
        if fence is None:
            raise PoolError(
                f"the {managed} is in the registry already, and another program has it or is "
                f"starting it: use another name, or try again in {_CLAIM_SECONDS:g} s"
            )
        self._fences[managed.number] = fence
        return fence

    async def _remove_ended(self, lease: Lease) -> None:
        """Remove a kernel that has ended while no program owned it from the registry."""
        for row in await self._registry.kernels(owner=lease.user):
            is_free = not row.held or row.node == self._node
            if row.name == lease.name and row.handle is not None and is_free:
                launched = await self._adopt(row, row.handle)
                if launched is not None:
                    await _detach(launched[1])

    async def _settle(self, managed: ManagedKernel) -> None:
        """Store the end of a kernel in this pool."""
        adopted = self._adopted.pop(managed.number, None)
        if adopted is not None:  # it was not even begun
            await _detach(adopted[1])
        fence = self._fences.pop(managed.number, None)
        if fence is None:
            return
        is_kept = isinstance(managed, KeptKernel) and managed.is_kept
        if not is_kept and adopted is None:
            self._unstored_ends[managed.kernel_id] = fence
        try:
            if is_kept:
                idle = {managed.kernel_id: anyio.current_time() - managed.active_at}
                await self._registry.renew(self._node, seconds=_CLAIM_SECONDS, idle=idle)
            if is_kept or adopted is not None:
                await self._registry.release(managed.kernel_id, fence)
            await self._store_ends()
        except RegistryError as error:
            logger.warning("the end of the %s is not in the registry yet: %s", managed, error)

    async def _store_ends(self) -> None:
        """Remove the kernels that have ended from the registry."""
        for kernel_id, fence in list(self._unstored_ends.items()):
            await self._registry.remove(kernel_id, fence)
            self._unstored_ends.pop(kernel_id, None)

    async def _renew(self) -> None:
        """Renew the claims of this pool, and store the uses of kernels."""
        while True:
            await anyio.sleep(_RENEW_SECONDS)
            now, fences = anyio.current_time(), dict(self._fences)
            used = [each for each in self._kernels if each.active_at >= self._stored_at]
            idle = {each.kernel_id: now - each.active_at for each in used if each.running}
            try:
                held = await self._registry.renew(self._node, seconds=_CLAIM_SECONDS, idle=idle)
                await self._store_ends()
            except RegistryError as error:
                logger.warning("the kernels of the pool are kept without the registry: %s", error)
                continue
            self._stored_at = now
            for number, fence in fences.items():
                managed = self._kernels[number] if number in self._fences else None
                if isinstance(managed, KeptKernel) and held.get(managed.kernel_id) != fence:
                    self._let_go(managed)

    def _let_go(self, managed: KeptKernel) -> None:
        logger.error("another program has claimed the %s: this pool lets go of it", managed)
        del self._fences[managed.number]
        self._plan.end(managed.number)
        reason = f"the {managed} belongs to another program now"
        managed.leave(ClientClosed(reason, ended="lost"))


async def _detach(manager: KernelManager) -> None:
    """Let go of a kernel that was adopted."""
    with anyio.move_on_after(_SETTLE_SECONDS, shield=True):
        try:
            if isinstance(manager, MayOutlive):
                await manager.detach()
        except KernelProtoError as error:
            logger.warning("a kernel is not released: %s", error)
