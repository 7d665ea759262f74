"""FakeManager and FakeProvider: FakeKernels as if they were processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import anyio
import msgspec
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import InvalidLaunchParameter, LaunchError, NoSuchKernel
from kernelproto.interfaces import KernelAttributes, KernelManager
from kernelproto.testing.fake_kernel import FakeKernel
from kernelproto.wire.connection import ConnectionInfo

_SIGINT, _SIGKILL, _SIGTERM = 2, 9, 15


class FakeManager:
    """The KernelManager of a FakeKernel: signals end or interrupt the kernel like a process.

    Attributes:
        kernel: the kernel.
        kernel_id: the kernel's id.
        open_channels: opens channels to the kernel, as ``interfaces.OpenChannels``.
        reachability: whether the kernel can be reached; see ``FakeKernel.cut``.
    """

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.kernel_id = kernel.kernel_id
        self.open_channels = kernel.open_channels
        self.reachability = kernel.reachability

    async def is_alive(self) -> bool:
        """Return whether the kernel has not died, as far as the manager can know."""
        await checkpoint()
        return self.kernel.returncode is None or self.reachability.problem is not None

    async def wait(self) -> int | None:
        """Wait until the kernel has died and can be reached; return the exit status."""
        returncode = await self.kernel.wait()
        await self.reachability.until_regained()
        return returncode

    async def probe(self) -> bool:
        """Return whether the connection to the kernel is not cut."""
        await checkpoint()
        return self.reachability.problem is None

    async def signal(self, signum: int) -> None:
        """Interrupt the kernel for SIGINT, do nothing for 0, and end it for other signals."""
        await self.reachability.until_regained()
        await checkpoint()
        if signum == _SIGINT:
            self.kernel.interrupt()
        elif signum:
            self.kernel.die(-signum)

    async def interrupt(self) -> None:
        """Interrupt the running code."""
        await self.signal(_SIGINT)

    async def terminate(self) -> None:
        """End the kernel as SIGTERM would."""
        await self.signal(_SIGTERM)

    async def kill(self) -> None:
        """End the kernel as SIGKILL would."""
        await self.signal(_SIGKILL)

    async def cleanup(self) -> None:
        """End the kernel, if alive, even while the connection is cut."""
        await checkpoint()
        self.kernel.die(-_SIGKILL)
        self.reachability.end()


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The launch parameters of a FakeProvider."""

    env: dict[str, str] = {}
    transport: Literal["tcp", "ipc"] = "ipc"


class FakeProvider(AsyncContextManagerMixin):
    """A KernelProvider, for the block, with one kernel type ``fake/kernel``: a FakeKernel.

    Each launch creates a new kernel, which ends with the block at the latest.

    Args:
        prepare: called with each new kernel before its start, for example to add scripts.

    Attributes:
        kernels: the launched kernels, in order.
    """

    id = "fake"

    def __init__(self, prepare: Callable[[FakeKernel], None] = lambda kernel: None) -> None:
        self.kernels: list[FakeKernel] = []
        self._prepare = prepare
        self._tasks: TaskGroup | None = None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[FakeProvider]:
        try:
            async with background_tasks() as self._tasks:
                yield self
        finally:
            self._tasks = None

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the kernel type ``kernel``."""
        yield "kernel", KernelAttributes(display_name="Fake", language="fake")

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start a FakeKernel.

        Args:
            name: ``"kernel"``.
            cwd: kept as the kernel's ``cwd``.
            launch_params: ``env``, kept as the kernel's ``env``, and ``transport``.

        Raises:
            NoSuchKernel: the name is not ``"kernel"``.
            InvalidLaunchParameter: a parameter is unknown or has the wrong type, or the working
                directory does not exist.
            LaunchError: the provider is not open.
        """
        if name != "kernel":
            raise NoSuchKernel(f"no kernel type {name!r}", name=name, available=["kernel"])
        try:
            options = msgspec.convert(dict(launch_params or {}), _Options)
        except msgspec.ValidationError as error:
            raise InvalidLaunchParameter(str(error)) from error
        if cwd is not None and not await anyio.Path(cwd).is_dir():
            raise InvalidLaunchParameter(f"the working directory {cwd!r} cannot be entered")
        if self._tasks is None:
            raise LaunchError("the provider is not open: use `async with FakeProvider()`")
        kernel = FakeKernel(cwd=cwd, env=options.env, transport=options.transport)
        self._prepare(kernel)
        await self._tasks.start(_live, kernel)
        self.kernels.append(kernel)
        return kernel.connection_info, FakeManager(kernel)


async def _live(kernel: FakeKernel, *, task_status: TaskStatus[None]) -> None:
    async with kernel:
        task_status.started()
        await kernel.wait()
