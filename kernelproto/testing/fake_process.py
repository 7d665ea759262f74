"""FakeManager and FakeProvider: a FakeKernel in the place of a process."""

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
    """The KernelManager of a FakeKernel: signals end or interrupt it, as they would a process.

    Attributes:
        kernel: the kernel.
        kernel_id: that of the kernel.
        open_channels: opens the channels to the kernel, as ``interfaces.OpenChannels`` has it.
    """

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.kernel_id = kernel.kernel_id
        self.open_channels = kernel.open_channels

    async def is_alive(self) -> bool:
        """Return whether the kernel has not died."""
        await checkpoint()
        return self.kernel.returncode is None

    async def wait(self) -> int | None:
        """Wait until the kernel has died; return its exit status."""
        return await self.kernel.wait()

    async def signal(self, signum: int) -> None:
        """Interrupt the kernel for SIGINT, do nothing for 0, and end it for any other signal."""
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
        """End the kernel, if it lives."""
        await self.kill()


class _Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The launch parameters of a FakeProvider."""

    env: dict[str, str] = {}
    transport: Literal["tcp", "ipc"] = "ipc"


class FakeProvider(AsyncContextManagerMixin):
    """A KernelProvider, for the block, whose one kernel type ``fake/kernel`` is a FakeKernel.

    Each launch makes a new kernel, which lives until it dies, at the latest with the block.

    Args:
        prepare: called with each new kernel before it starts, to tell it what to do.

    Attributes:
        kernels: those that were launched.
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
        """Give the type ``kernel``."""
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
            cwd: kept in the kernel's ``cwd``.
            launch_params: ``env``, kept in the kernel's ``env``, and ``transport``.

        Raises:
            NoSuchKernel: another name was asked for.
            InvalidLaunchParameter: a parameter is unknown or of the wrong kind, or there is no
                such working directory.
            LaunchError: this is not the provider's block.
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
            raise LaunchError("a FakeProvider launches during its block: async with FakeProvider()")
        kernel = FakeKernel(cwd=cwd, env=options.env, transport=options.transport)
        self._prepare(kernel)
        await self._tasks.start(_live, kernel)
        self.kernels.append(kernel)
        return kernel.connection_info, FakeManager(kernel)


async def _live(kernel: FakeKernel, *, task_status: TaskStatus[None]) -> None:
    async with kernel:
        task_status.started()
        await kernel.wait()
