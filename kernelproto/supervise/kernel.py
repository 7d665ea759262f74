"""Kernel: one handle on a kernel's process and on the client that talks to it."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Literal, TypeVar

import anyio

from kernelproto.background import background_tasks
from kernelproto.client.client import KernelClient, open_client
from kernelproto.client.comms import Comms
from kernelproto.client.execution import Execution, ExecutionOptions
from kernelproto.client.requests import Requests
from kernelproto.exceptions import (
    ClientClosed,
    KernelDied,
    KernelProtoError,
    UnsupportedRequest,
)
from kernelproto.interfaces import BringsChannels, KernelManager, OpenChannels
from kernelproto.launch.exit_status import describe_exit
from kernelproto.supervise.failures import exited_early, not_ready
from kernelproto.supervise.to_the_end import to_the_end
from kernelproto.timeouts import Timeouts
from kernelproto.transport import open_channels as open_zmq_channels
from kernelproto.wire import content
from kernelproto.wire.connection import ChannelName, ConnectionInfo
from kernelproto.wire.message import Frame, Message

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A kernel that is to end and is still there after this time is reminded: an interrupt that comes
# before its code is lost, other code may have been waiting behind, and a request may be overheard.
_REMINDER_SECONDS = 0.5

KernelState = Literal["starting", "idle", "busy", "dead"]


class Kernel(Requests):
    """A kernel: its process, and everything that can be asked of it.

    ``run_kernel`` and ``start_kernel`` make it.

    Attributes:
        connection_info: where the kernel is.
        manager: the handle on its process.
        client: the client that talks to it.
        owned: whether leaving ends the kernel; always true for a kernel that was launched here.
        on_shutdown: awaited at the end of ``shutdown``; set by whoever serves the kernel.
    """

    owned = True

    def __init__(
        self,
        info: ConnectionInfo,
        manager: KernelManager,
        client: KernelClient,
        *,
        timeouts: Timeouts,
        deadline: float,
    ) -> None:
        self.connection_info = info
        self.manager = manager
        self.client = client
        self._timeouts = timeouts
        self._deadline = deadline
        self.on_shutdown: Callable[[], Awaitable[None]] | None = None
        client.interrupter = self.interrupt
        self._dead = False
        self._ending = anyio.Lock()

    @property
    def kernel_id(self) -> str:
        """The id that the kernel was launched with."""
        return self.manager.kernel_id

    @property
    def info(self) -> content.KernelInfoReply | None:
        """What the kernel has said that it is; None until it is ready."""
        return self.client.info

    @property
    def comms(self) -> Comms:
        """The comms with the kernel."""
        return self.client.comms

    @property
    def state(self) -> KernelState:
        """What the kernel does, as far as is known here."""
        if self._dead:
            return "dead"
        if self.info is None:
            return "starting"
        return "busy" if self.client.busy else "idle"

    async def wait_for_ready(self) -> content.KernelInfoReply:
        """Wait until the kernel answers and its outputs arrive, within ``Timeouts.startup``.

        Returns:
            What the kernel is.

        Raises:
            KernelExitedEarly: its process ended before.
            KernelNotReady: the time was up before.
        """
        if self.info is None:
            with anyio.CancelScope(deadline=self._deadline):
                try:
                    await self.client.wait_for_ready()
                except KernelDied as error:
                    raise exited_early(self.manager, error.returncode) from None
        if self.info is None:
            raise not_ready(self.manager, self.client.awaited, self._timeouts.startup)
        return self.info

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
        return await self.client.request(
            msg_type,
            content,
            channel,
            metadata=metadata,
            buffers=buffers,
            subshell_id=subshell_id,
        )

    async def interrupt(self) -> None:
        """Interrupt the running code, by a signal or by a message, as the kernel wants it."""
        try:
            await self.manager.interrupt()
        except UnsupportedRequest:
            await self.client.interrupt()

    async def shutdown(self) -> int | None:
        """End the kernel in order and remove every trace of it.

        Code that runs is interrupted, again and again. Meanwhile shutdown_request, SIGTERM and
        SIGKILL follow each other, each when its predecessor's phase of ``Timeouts`` has passed in
        vain. Whatever still waits for the kernel gets ClientClosed. It is not cancelled half-way,
        takes no longer than these phases and the manager's cleanup, and may be called again.

        Returns:
            The exit status of the kernel's process, None where it can't be known.
        """
        try:
            return await self.end()
        finally:  # no shield of anyio's withstands the cancel() of an asyncio task
            if self.on_shutdown is not None:
                await self.on_shutdown()

    shutdown_or_terminate = shutdown

    async def end(self) -> int | None:
        """End the kernel as ``shutdown`` does, for the one who serves it and is about to stop."""
        phases = self._timeouts
        longest = phases.shutdown + phases.terminate + 2 * phases.kill
        return await to_the_end(self._end, seconds=longest)

    async def watch(self) -> None:
        """Wait for the end of the process, then let nobody wait for the kernel any longer."""
        returncode = await self.manager.wait()
        self._dead = True
        if not self._ending.locked():
            await self.client.settle()
            self.client.fail(
                KernelDied(f"the kernel died: {describe_exit(returncode)}", returncode=returncode)
            )

    def new_execution(
        self, request: content.ExecuteRequest, options: ExecutionOptions
    ) -> Execution:
        return self.client.new_execution(request, options)

    async def _end(self) -> int | None:
        async with self._ending:
            try:
                return await _attempt(self._end_process)
            finally:
                self._dead = True
                self.client.fail(ClientClosed("the kernel was shut down"))
                await _attempt(self.manager.cleanup)

    async def _end_process(self) -> int | None:
        phases = self._timeouts
        ladder = [(self.manager.terminate, phases.terminate), (self.manager.kill, phases.kill)]
        if self.info is not None:
            ladder.insert(0, (self._ask_to_end, phases.shutdown))
        for step, seconds in ladder:
            with anyio.move_on_after(seconds):
                async with background_tasks() as tasks:
                    tasks.start_soon(_attempt, step)
                    return await self.manager.wait()
        return None

    async def _ask_to_end(self) -> None:
        async with background_tasks() as tasks:
            if self.client.busy:
                await _attempt(self.interrupt)
            tasks.start_soon(_attempt, self.client.shutdown)
            while True:
                await anyio.sleep(_REMINDER_SECONDS)
                if self.client.busy:
                    await _attempt(self.interrupt)
                # Old kernels know this request on shell alone, and one that has only just begun may
                # reply to the first and go on.
                tasks.start_soon(_attempt, partial(self.client.shutdown, channel="shell"))


async def _attempt(step: Callable[[], Awaitable[T]]) -> T | None:
    """Take a step towards the kernel's end; a manager that fails must not stop the next one."""
    try:
        return await step()
    except KernelProtoError:
        return None  # the kernel has ended meanwhile, or cannot do this
    except Exception:
        logger.warning("ending a kernel: %r failed", step, exc_info=True)
        return None


@asynccontextmanager
async def open_kernel(
    info: ConnectionInfo,
    manager: KernelManager,
    *,
    timeouts: Timeouts,
    deadline: float,
) -> AsyncGenerator[Kernel]:
    """Take over a kernel that was just launched; give it when it is ready, end it with the block.

    Args:
        info: where it listens, or will.
        manager: the handle on its process; it is cleaned up whatever happens.
        timeouts: the phases of its life.
        deadline: when it must be ready, on the clock of ``anyio.current_time``.

    Raises:
        KernelExitedEarly: its process ended before it was ready.
        KernelNotReady: it was not ready in time.
    """
    try:
        open_channels: OpenChannels = open_zmq_channels
        if isinstance(manager, BringsChannels):
            open_channels = manager.open_channels
        async with (
            open_client(info, open_channels=open_channels) as client,
            background_tasks() as tasks,
        ):
            kernel = Kernel(info, manager, client, timeouts=timeouts, deadline=deadline)
            tasks.start_soon(kernel.watch)
            try:
                await kernel.wait_for_ready()
                yield kernel
            finally:
                await kernel.end()
    finally:
        await to_the_end(partial(_attempt, manager.cleanup), seconds=timeouts.kill)
