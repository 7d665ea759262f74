"""KeepingExecutor: performs the plan of a pool whose kernels outlive the pool.

Theory of operation
-------------------
The registry has a row for each kernel. The row is added before the launch, gets the handle of the
process when the kernel is ready and that of each new process at its start, and is removed after the
end. When the pool is closed, the kernels are detached and their rows released. When the program is
killed, the rows stay, with a claim of its node. The next pool of this node adopts the kernels, and
then claims the rows: the host of a kernel knows for sure whether a running program owns the kernel,
so a second pool changes no row of a running program.

A task renews the claims, and stores how long each used kernel has been idle. A second task stores
the changed notes, all in one step, at most once a second on average. If the registry does not
answer, the pool logs the fault and keeps its kernels; the pool stores ends of kernels as soon as
the registry answers again. If another node has claimed a kernel, the pool releases the kernel
without ending it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import anyio
from anyio.abc import TaskGroup

from kernelproto.concurrency.bell import Bell
from kernelproto.exceptions import ClientClosed, PoolError, RegistryError
from kernelproto.interfaces import KernelManager
from kernelproto.launch.finder import KernelFinder
from kernelproto.pool.adoption import (
    CLAIM_SECONDS,
    SETTLE_SECONDS,
    Adoption,
    Found,
    detach,
    encoded,
    handle_of,
)
from kernelproto.pool.executor import Executor, Launcher
from kernelproto.pool.kept_kernel import KeptKernel, RestoredKernel
from kernelproto.pool.launcher import StartOptions
from kernelproto.pool.plan import Plan
from kernelproto.pool.pooled_kernel import ManagedKernel
from kernelproto.pool.slots import Lease
from kernelproto.registry.interface import Registry
from kernelproto.supervise import RestartPolicy
from kernelproto.supervise.instance import Launch, Launched
from kernelproto.timeouts import Timeouts

logger = logging.getLogger(__name__)

# How often the claims are renewed.
_RENEW_SECONDS = 5.0

# Notes are written once in so many seconds, after a number of writes without a delay.
_NOTE_SECONDS = 1.0
_PROMPT_WRITES = 10.0


class _Note:
    """A change of the note about a kernel.

    Args:
        make: returns the text.
    """

    def __init__(self, make: Callable[[], str]) -> None:
        self.make = make


class KeepingExecutor(Executor):
    """Performs the plan of a pool whose kernels outlive the pool.

    Args:
        plan: as for Executor.
        launcher: launches detached kernels.
        timeouts: as for Executor.
        restart: as for Executor.
        registry: stores the kernels; open during the block.
        finder: adopts kernels.
        node: the name of this program in the registry.
        replays: as for KernelPool.
        claim_seconds: how long a claim on a kernel holds; None means CLAIM_SECONDS.
        is_shared: as for Adoption.

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
        replays: bool = False,
        claim_seconds: float | None = None,
        is_shared: bool = False,
    ) -> None:
        super().__init__(plan, launcher, timeouts, restart)
        self._registry = registry
        self._node = node
        self._claim_seconds = CLAIM_SECONDS if claim_seconds is None else claim_seconds
        self._adoption = Adoption(
            registry,
            finder,
            node,
            self.counts,
            replays=replays,
            seconds=self._claim_seconds,
            is_shared=is_shared,
        )
        self._fences: dict[int, int] = {}
        self._adopted: dict[int, Launched] = {}
        # The kernels that have ended while the registry did not answer, with their fences.
        self._unstored_ends: dict[str, int] = {}
        self._stored_at = -float("inf")
        self._notes: dict[int, _Note] = {}  # those to be stored
        self._noted = Bell()
        self._watch_restored: Callable[[RestoredKernel], object] | None = None
        self._ready_restored: list[RestoredKernel] = []

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[KeepingExecutor]:
        found: list[Found] = []
        try:
            await self._adoption.find(found)
        except BaseException:
            for kernel in found:
                if kernel.launched is not None:
                    await detach(kernel.launched[1])
            raise
        async with super().__asynccontextmanager__():
            assert self._tasks is not None
            for kernel in found:
                self._restore(kernel, self._tasks)
            self._tasks.start_soon(self._renew)
            self._tasks.start_soon(self._store_notes)
            try:
                yield self
            finally:  # without a checkpoint before the base class refuses new kernels
                for managed in self._kernels:
                    if isinstance(managed, KeptKernel):
                        reason = "the pool was closed; the kernel goes on"
                        managed.leave(ClientClosed(reason, goes_on=True))

    def watch_restored(self, callback: Callable[[RestoredKernel], object]) -> None:
        """Call a function with each restored kernel once the kernel is ready."""
        self._watch_restored = callback
        for restored in self._ready_restored:
            callback(restored)
        self._ready_restored.clear()

    def note(self, lease: Lease, make: Callable[[], str]) -> None:
        """Store a note with a lease's kernel soon; *make* returns the text."""
        managed = self.find(lease)
        if isinstance(managed, KeptKernel):
            self._notes[managed.number] = _Note(make)
            self._noted.ring()

    def _restore(self, found: Found, tasks: TaskGroup) -> None:
        row, start = found.row, found.start
        lease = Lease(row.owner, row.name)
        number = self._plan.restore(lease, start.get("lease_limits"))
        managed = KeptKernel(
            number,
            lease,
            row.kernel_type,
            kernel_id=row.kernel_id,
            counts=self.counts,
            deaths=self.deaths,
            on_change=self._note_change,
            start=start,
            store=self._store_handle,
            on_restored=self._note_restored,
            restored=row,
            is_new=found.launched is None,
        )
        self._kernels.add(managed)
        self._fences[number] = found.fence
        if found.launched is not None:
            self._adopted[number] = found.launched
        self.counts["restored"] += 1
        tasks.start_soon(self._serve, managed, start)

    def _note_restored(self, restored: RestoredKernel) -> None:
        if self._watch_restored is None:
            self._ready_restored.append(restored)
        else:
            self._watch_restored(restored)

    def _kind(self, start: StartOptions) -> Callable[..., ManagedKernel]:
        if not start.get("kept", True):
            return ManagedKernel
        return partial(KeptKernel, start=start, store=self._store_handle)

    async def _serve(self, managed: ManagedKernel, start: StartOptions) -> None:
        await super()._serve(managed, {**start, "kernel_id": managed.kernel_id})

    async def _run(self, managed: ManagedKernel, launch: Launch, cwd: str | None) -> None:
        try:
            await super()._run(managed, partial(self._launch, managed, launch), cwd)
        finally:
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + SETTLE_SECONDS):
                await self._settle(managed)

    async def _launch(
        self, managed: ManagedKernel, launch: Launch, *, env: Mapping[str, str], cwd: str | None
    ) -> Launched:
        """Return the adopted kernel, or launch one; store the new handle after a restart."""
        if managed.number in self._adopted:
            return self._adopted.pop(managed.number)
        if not isinstance(managed, KeptKernel):
            return await launch(env=env, cwd=cwd)
        if managed.number not in self._fences:
            await self._add(managed, managed.start)
        info, manager = await launch(env=env, cwd=cwd)
        try:
            if handle_of(manager, managed.kernel_id) is None:
                raise PoolError(
                    f"the {managed} cannot outlive this program: its kernel type "
                    f"{managed.kernel_type!r} has no handles; use a pool without a registry"
                )
            if managed.running or managed.newest is not None:
                managed.newest = manager
                await self._store_handle(managed, manager)
        except BaseException:
            await manager.cleanup()
            raise
        return info, manager

    async def note_restart(self, lease: Lease) -> None:
        """Note that a lease's kernel is about to be restarted.

        Raises:
            RegistryError: the registry cannot be written.
        """
        managed = self.find(lease)
        fence = None if managed is None else self._fences.get(managed.number)
        if managed is not None and fence is not None and managed.running:
            await self._registry.begin_restart(managed.kernel_id, fence)

    async def _store_handle(self, managed: KeptKernel, manager: KernelManager) -> None:
        handle, fence = handle_of(manager, managed.kernel_id), self._fences.get(managed.number)
        if handle is None or fence is None:
            raise PoolError(f"another program has claimed the {managed} in the registry")
        if not await self._registry.set_handle(managed.kernel_id, fence, handle):
            # Another program has claimed the kernel, or has removed the ended kernel.
            fence = await self._add(managed, managed.start)
            await self._registry.set_handle(managed.kernel_id, fence, handle)

    async def _add(self, managed: ManagedKernel, start: StartOptions) -> int:
        """Add a kernel to the registry; return the fence.

        Raises:
            PoolError: there is a kernel of this name, or the limits of the registry are reached.
            RegistryError: the registry cannot be written.
        """
        await self._store_ends()
        add = partial(
            self._registry.add,
            managed.kernel_id,
            owner=managed.lease.user,
            name=managed.lease.name,
            kernel_type=managed.kernel_type,
            node=self._node,
            seconds=self._claim_seconds,
            start=encoded(start),
            **self._limits(start),
        )
        fence = await add()
        if fence is None:
            await self._remove_ended(managed.lease)
            fence = await add()
        if fence is None:
            raise PoolError(
                f"the {managed} is in the registry already, and another program has it or is "
                f"starting it: use another name, or try again in {self._claim_seconds:g} s"
            )
        self._fences[managed.number] = fence
        return fence

    def _limits(self, start: StartOptions) -> dict[str, int]:
        """Return the limits that the registry checks: none, the plan has all of its kernels."""
        return {}

    async def _remove_ended(self, lease: Lease) -> None:
        """Remove a kernel without an owner that has ended, or whose launch was interrupted."""
        for row in await self._registry.kernels(owner=lease.user):
            if row.name == lease.name:
                await self._adoption.remove_ended(row)

    async def _settle(self, managed: ManagedKernel) -> None:
        """Store the end of a kernel in this pool."""
        adopted = self._adopted.pop(managed.number, None)
        if adopted is not None:  # the start was not even begun
            await detach(adopted[1])
        fence = self._fences.pop(managed.number, None)
        changed = self._notes.pop(managed.number, None)
        if fence is None:
            return
        is_kept = isinstance(managed, KeptKernel) and managed.is_kept
        if not is_kept and adopted is None:
            self._unstored_ends[managed.kernel_id] = fence
        try:
            if is_kept:
                idle = {managed.kernel_id: anyio.current_time() - managed.active_at}
                await self._registry.renew(self._node, seconds=self._claim_seconds, idle=idle)
                if changed is not None:
                    note = {managed.kernel_id: changed.make()}
                    await self._registry.set_notes(self._node, note)
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
            try:
                await self._renew_once()
            except RegistryError as error:
                logger.warning("the kernels of the pool are kept without the registry: %s", error)

    async def _renew_once(self) -> None:
        now, fences = anyio.current_time(), dict(self._fences)
        used = [each for each in self._kernels if each.active_at >= self._stored_at]
        idle = {each.kernel_id: now - each.active_at for each in used if each.running}
        held = await self._registry.renew(self._node, seconds=self._claim_seconds, idle=idle)
        await self._store_ends()
        self._stored_at = now
        for number, fence in fences.items():
            managed = self._kernels[number] if number in self._fences else None
            if managed is not None and held.get(managed.kernel_id) != fence:
                self._let_go(managed)

    async def _store_notes(self) -> None:
        """Store the notes that have changed, at most once a second on average."""
        prompt, counted_at = _PROMPT_WRITES, anyio.current_time()
        while True:
            while not self._notes:
                await self._noted.wait()
            changed = dict(self._notes)
            notes = {
                managed.kernel_id: changed[managed.number].make()
                for managed in self._kernels
                if managed.number in changed
            }
            try:
                await self._registry.set_notes(self._node, notes)
            except RegistryError as error:
                logger.warning("the notes about kernels are not in the registry: %s", error)
                await anyio.sleep(_RENEW_SECONDS)
                continue  # the notes are stored when the registry answers again
            for number, note in changed.items():
                if self._notes.get(number) is note:  # otherwise the note has changed again
                    del self._notes[number]
            now = anyio.current_time()
            prompt = min(prompt + (now - counted_at) / _NOTE_SECONDS, _PROMPT_WRITES) - 1
            counted_at = now
            if prompt < 1:
                await anyio.sleep((1 - prompt) * _NOTE_SECONDS)

    def _let_go(self, managed: ManagedKernel) -> None:
        logger.error("another program has claimed the %s: this pool releases it", managed)
        del self._fences[managed.number]
        self._plan.end(managed.number)
        reason = f"the {managed} belongs to another program now"
        if isinstance(managed, KeptKernel):
            managed.leave(ClientClosed(reason, ended="lost", goes_on=True))
        else:
            managed.end(ClientClosed(reason, ended="lost"))
