"""Adopting the kernels in a registry that no program owns, for a pool that is being opened.

If a program was killed during a launch, the row of the kernel has no handle, or that of an old
process. Each process is listed under the id of its kernel from the beginning, so the pool finds the
process by this id. A kernel that was being restarted is adopted, or started again if the program
was killed before the start of the new process. A kernel without a user is ended.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any, NamedTuple, cast

import anyio
import msgspec

from kernelproto.exceptions import (
    DiscoveryError,
    KernelInUse,
    KernelProtoError,
    LaunchError,
    PoolError,
)
from kernelproto.host.launch import adopt
from kernelproto.host.local import host_folder
from kernelproto.interfaces import HasHandle, KernelHandle, KernelManager, MayOutlive
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.launched import find_launched
from kernelproto.launch.spec.naming import HOST, LOCAL
from kernelproto.pool.launcher import StartOptions
from kernelproto.pool.limits import LeaseLimits
from kernelproto.registry.interface import RegisteredKernel, Registry
from kernelproto.supervise.instance import Launched

logger = logging.getLogger(__name__)

# How long a claim holds.
CLAIM_SECONDS = 30.0

# The ids of the hosts that find their kernels on one machine only.
_OF_ONE_MACHINE = (LOCAL, "container")

# Time to store the end of a kernel, and to let go of one.
SETTLE_SECONDS = 10.0


class Found(NamedTuple):
    """A kernel that this pool has claimed.

    Attributes:
        row: the kernel in the registry.
        fence: the number of the claim.
        start: the options of the kernel's start.
        launched: the adopted kernel; None if the kernel must be started again.
    """

    row: RegisteredKernel
    fence: int
    start: StartOptions
    launched: Launched | None


class Adoption:
    """Adopts kernels for a pool.

    Args:
        registry: has the kernels.
        finder: adopts them.
        node: the name of this program in the registry.
        counts: the counts of the pool; "lost" is counted here.
        replays: as for ``kernelproto.host.launch.adopt``.
        seconds: how long a claim holds.
        is_shared: whether other nodes use the registry, perhaps on machines that this node cannot
            reach. Then only a node that can judge removes a kernel as ended.
    """

    def __init__(
        self,
        registry: Registry,
        finder: KernelFinder,
        node: str,
        counts: Counter[str],
        *,
        replays: bool = False,
        seconds: float = CLAIM_SECONDS,
        is_shared: bool = False,
    ) -> None:
        self._replays = replays
        self._seconds = seconds
        self._is_shared = is_shared
        self._registry = registry
        self._finder = finder
        self._node = node
        self._counts = counts

    async def find(self, found: list[Found]) -> None:
        """Adopt the kernels in the registry that no program owns.

        Args:
            found: gets each kernel as soon as the kernel is adopted and claimed.

        Raises:
            RegistryError: the registry cannot be read or written.
        """
        for row in await self._registry.kernels():
            await self.take(row, found)

    async def take(self, row: RegisteredKernel, found: list[Found]) -> None:
        """Adopt a kernel unless a program owns it.

        Args:
            row: the kernel in the registry.
            found: gets the kernel when it is adopted and claimed.

        Raises:
            RegistryError: the registry cannot be read or written.
        """
        start = self._start(row)
        if start is not None:
            is_alive, launched = await self._try_to_adopt(row)
            if is_alive:
                await self._claim(row, launched, start, found)

    async def remove_ended(self, row: RegisteredKernel) -> None:
        """Remove the row of a kernel that has ended without an owner.

        Raises:
            RegistryError: the registry cannot be written.
        """
        if row.held and row.node != self._node:
            return
        is_alive, launched = await self._try_to_adopt(row)
        if launched is not None:
            await detach(launched[1])
        elif is_alive:  # no process, since a restart was interrupted
            await self._registry.remove(row.kernel_id, row.fence)

    def _start(self, row: RegisteredKernel) -> StartOptions | None:
        """Return the options of a kernel's start; None if this pool must not adopt the kernel."""
        if row.held and row.node != self._node:
            return None
        try:
            return _decoded(row)
        except ValueError as error:
            logger.warning("the %s cannot be adopted now: %s", _about(row), error)
            return None

    async def _try_to_adopt(self, row: RegisteredKernel) -> tuple[bool, Launched | None]:
        """Adopt a kernel as _adopt() does, or log why that is impossible."""
        try:
            return await self._adopt(row)
        except KernelInUse as error:
            logger.warning("the %s is left to its owner: %s", _about(row), error)
        except (DiscoveryError, LaunchError) as error:
            logger.warning("the %s cannot be adopted now: %s", _about(row), error)
        return False, None

    async def _adopt(self, row: RegisteredKernel) -> tuple[bool, Launched | None]:
        """Adopt a kernel; remove the row if the kernel has ended or has no user yet.

        Returns:
            Whether the pool has the kernel, and the kernel if adopted.
        """
        failure: DiscoveryError | None = None
        if row.handle is not None:
            try:
                return True, await adopt(self._finder, row.handle, replays=self._replays)
            except KernelInUse:
                raise
            except DiscoveryError as error:
                failure = error
        launched = await self._adopt_launched(row, failure)
        if launched is not None:
            if row.handle is not None:
                return True, launched
            logger.info("the %s is ended: its launch was interrupted", _about(row))
            await launched[1].cleanup()
        elif not self._can_judge(row):
            return False, None
        elif failure is not None and row.restarting:
            return True, None
        elif failure is not None:
            logger.warning("the %s is lost: %s", _about(row), failure)
            self._counts["lost"] += 1
        await self._registry.remove(row.kernel_id, row.fence)
        return False, None

    def _can_judge(self, row: RegisteredKernel) -> bool:
        """Return whether a kernel that this node does not find has ended.

        A node that has held the kernel knows, and so does every node on the machine of its host, or
        with the engine that runs it. A kernel of another machine may live.
        """
        if not self._is_shared or row.node == self._node:
            return True
        handle = row.handle
        if handle is None or handle.host in _OF_ONE_MACHINE:
            return False
        return handle.host != HOST or handle.place.get("folder") == host_folder()

    async def _adopt_launched(
        self, row: RegisteredKernel, failure: DiscoveryError | None
    ) -> Launched | None:
        """Adopt a kernel whose handle is not in the registry; return None if there is no kernel.

        Args:
            row: the kernel.
            failure: the reason why the kernel with the handle in the registry was not adopted.
        """
        handle = await find_launched(self._finder, row.kernel_type, row.kernel_id)
        if handle is None:
            return None
        if failure is not None and row.handle is not None and handle.place == row.handle.place:
            raise failure
        try:
            return await adopt(self._finder, handle, replays=self._replays)
        except KernelInUse:
            raise
        except DiscoveryError:
            if await find_launched(self._finder, row.kernel_type, row.kernel_id) is not None:
                raise
            return None  # the kernel had ended in its host, which has removed it now

    async def _claim(
        self,
        row: RegisteredKernel,
        launched: Launched | None,
        start: StartOptions,
        found: list[Found],
    ) -> None:
        fence = None
        try:
            fence = await self._registry.claim(
                row.kernel_id, node=self._node, seconds=self._seconds
            )
        finally:
            if fence is None and launched is not None:  # another node was faster
                await detach(launched[1])
        if fence is not None:
            found.append(Found(row, fence, start, launched))
            handle = None if launched is None else handle_of(launched[1], row.kernel_id)
            if handle is not None and (handle != row.handle or row.restarting):
                await self._registry.set_handle(row.kernel_id, fence, handle)


class _StoredStart(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The options of a start in the registry."""

    cwd: str | None = None
    env: dict[str, str] | None = None
    launch_params: dict[str, Any] | None = None
    lease_limits: LeaseLimits | None = None


def _about(row: RegisteredKernel) -> str:
    return f"kernel {row.name!r} of {row.owner!r} ({row.kernel_id})"


def handle_of(manager: KernelManager, kernel_id: str) -> KernelHandle | None:
    """Return the handle of a kernel, with the kernel's id in the registry; None without one."""
    handle = manager.handle() if isinstance(manager, HasHandle) else None
    return None if handle is None else msgspec.structs.replace(handle, kernel_id=kernel_id)


def encoded(start: StartOptions) -> str:
    """Return the options of a start as JSON.

    Raises:
        PoolError: JSON has no such value as an option.
    """
    given = {name: value for name, value in start.items() if name in _StoredStart.__struct_fields__}
    try:
        return msgspec.json.encode(_StoredStart(**cast("dict[str, Any]", given))).decode()
    except (TypeError, ValueError) as error:
        raise PoolError(
            f"a kernel that outlives its pool takes only options that JSON has: {error}"
        ) from None


def _decoded(row: RegisteredKernel) -> StartOptions:
    """Return the options of the first start of a kernel.

    Raises:
        ValueError: they cannot be read; without them, a restart might leave out a sandbox.
    """
    start = StartOptions(kernel_type=row.kernel_type)
    if row.start:
        stored = msgspec.json.decode(row.start, type=_StoredStart)
        values = {name: getattr(stored, name) for name in stored.__struct_fields__}
        start |= cast("StartOptions", {name: value for name, value in values.items() if value})
    return start


async def detach(manager: KernelManager) -> None:
    """Let go of a kernel that was adopted."""
    with anyio.move_on_after(SETTLE_SECONDS, shield=True):
        try:
            if isinstance(manager, MayOutlive):
                await manager.detach()
        except KernelProtoError as error:
            logger.warning("a kernel is not released: %s", error)
