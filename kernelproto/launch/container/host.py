"""ContainerHost: launches kernels in containers, adopts them, and removes leftovers."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, suppress

import anyio
import anyio.to_thread
import msgspec

from kernelproto.concurrency.shield import to_the_end
from kernelproto.concurrency.turns import turn
from kernelproto.exceptions import DiscoveryError, LaunchError
from kernelproto.interfaces import KernelAttributes, KernelHandle, KernelManager
from kernelproto.launch.address.paths import runtime_folder
from kernelproto.launch.container.arguments import run_arguments
from kernelproto.launch.container.container import Container, remove
from kernelproto.launch.container.engine import Engine, EngineError
from kernelproto.launch.container.leftovers import labels_of, remove_leftovers
from kernelproto.launch.container.manager import LOG, PROVIDER, ContainerManager, handle_of
from kernelproto.launch.container.preparation import (
    ENV_FILE,
    SOCKETS,
    check_parameters,
    command_of,
    environment_of,
    ulimits,
    user_of,
    write_files,
)
from kernelproto.launch.container.settings import ContainerKernel, ContainerSettings
from kernelproto.launch.failures import shortages_named
from kernelproto.launch.leftovers.kernel_folder import FolderRecord, KernelFolder, claimed
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.spec.configuration import checked, place_in
from kernelproto.launch.spec.naming import no_such_kernel
from kernelproto.launch.spec.parameters import LaunchParameters
from kernelproto.wire.connection import ConnectionInfo

# A pull may take long.
_START_SECONDS = 60.0
_PULL_SECONDS = 3600.0

_UNDO_SECONDS = 30.0

# How often launches look for leftovers.
_SWEEP_SECONDS = 60.0


class ContainerHost:
    """Launches kernels in containers and adopts them, for a ContainerProvider.

    Args:
        settings: the settings of the provider.

    Raises:
        ValueError: a setting is not valid.
    """

    def __init__(self, settings: ContainerSettings) -> None:
        settings = checked(settings, PROVIDER)
        self._kernels = dict(settings.kernels)
        self._engine = Engine(settings.engine, settings.engine_options)
        self._folder = settings.folder
        self._swept: float | None = None

    def kernel_types(self) -> Iterator[tuple[str, KernelAttributes]]:
        """Yield the kernel types of the settings; the engine is not called."""
        fault = self._engine.fault()
        for name, kernel in self._kernels.items():
            display_name = f"{name} ({kernel.image})"
            metadata = {"container": {"image": kernel.image}}
            yield name, kernel.attributes(display_name, metadata, fault)

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None,
        launch_params: Mapping[str, object] | None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start a container with the kernel; see ContainerProvider.launch()."""
        kernel = self._kernels.get(name)
        if kernel is None:
            raise no_such_kernel(
                name, self._kernels, remedy="add it to the kernels of the provider 'container'"
            )
        parameters, cwd = check_parameters(kernel, cwd, launch_params)
        await turn()
        with shortages_named():
            abilities = await self._engine.abilities()
            abilities.check(kernel)
            await self._sweep()
            record = FolderRecord(
                kernel_id=(kernel_id := str(uuid.uuid4())),
                kernel_type=f"{PROVIDER}/{name}",
                owner=ProcessId.of(os.getpid()),
                detached=parameters.detached,
                command=command_of(kernel, parameters, kernel_id),
                interrupt_mode=kernel.interrupt_mode,
                place=f"kernelproto-{kernel_id}",
                listed_as=parameters.listed_as,
            )
            user = user_of(kernel, rootless=abilities.rootless, kind=self._engine.kind)
            return await self._start(kernel, record, parameters, cwd, user)

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over a kernel; see ContainerProvider.adopt()."""
        place = place_in(handle, _Place)
        folder = await anyio.to_thread.run_sync(KernelFolder.open, place.folder)
        if folder.record.kernel_id != place.kernel_id:
            raise DiscoveryError(f"the kernel {place.kernel_id} has ended")
        async with claimed(folder):
            return await self._adopted(folder)

    async def find_launched(self, kernel_id: str) -> KernelHandle | None:
        """Return the handle of a listed kernel; see ContainerProvider.find_launched()."""
        found: KernelHandle | None = None
        for folder in await anyio.to_thread.run_sync(KernelFolder.listed_in, self._base, kernel_id):
            name = folder.record.place
            about = await self._engine.inspect(name)
            if about and about[0]["State"].get("Running"):
                found = handle_of(folder, kernel_id)
            else:
                await anyio.to_thread.run_sync(folder.ownership.claim)
                await remove(self._engine, name)
                await _remove_folder(folder)
        return found

    async def remove_leftovers(self) -> int:
        """Remove leftovers; see ContainerProvider.remove_leftovers()."""
        self._swept = time.monotonic()
        return await remove_leftovers(self._engine, self._base)

    @property
    def _base(self) -> str:
        return self._folder or os.path.join(runtime_folder(), "containers")

    async def _sweep(self) -> None:
        now = time.monotonic()
        if self._swept is None or now - self._swept > _SWEEP_SECONDS:
            await self.remove_leftovers()

    async def _start(
        self,
        kernel: ContainerKernel,
        record: FolderRecord,
        parameters: LaunchParameters,
        cwd: str | None,
        user: tuple[str, bool],
    ) -> tuple[ConnectionInfo, KernelManager]:
        env = environment_of(kernel, parameters)
        async with AsyncExitStack() as undo:
            folder = await anyio.to_thread.run_sync(KernelFolder.create, self._base, record)
            undo.push_async_callback(_remove_folder, folder)
            info = await anyio.to_thread.run_sync(write_files, folder, env, user[0])
            undo.push_async_callback(self._remove, record.place)
            arguments = run_arguments(
                kernel,
                kind=self._engine.kind,
                name=record.place,
                labels=labels_of(folder),
                shared=folder.file(SOCKETS),
                log=folder.file(LOG),
                user=user[0],
                keeps_user=user[1],
                ulimits=ulimits(),
                cwd=cwd,
                env=env,
                env_file=folder.file(ENV_FILE),
                command=record.command,
            )
            seconds = _START_SECONDS if kernel.pull == "never" else _PULL_SECONDS
            # The folder in which podman's monitor leaves a file if Linux ends a process for its
            # memory.
            await self._engine.call(*arguments, seconds=seconds, cwd=folder.path)
            manager = await self._manager(folder)
            undo.pop_all()
        return info, manager

    async def _adopted(self, folder: KernelFolder) -> tuple[ConnectionInfo, KernelManager]:
        info = await anyio.to_thread.run_sync(lambda: folder.info)
        try:
            manager = await self._manager(folder)
        except LaunchError as error:
            raise DiscoveryError(f"the kernel cannot be adopted: {error}") from error
        if not await manager.is_alive():
            manager.close()
            raise DiscoveryError(f"the kernel {folder.record.kernel_id} has ended")
        return info, manager

    async def _manager(self, folder: KernelFolder) -> ContainerManager:
        name = folder.record.place
        found = await self._engine.inspect(name)
        if not found:
            raise LaunchError(f"the container {name} has been removed")
        kernel = self._kernels.get(folder.record.kernel_type.partition("/")[2])
        memory = None if kernel is None else kernel.memory
        return ContainerManager(folder, Container(self._engine, name, found[0]), memory)

    async def _remove(self, name: str) -> None:
        """Remove the container of a failed launch, if it exists."""

        async def remove_it() -> None:
            with suppress(EngineError):  # a later launch removes the container
                await remove(self._engine, name)

        await to_the_end(remove_it, seconds=_UNDO_SECONDS)


class _Place(msgspec.Struct):
    """The place in a handle of this provider."""

    kernel_id: str
    folder: str


async def _remove_folder(folder: KernelFolder) -> None:
    await to_the_end(lambda: anyio.to_thread.run_sync(folder.remove))
