"""SlurmProvider: kernels as jobs of Slurm, ``slurm/NAME``; BatchProvider: the base for others.

The parts that do the work are imported when there are settings: every finder makes this provider.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from kernelproto.interfaces import KernelAttributes, KernelHandle, KernelManager
from kernelproto.launch.spec.configuration import configuration
from kernelproto.launch.spec.naming import no_such_kernel
from kernelproto.wire.connection import ConnectionInfo

if TYPE_CHECKING:
    from kernelproto.launch.batch.host import BatchHost
    from kernelproto.launch.batch.settings import BatchKernel
    from kernelproto.launch.batch.system import BatchSystem


class BatchProvider(ABC):
    """Runs kernels as jobs of a batch system, which a subclass chooses."""

    id: str

    def __init__(
        self,
        kernels: Mapping[str, BatchKernel] | None = None,
        *,
        folder: str | None = None,
        poll_seconds: float = 1.0,
        config: str | None = None,
    ) -> None:
        self._configured: BatchHost | None = None
        if kernels or folder or config:
            from kernelproto.launch.batch.host import BatchHost
            from kernelproto.launch.batch.settings import BatchSettings

            settings = BatchSettings(
                kernels=kernels or {}, folder=folder, poll_seconds=poll_seconds, config=config
            )
            self._configured = BatchHost(self._system(config), settings)

    @abstractmethod
    def _system(self, config: str | None) -> BatchSystem:
        """Return the batch system with a configuration file; None means the system's default."""

    def load_config(self, config: Mapping[str, object] | None) -> None:
        """Take ``{"folder": ..., "kernels": {NAME: {...}}}``; see the arguments of the class.

        Raises:
            ValueError: *config* has another form.
        """
        if config is None:
            return
        from kernelproto.launch.batch.host import BatchHost
        from kernelproto.launch.batch.settings import BatchSettings

        settings = configuration(config, BatchSettings, self.id)
        self._configured = BatchHost(self._system(settings.config), settings)

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the kernel types of the settings; the batch system is not called."""
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
        """Submit a job, and wait until the kernel listens, which need not be ready on return.

        The time in the queue is limited by ``Timeouts.queue`` and ``queue_seconds`` of the kernel
        type. This time does not count for ``Timeouts.startup``.

        Args:
            name: the name of a kernel type in the settings.
            cwd: the kernel's working directory, a folder that the nodes share.
            launch_params: ``env``, ``transport`` ("tcp"), ``encryption``, ``detached``,
                ``listed_as`` and those that the schema of the kernel type declares, such as
                ``partition`` and ``memory``.

        Raises:
            NoSuchKernel: the settings have no such kernel type.
            InvalidLaunchParameter: a parameter is unknown, or has a value that is not allowed.
            KernelExitedEarly: the job has ended before the kernel listened.
            KernelNotReady: the time was over while the job was queued, or the kernel did not listen
                in time.
            LaunchError: the batch system is missing, does not answer or refuses the job.
        """
        if self._configured is None:
            raise no_such_kernel(name, [], remedy=f"configure the kernel provider {self.id!r}")
        return await self._configured.launch(name, cwd=cwd, launch_params=launch_params)

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over the kernel of a job.

        Raises:
            KernelInUse: a running program owns the kernel, perhaps this one.
            DiscoveryError: the kernel has ended, or cannot be adopted.
        """
        return await self._host.adopt(handle)

    async def find_launched(self, name: str, kernel_id: str) -> KernelHandle | None:
        """Return the handle of the kernel that is listed under an id; see FindsLaunched.

        The job of a launch that was interrupted before the kernel listened is cancelled.

        Raises:
            KernelInUse: a running program is launching the kernel.
            DiscoveryError: the files of the kernel cannot be read or changed.
            LaunchError: the batch system does not answer.
        """
        return await self._host.find_launched(kernel_id) if self._configured else None

    async def remove_leftovers(self) -> int:
        """Remove the leftovers of programs that have ended; return the number of kernels.

        Running jobs are left: they end by themselves, unless a program adopts them. Each launch
        does this as well, at most once a minute.

        Raises:
            LaunchError: the batch system does not answer, or there is no folder.
        """
        return await self._host.remove_leftovers()

    @property
    def _host(self) -> BatchHost:
        if self._configured is None:
            from kernelproto.launch.batch.host import BatchHost
            from kernelproto.launch.batch.settings import BatchSettings

            self._configured = BatchHost(self._system(None), BatchSettings())
        return self._configured


class SlurmProvider(BatchProvider):
    """Runs kernels as jobs of Slurm, ``slurm/NAME``.

    Each kernel type has settings, and launch parameters for partition, account, time, memory and
    processors. Kernels are reached over tcp, with encryption. Nothing of Slurm is called before the
    first launch.

    Args:
        kernels: the kernel types by name.
        folder: the absolute path of a folder that the nodes share, and that only this user may
            write to. The first kernel makes the folder, and the last removes it.
        poll_seconds: seconds between two questions for the states of all jobs.
        config: the path of ``slurm.conf``; None means that of the environment or the installation.

    Raises:
        ValueError: a setting is not valid.
    """

    id = "slurm"

    def _system(self, config: str | None) -> BatchSystem:
        from kernelproto.launch.batch.slurm import SlurmSystem

        return SlurmSystem(config)
