"""Kernel: one handle on a kernel, valid across its processes."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal

import msgspec

from kernelproto.client.client import OUTPUT_LIMIT, KernelClient
from kernelproto.client.comms import Comms
from kernelproto.client.execution import Execution, ExecutionOptions
from kernelproto.client.observers import Observable, Observers
from kernelproto.client.requests import Requests
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import ClientClosed, InvalidLaunchParameter, fresh
from kernelproto.interfaces import HasHandle, KernelHandle, KernelManager
from kernelproto.launch.spec.parameters import Argument, VariableName
from kernelproto.supervise.events import Callback, EventT, KernelEvents
from kernelproto.supervise.instance import Launch
from kernelproto.supervise.lifecycle import Lifecycle
from kernelproto.supervise.states import Life
from kernelproto.supervise.unreachable import fail_if_unreachable
from kernelproto.timeouts import Timeouts
from kernelproto.wire import content
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame, Message

KernelState = Literal["idle", "busy", "unreachable", "restarting", "dead"]


class Kernel(Requests, Observable):
    """A kernel and all requests to the kernel, valid across restarts.

    ``run_kernel``, ``start_kernel`` and ``adopt_kernel`` return a Kernel. Requests during a restart
    wait for the new process.

    Attributes:
        owned: whether leaving the block ends the kernel; always true.
        on_shutdown: awaited at the end of ``shutdown``; set by ``start_kernel``.
        observers: the observers of messages, across restarts.
        lifecycle: the kernel's processes; for KernelRestarter.
    """

    owned = True

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.on_shutdown: Callable[[], Awaitable[None]] | None = None
        self.observers = lifecycle.observers
        self.lifecycle = lifecycle

    @property
    def kernel_id(self) -> str:
        """The id of the kernel's first launch, which stays the same across restarts.

        A KernelPool sets another id. Other programs know the kernel by the same id.
        """
        return self.lifecycle.kernel_id

    @kernel_id.setter
    def kernel_id(self, kernel_id: str) -> None:
        self.lifecycle.list_as(kernel_id)

    @property
    def connection_info(self) -> ConnectionInfo:
        """The addresses and keys of the kernel; a restart changes them."""
        return self.lifecycle.current.info

    @property
    def handle(self) -> KernelHandle | None:
        """The handle with which another program adopts the kernel; a restart changes it.

        Pass the handle to ``adopt_kernel`` there, unchanged or as JSON. None means that the kernel
        ends with this program, because the kernel was not started ``detached``.
        """
        manager = self.manager
        handle = manager.handle() if isinstance(manager, HasHandle) else None
        if handle is None:
            return None
        return msgspec.structs.replace(handle, kernel_id=self.kernel_id)

    @property
    def cwd(self) -> str | None:
        """The working directory that the kernel was started in; None means the caller's."""
        return self.lifecycle.cwd

    @property
    def restart_attempt(self) -> int | None:
        """The consecutive number of the restart under way, from 1; None while there is none."""
        replacement = self.lifecycle.replacement
        return None if replacement is None else replacement.attempt

    @property
    def manager(self) -> KernelManager:
        """The handle on the kernel's process; each process has another manager."""
        return self.lifecycle.current.manager

    @property
    def client(self) -> KernelClient:
        """The client of the kernel's process; each process has another client.

        Handlers, streams of messages and comm targets stay across a restart; open comms end.
        """
        return self.lifecycle.current.client

    @property
    def info(self) -> content.KernelInfoReply | None:
        """The kernel_info_reply of the kernel."""
        return self.client.info

    @property
    def comms(self) -> Comms:
        """The comms with the kernel's process; a restart ends open comms."""
        return self.client.comms

    @property
    def state(self) -> KernelState:
        """The state of the kernel, as far as this program knows.

        A Kernel exists once its process is ready, so the state is never "starting". The REST API
        has the state as ``execution_state``, the name that Jupyter's clients read.
        """
        match self.lifecycle.life:
            case Life.UNREACHABLE:
                return "unreachable"
            case Life.RESTARTING:
                return "restarting"
            case Life.DEAD | Life.OVER:
                return "dead"
            case _:
                return "busy" if self.client.busy else "idle"

    @property
    def unreachable(self) -> str | None:
        """The reason why the kernel cannot be reached; None in all other states."""
        if self.lifecycle.life is not Life.UNREACHABLE:
            return None
        return self.lifecycle.problem

    def fail_if_unreachable(self, seconds: float = 0.0) -> AbstractAsyncContextManager[None]:
        """Cancel the block if the kernel cannot be reached for so many seconds in a row.

        Otherwise calls wait until the connection is back: ``async with
        kernel.fail_if_unreachable(30)``. Requests that were sent are neither lost nor taken back.

        Args:
            seconds: the time to wait for the connection after each loss.

        Raises:
            KernelUnreachable: the connection did not come back in time, and the block was
                cancelled.
        """
        return fail_if_unreachable(self.lifecycle, seconds)

    def events(self) -> KernelEvents:
        """Return an async iterator over the events of the kernel from now on.

        The events are Died, Restarted, Failed, Unreachable and Reachable. The iteration ends when
        the kernel is shut down.
        """
        return self.lifecycle.events.listen()

    def add_callback(self, callback: Callback[EventT], event: type[EventT]) -> None:
        """Call a function for every event of a kind from now on.

        Args:
            callback: called with the event, at once; may be async. Exceptions are logged.
            event: ``Died``, ``Restarted``, ``Failed``, ``Unreachable`` or ``Reachable``.
        """
        self.lifecycle.events.add_callback(callback, event)

    def remove_callback(self, callback: Callback[EventT], event: type[EventT]) -> None:
        """Remove a callback; an unknown callback is ignored."""
        self.lifecycle.events.remove_callback(callback, event)

    async def heartbeat(self) -> float:
        client = await self.lifecycle.client()
        return await client.heartbeat()

    async def current_client(self) -> KernelClient:
        """Return the client of the kernel's process; wait while the kernel is being restarted.

        Raises:
            KernelDied: the kernel could not be restarted.
            ClientClosed: the kernel was shut down during the restart.
            LaunchError: the new process did not start.
        """
        return await self.lifecycle.client()

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function until the kernel ends; exceptions are logged."""
        self.lifecycle.start_task(function, *args)

    def explain_end(self, error: ClientClosed) -> None:
        """Set the error that calls on the kernel raise after its end; call this before the end."""
        self.lifecycle.explain_end(error)

    async def wait_for_ready(self) -> content.KernelInfoReply:
        """Wait until the kernel is ready; during a restart, this takes a while.

        Returns:
            The kernel_info_reply.

        Raises:
            KernelDied: the kernel is dead.
            ClientClosed: the kernel was shut down.
            LaunchError: the kernel could not be restarted.
        """
        client = await self.lifecycle.client()
        if client.failure is not None:
            raise fresh(client.failure)
        return await client.wait_for_ready() if client.info is None else client.info

    async def request(
        self,
        msg_type: str,
        content: content.Request | Mapping[str, Any],
        channel: ChannelName = "shell",
        *,
        metadata: Mapping[str, Any] | None = None,
        buffers: Sequence[Frame] = (),
        subshell_id: str | None = None,
    ) -> Message:
        client = await self.lifecycle.client()
        return await client.request(
            msg_type,
            content,
            channel,
            metadata=metadata,
            buffers=buffers,
            subshell_id=subshell_id,
        )

    async def interrupt(self) -> None:
        """Interrupt the running code, by a signal or a message, as the kernelspec says."""
        client = await self.lifecycle.client()
        await client.interrupt_kernel()

    async def restart(
        self,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        """Replace the kernel's process by a new one, and return when that is ready.

        The old process is shut down gracefully. The new one has the same working directory,
        environment and launch parameters, except for *env* and *cwd*, and other addresses. Pending
        calls raise KernelRestarted. A restart during another restart joins the other; a restart
        with *env* or *cwd* begins afterwards. Cancelling the caller does not stop a restart. A
        kernel that has died can be restarted as well.

        Args:
            env: environment variables that are added to those of the launch. Later restarts have
                them, too.
            cwd: the working directory, also of later restarts; None keeps the present one.

        Raises:
            InvalidLaunchParameter: *env* is not a mapping of strings; nothing was restarted.
            LaunchError: the new process did not start. The kernel is dead, and may be restarted;
                *env* and *cwd* do not apply to that.
            ClientClosed: the kernel was shut down.
        """
        await self.lifecycle.restart(
            env=_checked(env or {}), cwd=None if cwd is None else os.fspath(cwd)
        )

    async def shutdown(self) -> int | None:
        """End the kernel gracefully and remove the kernel's files.

        Running code is interrupted repeatedly. Meanwhile shutdown_request, SIGTERM and SIGKILL are
        sent, each after the phase of the previous step, as in ``Timeouts``. Pending calls raise
        ClientClosed. Cancellation does not stop the shutdown. The shutdown takes no longer than
        these phases and the manager's cleanup, and may be called again.

        Returns:
            The exit status of the kernel's process; None if unknown.

        Raises:
            ClientClosed: this program has let go of the kernel, which another program may own.
        """
        self.lifecycle.owner.check("kernel")
        try:
            return await self.lifecycle.end()
        finally:  # a shield does not protect from the cancel() of an asyncio task
            if self.on_shutdown is not None:
                await self.on_shutdown()

    shutdown_or_terminate = shutdown

    def new_execution(
        self, request: content.ExecuteRequest, options: ExecutionOptions
    ) -> Execution:
        return Execution(
            _CurrentClient(self.lifecycle), request, options=options, output_limit=OUTPUT_LIMIT
        )


class _CurrentClient:
    """Sends one execution of a Kernel to the process that serves at that moment.

    Implements ExecutionSender. An execution is made before it is sent, and the kernel may be
    restarted in between.

    Args:
        lifecycle: the kernel's processes.
    """

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._client: KernelClient = lifecycle.current.client

    @property
    def timeouts(self) -> Timeouts:
        """The timeouts of the kernel's life."""
        return self._client.executions.timeouts

    async def send_execution(self, execution: Execution) -> None:
        """Send the request to the kernel's process; wait while the kernel is restarted."""
        self._client = await self._lifecycle.client()
        await self._client.executions.send_execution(execution)

    def forget_execution(self, execution: Execution) -> None:
        """Deliver nothing more to the execution."""
        self._client.executions.forget_execution(execution)

    async def send_input(self, text: str, request: Message) -> None:
        """Reply to an input_request."""
        await self._client.executions.send_input(text, request)

    async def interrupt_kernel(self) -> None:
        """Interrupt the running code, by a signal or a message, as the kernelspec says."""
        await self._client.interrupt_kernel()

    async def restart_kernel(self) -> None:
        """Restart the kernel."""
        await self._lifecycle.restart()

    async def catch_up(self) -> bool:
        """Wait until the received messages are read; return whether there were unread ones."""
        return await self._client.executions.catch_up()

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function until the kernel ends, even across a restart."""
        self._lifecycle.start_task(function, *args)


def _checked(env: Mapping[str, str]) -> dict[str, str]:
    """Refuse a wrong environment while the old process still runs."""
    try:
        return msgspec.convert(dict(env), dict[VariableName, Argument])
    except (TypeError, ValueError) as error:
        raise InvalidLaunchParameter(
            f"env must be a mapping of variable names to strings: {error}"
        ) from None


def let_go(kernel: Kernel, reason: ClientClosed | None = None) -> bool:
    """Let a kernel go on after the block of ``open_kernel``; see ``Lifecycle.let_go``."""
    return kernel.lifecycle.let_go(reason)


@asynccontextmanager
async def open_kernel(
    launch: Launch,
    *,
    timeouts: Timeouts,
    cwd: str | None = None,
    outlives: bool = False,
    kernel_id: str = "",
    watch: Callable[[Observers], object] | None = None,
) -> AsyncGenerator[Kernel]:
    """Launch a kernel, yield the ready kernel, and end it with the block.

    Args:
        launch: launches the kernel, at the start and for each restart.
        timeouts: the timeouts of each process.
        cwd: the working directory of the first process.
        outlives: whether the kernel goes on after the block, until ``shutdown``.
        kernel_id: the id under which other programs find the kernel; by default that of the first
            launch.
        watch: called with the observers of the messages before the launch.

    Raises:
        LaunchError: the kernel did not start.
    """
    async with background_tasks() as tasks:
        lifecycle = Lifecycle(launch, tasks, timeouts, cwd=cwd)
        lifecycle.kernel_id = kernel_id
        if watch is not None:
            watch(lifecycle.observers)
        await lifecycle.begin()
        try:
            yield Kernel(lifecycle)
        finally:
            if not (outlives and lifecycle.let_go()):
                await lifecycle.end()
