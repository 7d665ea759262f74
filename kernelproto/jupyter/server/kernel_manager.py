"""All kernels of a jupyter_server, run by kernelproto."""

# jupyter_client types its methods as synchronous functions, which its asynchronous classes replace,
# and traitlets' types are unknown to pyright.
# mypy: disable-error-code="override"
# pyright: basic

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.concurrent import Future
from traitlets import Float, Instance, Integer, default

from kernelproto.concurrency.service import Service
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import MalformedMessage
from kernelproto.fanout.broadcasts import Broadcasts
from kernelproto.jupyter.server.kernel import KernelProtoKernelManager
from kernelproto.jupyter.server.launch_parameters import requested_parameters
from kernelproto.supervise import Kernel
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message


class KernelProtoMappingKernelManager(AsyncMappingKernelManager):
    """Starts, watches, culls and ends the kernels of a jupyter_server.

    The settings are those of AsyncMappingKernelManager. ``buffer_offline_messages = False`` keeps
    no messages for clients that are away.

    Attributes:
        broadcasts: the messages of the kernels, for the WebSockets.
    """

    replay_bytes = Integer(
        64 * 2**20,
        config=True,
        help="How many bytes of messages of each kernel are kept for slow and returning clients.",
    )
    replay_seconds = Float(
        1800.0,
        config=True,
        help="How many seconds messages are kept for a client that has left.",
    )
    broadcasts = Instance(Broadcasts)

    @default("broadcasts")
    def _broadcasts_default(self) -> Broadcasts:
        seconds = self.replay_seconds if self.buffer_offline_messages else 0.0
        return Broadcasts(limit=self.replay_bytes, seconds=seconds)

    @default("kernel_manager_class")
    def _kernel_manager_class_of_one(self) -> str:
        return f"{KernelProtoKernelManager.__module__}.{KernelProtoKernelManager.__name__}"

    def __init__(self, **options: Any) -> None:
        inherited: Any = super()
        inherited.__init__(**options)
        self._service: Service[TaskGroup] | None = None
        self._tasks: TaskGroup | None = None
        self._starting = anyio.Lock()

    async def start_task(self, function: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """Run a task of a WebSocket until shutdown_all(); return when the task calls started().

        Args:
            function: called with ``task_status=``; must not raise after the start.
        """
        async with self._starting:
            if self._tasks is None:
                self._service = Service(background_tasks(), "WebSockets of jupyter_server")
                self._tasks = await self._service.start()
        await self._tasks.start(function)

    async def start_kernel(self, **options: Any) -> str:
        """Start a kernel, and return its id; options and exceptions as in jupyter_server.

        The launch parameters of a request apply unless the caller passes *launch_params*.
        """
        requested = requested_parameters()
        if requested is not None:
            options.setdefault("launch_params", requested)
        inherited: Any = super()
        kernel_id: str = await inherited.start_kernel(**options)
        return kernel_id

    async def shutdown_all(self, now: bool = False) -> None:
        """End all kernels, even those that are starting, and their WebSockets."""
        async with anyio.create_task_group() as tasks:
            for kernel_id, starting in dict(self._pending_kernels).items():
                if kernel_id not in self:
                    tasks.start_soon(_cancel, starting)
            for kernel_id in self.list_kernel_ids():
                tasks.start_soon(self._end_one, kernel_id, now)
        service, self._service, self._tasks = self._service, None, None
        if service is not None:
            await service.stop()

    async def _end_one(self, kernel_id: str, now: bool) -> None:
        try:
            manager: Any = self
            await manager.shutdown_kernel(kernel_id, now=now)
            ending = self._pending_kernels.get(kernel_id)
            if ending is not None:  # with use_pending_kernels the kernel has not ended yet
                await ending
        except Exception:
            self.log.exception("kernel %s was not ended in order", kernel_id)

    async def restart_kernel(self, kernel_id: str, now: bool = False) -> Future[Any]:
        """Restart a kernel; return when the kernel is ready.

        Returns:
            A future that is done, as callers of jupyter_server expect.
        """
        kernel = self._kernel_manager(kernel_id)
        if self.use_pending_kernels and not kernel.ready.done():
            raise RuntimeError("Kernel is in a pending state. Cannot restart.")
        restart: Any = kernel.restart_kernel
        await restart(now=now)
        self.log.info("Kernel restarted: %s", kernel_id)
        done: Future[Any] = Future()
        done.set_result(None)
        return done

    def start_watching_activity(self, kernel_id: str) -> None:
        """Note each output of a kernel for ``last_activity`` and ``execution_state``."""
        manager = self._kernel_manager(kernel_id)
        if manager.kernel is None:
            inherited: Any = super()
            inherited.start_watching_activity(kernel_id)
            return
        manager.last_activity = datetime.now(UTC)
        manager.set_state("idle")
        manager.kernel.watch(_Activity(self, manager, manager.kernel))

    def stop_watching_activity(self, kernel_id: str) -> None:
        """Do nothing: a kernel that has ended has no outputs."""
        if self._kernel_manager(kernel_id).kernel is None:
            inherited: Any = super()
            inherited.stop_watching_activity(kernel_id)

    def _kernel_manager(self, kernel_id: str) -> KernelProtoKernelManager:
        manager: Any = self.get_kernel(kernel_id)
        return cast("KernelProtoKernelManager", manager)


class _Activity:
    """Watches the outputs of one kernel, by the rules of jupyter_server; a Watcher."""

    def __init__(
        self,
        manager: Any,
        shown: KernelProtoKernelManager,
        kernel: Kernel,
    ) -> None:
        self._manager = manager
        self._shown = shown
        self._kernel = kernel

    def offer(self, message: Message, channel: ChannelName) -> None:
        """Note an output."""
        if channel != "iopub":
            return
        parent = message.parent_header
        tracked = self._manager.track_message_type(None if parent is None else parent.msg_type)
        shown = self._shown
        if (
            tracked
            or shown.execution_state == "busy"
            or self._manager.track_message_type(message.msg_type)
        ):
            self._manager.last_kernel_activity = shown.last_activity = datetime.now(UTC)
        if message.msg_type == "status" and tracked:
            try:
                shown.set_state(message.content.execution_state)
            except MalformedMessage:
                self._manager.log.debug("kernel %s sent a malformed status", shown.kernel_id)

    def fail(self, error: Exception) -> None:
        """Note the end of the kernel."""
        self._shown.set_state("dead", str(error))

    def resume(self) -> None:
        """Note that a new process runs."""
        self._shown.set_state("idle")


async def _cancel(task: Future[Any]) -> None:
    """Cancel a task of jupyter_client, and wait until the task has ended."""
    ended = anyio.Event()
    task.add_done_callback(lambda _: ended.set())
    task.cancel()
    await ended.wait()
