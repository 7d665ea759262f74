"""WarmProvider: kernels that are launched in advance."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
from anyio import AsyncContextManagerMixin

from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.process_owner import Owner
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.interfaces import KernelAttributes, KernelManager, KernelProvider
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

_CLEANUP_SECONDS = Timeouts().kill

# How long to wait after a launch that has failed, longer each time, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0


class _Spare:
    """A kernel that has not been handed out yet."""

    def __init__(self, info: ConnectionInfo, manager: KernelManager) -> None:
        self.info = info
        self.manager = manager
        self.taken = False
        self.gone = anyio.Event()

    async def watch(self) -> None:
        """Wait until the kernel dies."""
        await self.manager.wait()
        self.gone.set()


class WarmProvider(AsyncContextManagerMixin):
    """Launches kernels of another provider in advance, and hands them out, for the block.

    ``async with WarmProvider(IPykernelProvider(), "kernel", warm=4) as provider`` is a provider of
    the kernel type ``warm/kernel``. A launch gets a running kernel immediately, and another kernel
    takes its place. Each kernel is handed out once. A kernel that dies before is replaced. The
    remaining kernels end with the block.

    A launch with another working directory or other parameters, or while no kernel is ready, is an
    ordinary launch.

    Args:
        provider: launches the kernels.
        name: the kernel type, without the provider's id.
        warm: how many kernels are kept ready.
        cwd: their working directory; None means the caller's.
        launch_params: their launch parameters.
    """

    id = "warm"

    def __init__(
        self,
        provider: KernelProvider,
        name: str,
        *,
        warm: int,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> None:
        if warm < 0:
            raise ValueError(f"warm must be 0 or more, not {warm}")
        self._provider = provider
        self._name = name
        self._warm = warm
        self._cwd = cwd
        self._launch_params = dict(launch_params or {})
        self._spares: deque[_Spare] = deque()
        self._more = Bell()
        self._owner = Owner()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[WarmProvider]:
        async with background_tasks() as tasks:
            for _ in range(self._warm):
                tasks.start_soon(self._keep_one_ready)
            yield self

    @property
    def ready(self) -> int:
        """The number of kernels that are ready to be handed out."""
        return len(self._spares)

    async def wait_until_warm(self) -> None:
        """Wait until all warm kernels have been launched; set a deadline around the call."""
        while len(self._spares) < self._warm:
            await self._more.wait()

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the kernel type that is kept warm."""
        # All at once, so that no generator of the provider stays open between two steps.
        found = [kernel async for kernel in self._provider.find_kernels()]
        for name, attributes in found:
            if name == self._name:
                yield name, attributes

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Hand out a warm kernel, or launch one.

        Arguments and exceptions are those of the provider.
        """
        wanted = (name, cwd, dict(launch_params or {}))
        if wanted == (self._name, self._cwd, self._launch_params):
            while self._spares and self._owner.is_here:
                spare = self._spares.popleft()
                if await spare.manager.is_alive():
                    spare.taken = True
                    spare.gone.set()
                    return spare.info, spare.manager
        return await self._provider.launch(name, cwd=cwd, launch_params=launch_params)

    async def _keep_one_ready(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                launched = await self._provider.launch(
                    self._name, cwd=self._cwd, launch_params=self._launch_params
                )
            except Exception as error:
                logger.warning(
                    "a warm kernel %r cannot be launched; the next attempt is in %g s: %s",
                    self._name,
                    pause,
                    error,
                )
                await anyio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
                await self._hold(_Spare(*launched))

    async def _hold(self, spare: _Spare) -> None:
        """Keep a kernel until it is handed out or dies."""
        try:
            async with background_tasks() as tasks:
                tasks.start_soon(spare.watch)
                self._spares.append(spare)
                self._more.ring()
                await spare.gone.wait()
        finally:
            if spare in self._spares:
                self._spares.remove(spare)
            if not spare.taken:
                with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
                    await spare.manager.cleanup()
