"""BatchHost: launches kernels as batch jobs, adopts them, and removes leftovers."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack

import anyio
import anyio.to_thread
import msgspec

from kernelproto.exceptions import DiscoveryError, KernelNotReady, LaunchError
from kernelproto.interfaces import KernelAttributes, KernelHandle, KernelManager
from kernelproto.launch.batch.folder import KERNEL_FILE, PROGRAM, SCRIPT_OUTPUT, JobFolder
from kernelproto.launch.batch.leftovers import remove_leftovers
from kernelproto.launch.batch.manager import JobManager, job_name
from kernelproto.launch.batch.parameters import Launch, check_launch
from kernelproto.launch.batch.poll import poll_of
from kernelproto.launch.batch.ports import MARGIN_SECONDS, NewConnection, wait_for_ports
from kernelproto.launch.batch.settings import BatchKernel, BatchSettings
from kernelproto.launch.batch.system import BatchSystem, Job, JobState
from kernelproto.launch.failures import exited_early, shortages_named
from kernelproto.launch.leftovers.kernel_folder import FolderRecord, claimed
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.spec.configuration import checked, place_in
from kernelproto.launch.spec.naming import no_such_kernel
from kernelproto.startup_clock import waiting_in_queue
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

# How often launches look for leftovers.
_SWEEP_SECONDS = 60.0


class BatchHost:
    """Launches kernels as jobs of a batch system and adopts them, for a BatchProvider.

    Args:
        system: the batch system.
        settings: the settings of the provider.

    Raises:
        ValueError: a setting is not valid.
    """

    def __init__(self, system: BatchSystem, settings: BatchSettings) -> None:
        settings = checked(settings, system.id)
        self._system = system
        self._kernels = dict(settings.kernels)
        self._folder = settings.folder
        self._poll_seconds = settings.poll_seconds
        self._swept: float | None = None

    def kernel_types(self) -> Iterator[tuple[str, KernelAttributes]]:
        """Yield the kernel types of the settings; the batch system is not called."""
        fault = self._fault()
        for name, kernel in self._kernels.items():
            display_name = f"{name} ({self._system.id})"
            metadata = {"launch_parameter_schema": kernel.schema}
            yield name, kernel.attributes(display_name, metadata, fault)

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None,
        launch_params: Mapping[str, object] | None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Submit a job, and wait until the kernel listens; see BatchProvider.launch()."""
        kernel = self._kernels.get(name)
        if kernel is None:
            remedy = f"add it to the kernels of the provider {self._system.id!r}"
            raise no_such_kernel(name, self._kernels, remedy=remedy)
        launch = check_launch(kernel, f"{self._system.id}/{name}", cwd, launch_params)
        fault = self._fault()
        if fault is not None:
            raise LaunchError(fault)
        with shortages_named():
            await self._sweep()
            return await self._submit(kernel, launch)

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over the kernel of a job; see BatchProvider.adopt()."""
        place = place_in(handle, _Place)
        folder = await anyio.to_thread.run_sync(JobFolder.open, place.folder)
        record = folder.record
        if record.kernel_id != place.kernel_id or record.place != place.job:
            raise DiscoveryError(f"the kernel {place.kernel_id} has ended")
        async with claimed(folder):
            info = await anyio.to_thread.run_sync(lambda: folder.info)
            kernel = self._kernels.get(record.kernel_type.partition("/")[2], BatchKernel())
            manager = self._manager(kernel, folder)
            manager.info = info
            if not await manager.is_alive():
                raise DiscoveryError(f"the kernel {record.kernel_id} has ended")
        return info, manager

    async def find_launched(self, kernel_id: str) -> KernelHandle | None:
        """Return the handle of a listed kernel; see BatchProvider.find_launched()."""
        if self._folder is None or self._fault() is not None:
            return None
        folders = await anyio.to_thread.run_sync(JobFolder.listed_in, self._folder, kernel_id)
        if not folders:
            return None
        jobs = await self._system.jobs()
        found: KernelHandle | None = None
        for folder in folders:
            job = jobs.get(folder.record.place)
            runs = job is not None and job.phase == "running"
            kernel = self._kernels.get(folder.record.kernel_type.partition("/")[2], BatchKernel())
            if runs and await anyio.to_thread.run_sync(folder.has_address):
                found = self._manager(kernel, folder).handle()
            else:
                await anyio.to_thread.run_sync(folder.ownership.claim)
                logger.info("the launch of kernel %s was interrupted: it is ended", kernel_id)
                await self._manager(kernel, folder).cleanup()
        return found

    async def remove_leftovers(self) -> int:
        """Remove leftovers; see BatchProvider.remove_leftovers()."""
        fault = self._fault()
        if fault is not None or self._folder is None:
            raise LaunchError(fault or "")
        self._swept = time.monotonic()
        return await remove_leftovers(self._system, self._folder)

    def _fault(self) -> str | None:
        if self._folder is None:
            return (
                f"the provider {self._system.id!r} has no folder: set 'folder' to a folder that "
                "the nodes share and only this user may write to"
            )
        return self._system.fault()

    async def _sweep(self) -> None:
        now = time.monotonic()
        if self._swept is None or now - self._swept > _SWEEP_SECONDS:
            await self.remove_leftovers()

    async def _submit(
        self, kernel: BatchKernel, launch: Launch
    ) -> tuple[ConnectionInfo, KernelManager]:
        assert self._folder is not None
        kernel_id = str(uuid.uuid4())
        path = os.path.join(self._folder, kernel_id)
        record = FolderRecord(
            kernel_id=kernel_id,
            kernel_type=launch.kernel_type,
            owner=ProcessId.of(os.getpid()),
            detached=launch.linger is None,
            command=launch.command(kernel_id, os.path.join(path, KERNEL_FILE)),
            interrupt_mode=kernel.interrupt_mode,
            listed_as=launch.listed_as,
        )
        connection = NewConnection(kernel, encrypted=launch.encrypted)
        async with AsyncExitStack() as undo:
            folder = await anyio.to_thread.run_sync(JobFolder.create, self._folder, record)
            undo.push_async_callback(self._undo, kernel, folder)
            plan = launch.plan(record.command, kernel_id)
            await anyio.to_thread.run_sync(folder.prepare, plan, connection.kernel_file)
            job_id = await self._system.submit(
                Job(
                    name=job_name(kernel_id),
                    script=launch.script(kernel, folder.file(PROGRAM), folder.path),
                    folder=folder.path,
                    output=folder.file(SCRIPT_OUTPUT),
                    options=launch.options,
                )
            )
            placed = msgspec.structs.replace(record, place=job_id)
            await anyio.to_thread.run_sync(_write_record, folder, placed)
            manager = self._manager(kernel, folder)
            node = await self._wait_for_start(manager, kernel.queue_seconds)
            address = await self._system.address(node)
            info = await wait_for_ports(kernel, folder, manager, connection, address)
            manager.info = info
            undo.pop_all()
        return info, manager

    def _manager(self, kernel: BatchKernel, folder: JobFolder) -> JobManager:
        return JobManager(
            self._system,
            poll_of(self._system, self._poll_seconds),
            folder,
            linger=None if folder.record.detached else kernel.linger,
            warn_seconds=kernel.warn_seconds,
        )

    async def _undo(self, kernel: BatchKernel, folder: JobFolder) -> None:
        """End the job of a failed launch, even if the submission had no answer."""
        await self._manager(kernel, folder).cleanup()

    async def _wait_for_start(self, manager: JobManager, most: float | None) -> str:
        """Wait in the queue; return the node of the job.

        Args:
            manager: the handle on the job.
            most: seconds until this gives up; None means only at the caller's deadline.

        Raises:
            KernelNotReady: the caller's deadline or that of the kernel type is over.
            KernelExitedEarly: the job has ended.
        """
        began = anyio.current_time()
        told = last = ""
        with waiting_in_queue():
            deadline = anyio.current_effective_deadline() - MARGIN_SECONDS
            if most is not None:
                deadline = min(deadline, began + most)
            with anyio.CancelScope(deadline=deadline):
                while True:
                    state = await manager.look()
                    if state is not None and state.phase == "running" and state.node:
                        return state.node
                    if state is None and not await manager.is_alive():
                        raise exited_early(manager, await manager.wait())
                    if state is not None:
                        last = await self._describe(state)
                        if last != told:
                            told = last
                            logger.info("kernel %s waits: %s", manager.kernel_id, last)
        seconds = round(anyio.current_time() - began, 2)
        raise KernelNotReady(
            f"the kernel was not started after {seconds:g} s in the queue: "
            f"{last or f'the state of job {manager.job_id} is unknown'}; raise Timeouts.queue or "
            "queue_seconds of the kernel type, or ask for less or for another partition",
            phase="queue",
            seconds=seconds,
        )

    async def _describe(self, state: JobState) -> str:
        """Return in words why a job is queued, and the job's place in the queue."""
        place = await poll_of(self._system, self._poll_seconds).place(state.job_id)
        words = f"job {state.job_id} is {state.word}"
        if place is not None:
            words += f", at place {place} of its queue"
        return f"{words} ({state.reason})" if state.reason else words


class _Place(msgspec.Struct):
    """The place in a handle of this provider."""

    kernel_id: str
    folder: str
    job: str


def _write_record(folder: JobFolder, record: FolderRecord) -> None:
    try:
        folder.write_record(record)
    except (OSError, RuntimeError) as error:
        raise LaunchError(
            f"cannot write the record of a job in {folder.path!r}: {error}"
        ) from error
