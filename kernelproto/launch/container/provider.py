"""ContainerProvider: kernels in containers of podman or docker, ``container/NAME``.

The parts that do the work are imported when there are settings: every finder makes this provider.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING

from kernelproto.interfaces import KernelAttributes, KernelHandle, KernelManager
from kernelproto.launch.spec.configuration import configuration
from kernelproto.launch.spec.naming import no_such_kernel
from kernelproto.wire.connection import ConnectionInfo

if TYPE_CHECKING:
    from kernelproto.launch.container.host import ContainerHost
    from kernelproto.launch.container.settings import ContainerKernel


class ContainerProvider:
    """Runs kernels in containers of podman or docker, ``container/NAME``.

    Each kernel type is an image with settings. A kernel has no network, a read-only file system
    with a small ``/tmp``, no capabilities, and limits of its memory and processes. This program
    reaches the kernel by ipc sockets in a private folder that both share. That folder is on the
    disk of this machine, and has no quota.

    The engine is not called before the first launch.

    Args:
        kernels: the kernel types by name.
        engine: the program of the engine, ``"podman"``, ``"docker"`` or a path. By default podman,
            or docker if podman is not installed.
        engine_options: options of the engine that each call begins with.
        folder: the absolute path of a local folder for the kernels' files, by default in Jupyter's
            runtime folder. The first kernel makes the folder, and the last removes it.

    Raises:
        ValueError: a setting is not valid.
    """

    id = "container"

    def __init__(
        self,
        kernels: Mapping[str, ContainerKernel] | None = None,
        *,
        engine: str = "",
        engine_options: Sequence[str] = (),
        folder: str | None = None,
    ) -> None:
        self._configured: ContainerHost | None = None
        if kernels or engine or engine_options or folder:
            from kernelproto.launch.container.host import ContainerHost
            from kernelproto.launch.container.settings import ContainerSettings

            settings = ContainerSettings(
                kernels=kernels or {},
                engine=engine,
                engine_options=tuple(engine_options),
                folder=folder,
            )
            self._configured = ContainerHost(settings)

    def load_config(self, config: Mapping[str, object] | None) -> None:
        """Take ``{"kernels": {NAME: {"image": ...}}, "engine": ..., "folder": ...}``.

        Raises:
            ValueError: *config* has another form.
        """
        if config is None:
            return
        from kernelproto.launch.container.host import ContainerHost
        from kernelproto.launch.container.settings import ContainerSettings

        settings = configuration(config, ContainerSettings, self.id)
        self._configured = ContainerHost(settings)

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the kernel types of the settings; the engine is not called."""
        if self._configured is not None:
            for kernel_type in self._configured.kernel_types():
                yield kernel_type

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start a container with the kernel, which need not be ready on return.

        Args:
            name: the name of a kernel type in the settings.
            cwd: a folder that is mounted at the same path, and is the working directory. None means
                the working directory of the image.
            launch_params: ``env`` (a mapping), ``transport`` ("ipc"), ``detached`` and
                ``listed_as``.

        Raises:
            NoSuchKernel: the settings have no such kernel type.
            InvalidLaunchParameter: a parameter is unknown or not possible in a container.
            LaunchError: the engine is missing, cannot be used or refuses the container.
        """
        if self._configured is None:
            raise no_such_kernel(name, [], remedy="configure the kernel provider 'container'")
        return await self._configured.launch(name, cwd=cwd, launch_params=launch_params)

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over a kernel in a container of this machine.

        Raises:
            KernelInUse: a running program owns the kernel, perhaps this one.
            DiscoveryError: the kernel has ended, or cannot be adopted.
        """
        return await self._host.adopt(handle)

    async def find_launched(self, name: str, kernel_id: str) -> KernelHandle | None:
        """Return the handle of the kernel that is listed under an id; see FindsLaunched.

        A container that does not run, because its launch was interrupted, is removed.

        Raises:
            KernelInUse: a running program is launching the kernel.
            DiscoveryError: the files of the kernel cannot be read or changed.
            LaunchError: the engine cannot be used.
        """
        return await self._host.find_launched(kernel_id) if self._configured else None

    async def remove_leftovers(self) -> int:
        """Remove the containers of this user whose programs have ended; return their number.

        Containers of detached kernels that still run are left. Each launch does this as well, at
        most once a minute.

        Raises:
            LaunchError: the engine cannot be used.
        """
        return await self._host.remove_leftovers()

    @property
    def _host(self) -> ContainerHost:
        if self._configured is None:
            from kernelproto.launch.container.host import ContainerHost
            from kernelproto.launch.container.settings import ContainerSettings

            self._configured = ContainerHost(ContainerSettings())
        return self._configured
