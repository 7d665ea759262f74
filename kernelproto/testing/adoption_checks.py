"""check_adoption: checks a host of kernels against the contract of ``interfaces.Adopts``."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from kernelproto.exceptions import DiscoveryError, KernelInUse
from kernelproto.interfaces import Adopts, HasHandle, KernelHandle, KernelManager, MayOutlive
from kernelproto.testing.contract import checking, require, require_type
from kernelproto.wire.connection import ConnectionInfo

Launched: TypeAlias = tuple[ConnectionInfo, KernelManager]

_AT_ONCE = 5


async def check_adoption(
    host: Adopts, launch: Callable[[], Awaitable[Launched]], *, patience: float = 10.0
) -> None:
    """Check a host of kernels, and the handles of the host's managers, against ``interfaces``.

    Launches four kernels and ends them. They need not answer messages. Run check_kernel_manager
    with a launch that adopts to check the managers that the host returns.

    Args:
        host: adopts the kernels.
        launch: starts a kernel that outlives this program; the manager implements HasHandle and
            MayOutlive.
        patience: seconds after which a call counts as hanging.

    Raises:
        AssertionError: the host violates a requirement, which the text names.
    """
    kernels = _Kernels(host, launch, patience)
    for check in _CHECKS:
        await check(kernels)


@dataclass(frozen=True)
class _Kernels:
    """Launches the kernels for the checks."""

    host: Adopts
    launch: Callable[[], Awaitable[Launched]]
    patience: float

    def checking(self, requirement: str) -> AbstractContextManager[None]:
        return checking(requirement, self.patience)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[tuple[Launched, KernelHandle]]:
        """Launch a kernel for the block, and yield the handle."""
        with self.checking("launch() starts a kernel"):
            launched = await self.launch()
        manager = launched[1]
        try:
            yield launched, self.handle_of(manager)
        finally:
            await self.end(manager)

    def handle_of(self, manager: KernelManager) -> KernelHandle:
        require_type(manager, HasHandle, "the manager has a method handle()")
        assert isinstance(manager, HasHandle)
        with self.checking("handle() raises nothing"):
            handle = manager.handle()
        require_type(handle, KernelHandle, "handle() returns a KernelHandle")
        assert handle is not None
        return handle

    async def detach(self, manager: KernelManager) -> None:
        require_type(manager, MayOutlive, "the manager has a method detach()")
        assert isinstance(manager, MayOutlive)
        with self.checking("detach() raises nothing"):
            await manager.detach()

    async def adopt(self, handle: KernelHandle, requirement: str) -> Launched:
        with self.checking(requirement):
            return await self.host.adopt(handle)

    async def require_refusal(self, handle: KernelHandle, requirement: str) -> None:
        with self.checking(requirement):
            try:
                _, manager = await self.host.adopt(handle)
            except KernelInUse:
                return
            await self.end(manager)
        require(False, requirement, manager)

    async def end(self, manager: KernelManager) -> None:
        with anyio.move_on_after(self.patience, shield=True), suppress(Exception):
            await manager.cleanup()


async def _handle_is_data(kernels: _Kernels) -> None:
    async with kernels.running() as ((_, manager), handle):
        with kernels.checking("the handle can be written as JSON"):
            again = KernelHandle.from_json(handle.to_json())
        require(again == handle, "the handle can be written as JSON", again)
        requirement = "handle() returns the same handle while the kernel runs"
        require(kernels.handle_of(manager) == handle, requirement, handle)


async def _kernel_has_one_owner(kernels: _Kernels) -> None:
    async with kernels.running() as ((info, manager), handle):
        await kernels.require_refusal(handle, "adopt() refuses a kernel with an owner: KernelInUse")
        await kernels.detach(manager)
        found, adopted = await kernels.adopt(handle, "adopt() takes over a detached kernel")
        try:
            require(found == info, "adopt() returns the connection of the kernel", found)
            require_type(adopted, KernelManager, "adopt() returns a KernelManager")
            require(await adopted.is_alive(), "the kernel goes on when it is adopted", "its end")
            refused = "adopt() refuses a kernel that was adopted: KernelInUse"
            await kernels.require_refusal(handle, refused)
            same = "the manager of an adopted kernel has the same handle"
            require(kernels.handle_of(adopted) == handle, same, adopted)
            await kernels.detach(adopted)
            _, again = await kernels.adopt(handle, "adopt() takes over a kernel several times")
            await kernels.end(again)
        finally:
            await kernels.end(adopted)


async def _one_of_several_adopts_it(kernels: _Kernels) -> None:
    requirement = "of several calls of adopt() at once, one succeeds and the others get KernelInUse"
    owners: list[KernelManager] = []

    async def adopt() -> None:
        with suppress(KernelInUse):
            owners.append((await kernels.host.adopt(handle))[1])

    async with kernels.running() as ((_, manager), handle):
        await kernels.detach(manager)
        try:
            with kernels.checking(requirement):
                async with anyio.create_task_group() as tasks:
                    for _ in range(_AT_ONCE):
                        tasks.start_soon(adopt)
            require(len(owners) == 1, requirement, owners)
        finally:
            for owner in owners:
                await kernels.end(owner)


async def _ended_kernel_is_refused(kernels: _Kernels) -> None:
    requirement = "adopt() refuses a kernel that has ended: DiscoveryError, and not KernelInUse"
    async with kernels.running() as ((_, manager), handle):
        with kernels.checking("cleanup() raises nothing"):
            await manager.cleanup()
        with kernels.checking(requirement):
            try:
                launched: object = await kernels.host.adopt(handle)
            except DiscoveryError as error:
                launched = error
        is_refused = isinstance(launched, DiscoveryError) and not isinstance(launched, KernelInUse)
        require(is_refused, requirement, launched)


_CHECKS = (
    _handle_is_data,
    _kernel_has_one_owner,
    _one_of_several_adopts_it,
    _ended_kernel_is_refused,
)
