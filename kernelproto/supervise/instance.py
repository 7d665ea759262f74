"""Instance: one process of a kernel with its client, from launch to end."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Protocol, TypeAlias

import anyio

from kernelproto.client.client import KernelClient, open_client
from kernelproto.client.comms import OnCommOpen
from kernelproto.client.observers import Observers
from kernelproto.concurrency.process_owner import Owner
from kernelproto.concurrency.reachability import Reachability
from kernelproto.concurrency.shield import to_the_end
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import (
    ClientClosed,
    KernelDied,
    KernelExitedEarly,
    KernelNotReady,
    KernelProtoError,
    UnsupportedRequest,
)
from kernelproto.interfaces import (
    BringsChannels,
    ExplainsDeath,
    KernelManager,
    MayBecomeUnreachable,
    MayLoseAddress,
    MayOutlive,
    OpenChannels,
)
from kernelproto.kept_messages import NotesReadiness
from kernelproto.launch.failures import (
    LONGER_QUEUE,
    MORE_TIME,
    NOT_ENCRYPTED,
    exited_early,
    not_ready,
    shortages_named,
)
from kernelproto.startup_clock import StartupClock
from kernelproto.supervise.events import Died
from kernelproto.supervise.shutdown import attempt, end_process, longest
from kernelproto.timeouts import Timeouts
from kernelproto.transport import open_channels as open_zmq_channels
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

Launched: TypeAlias = tuple[ConnectionInfo, KernelManager]


class Launch(Protocol):
    """Launches a kernel, at the start and for each restart."""

    async def __call__(self, *, env: Mapping[str, str], cwd: str | None) -> Launched:
        """Launch the kernel, which is not ready yet on return.

        Args:
            env: environment variables, added to those of the first launch.
            cwd: the working directory; None means the caller's.
        """
        ...


# If another program has taken a port of the kernel, the kernel is launched again on other ports. So
# many collisions in a row are no coincidence.
_MOST_RELAUNCHES = 5

# A kernel that is silent for so long is checked for ports that another program has taken.
_ADDRESS_CHECK_SECONDS = 1.0


class Instance:
    """One process of a kernel; made by ``start_instance``.

    Attributes:
        info: the addresses of the kernel.
        manager: the handle on the process.
        client: the client of the kernel.
        ready_at: the time when the kernel became ready, by ``anyio.current_time``, or None.
        gone: set when the process has ended and every pending call has raised.
        outlives: whether the process goes on after the block.
        reason: the reason why this program killed the process, or None.
        closing_error: raised by calls that are pending when the block is left.
    """

    def __init__(
        self, info: ConnectionInfo, manager: KernelManager, client: KernelClient, timeouts: Timeouts
    ) -> None:
        self.info = info
        self.manager = manager
        self.client = client
        self.ready_at: float | None = None
        self.gone = anyio.Event()
        self.outlives = False
        self.reason: str | None = None
        self.closing_error = ClientClosed("the kernel was shut down")
        self._owner = Owner()
        self._timeouts = timeouts
        self._ending = anyio.Lock()
        self._lost_address = False
        client.interrupter = self.interrupt

    async def wait_for_ready(self, clock: StartupClock) -> None:
        """Wait until the kernel answers and outputs arrive.

        Args:
            clock: the time that is left.

        Raises:
            KernelExitedEarly: the process ended before.
            KernelNotReady: the kernel was not ready in time.
        """
        with clock.limit():
            try:
                async with background_tasks() as tasks:
                    tasks.start_soon(self._watch_address)
                    tasks.start_soon(self._stop_while_unreachable, clock)
                    await self.client.wait_for_ready()
                    await self._reach_shell()
                    if isinstance(self.manager, NotesReadiness):
                        await self.manager.note_ready()
            except KernelDied as error:
                raise exited_early(self.manager, error.returncode) from None
            self.ready_at = anyio.current_time()
            return
        if clock.ran_out_in_queue:
            raise _queue_over(self._timeouts)
        remedy = NOT_ENCRYPTED if self.info.encrypted else MORE_TIME
        raise not_ready(self.manager, self.client.awaited, self._timeouts.startup, remedy=remedy)

    @property
    def reachability(self) -> Reachability | None:
        """Whether the kernel can be reached; None if always, as on this machine."""
        manager = self.manager
        return manager.reachability if isinstance(manager, MayBecomeUnreachable) else None

    async def answers(self) -> bool:
        """Return whether the kernel can be reached, so that its silence is a sign of death.

        If the kernel cannot be reached now, return False when the connection is back.
        """
        if not isinstance(self.manager, MayBecomeUnreachable):
            return True
        if await attempt(self.manager.probe):
            return True
        await self.manager.reachability.until_regained()
        return False

    @property
    def uptime(self) -> float:
        """The seconds since the kernel was ready; 0 if it was never ready."""
        if self.ready_at is None:
            return 0.0
        return anyio.current_time() - self.ready_at

    @property
    def lost_address(self) -> bool:
        """Whether another program has taken an address of the kernel."""
        return self._lost_address or self._look_after_address()

    async def interrupt(self) -> None:
        """Interrupt the running code, by a signal or a message, as the kernelspec says."""
        try:
            await self.manager.interrupt()
        except UnsupportedRequest:
            await self.client.request_interrupt()

    async def kill(self, reason: str) -> None:
        """Kill the process; the Died event then has this reason."""
        self.reason = reason
        await attempt(self.manager.kill)

    async def end(self, error: KernelProtoError, *, restart: bool = False) -> int | None:
        """End the process gracefully, even when cancelled; in a forked child do nothing.

        Args:
            error: raised by pending calls.
            restart: whether the shutdown_request announces a restart.

        Returns:
            The exit status; None if unknown.
        """
        if not self._owner.is_here:
            return None
        return await to_the_end(partial(self._end, error, restart), seconds=longest(self._timeouts))

    async def watch(self, on_death: Callable[[int | None], KernelProtoError]) -> None:
        """Wait for the end of the process, then end every pending call.

        Args:
            on_death: called with the exit status if this program did not end the process; returns
                the error of pending calls.
        """
        returncode = await self.manager.wait()
        if not self._ending.locked():
            await self.client.settle()
        if not self._ending.locked():
            self.client.fail(on_death(returncode))
        self.gone.set()

    def death(self, returncode: int | None) -> Died:
        """Return the event of the process's death."""
        reason = self.reason
        if reason is None and isinstance(self.manager, ExplainsDeath):
            reason = self.manager.death_reason()
        return Died(returncode, reason)

    async def _end(self, error: KernelProtoError, restart: bool) -> int | None:
        async with self._ending:
            try:
                return await attempt(
                    partial(end_process, self.client, self.manager, self._timeouts, restart=restart)
                )
            finally:
                self.client.fail(error)
                await attempt(self.manager.cleanup)
                self.gone.set()

    async def _reach_shell(self) -> None:
        """Check that shell answers: another program may have the port of shell alone."""
        if self.info.transport == "tcp" and isinstance(self.manager, MayLoseAddress):
            # A taken port is found within this time; a kernel that is just busy is ready.
            with anyio.move_on_after(1.5 * _ADDRESS_CHECK_SECONDS):
                await self.client.kernel_info()

    async def _watch_address(self) -> None:
        while True:
            await anyio.sleep(_ADDRESS_CHECK_SECONDS)
            if self._look_after_address():
                self._lost_address = True
                await attempt(self.manager.kill)
                return

    async def _stop_while_unreachable(self, clock: StartupClock) -> None:
        reachability = self.reachability
        while reachability is not None:
            await reachability.until_lost()
            with clock.stopped():
                await reachability.until_regained()

    def _look_after_address(self) -> bool:
        return isinstance(self.manager, MayLoseAddress) and self.manager.address_was_taken()


@asynccontextmanager
async def start_instance(
    launch: Callable[[], Awaitable[Launched]],
    on_death: Callable[[Instance, int | None], KernelProtoError],
    *,
    timeouts: Timeouts,
    observers: Observers | None = None,
    comm_targets: dict[str, OnCommOpen] | None = None,
) -> AsyncGenerator[Instance]:
    """Launch a kernel, yield the ready instance, and end the instance with the block.

    If another program has taken an address of the kernel, the kernel is launched again, at most
    five times.

    Args:
        launch: launches the kernel.
        on_death: called when a kernel that was ready dies; returns the error of pending calls.
        timeouts: the timeouts of the kernel's life.
        observers: as for ``open_client``.
        comm_targets: as for ``open_client``.

    Raises:
        KernelExitedEarly: the process ended before the kernel was ready.
        KernelNotReady: the kernel was not ready in time.
    """
    clock = StartupClock(timeouts)
    for relaunches in range(_MOST_RELAUNCHES + 1):
        info, manager = await _launch_by(clock, launch, timeouts)
        async with (
            _open(info, manager, timeouts, observers, comm_targets) as instance,
            background_tasks() as tasks,
        ):
            tasks.start_soon(instance.watch, partial(_tell, instance, on_death))
            try:
                await instance.wait_for_ready(clock)
            except KernelExitedEarly:
                if relaunches == _MOST_RELAUNCHES or not instance.lost_address:
                    raise
                logger.info("another program has a port of the new kernel: launching it again")
            else:
                yield instance
                return


def _tell(
    instance: Instance,
    on_death: Callable[[Instance, int | None], KernelProtoError],
    returncode: int | None,
) -> KernelProtoError:
    if instance.ready_at is None:
        return death_error(instance.death(returncode))
    return on_death(instance, returncode)


def death_error(
    death: Died, kind: type[KernelDied] = KernelDied, news: str = "the kernel died"
) -> KernelDied:
    """Return the exception that pending calls on a dead kernel raise."""
    return kind(f"{news}: {death}", returncode=death.returncode, reason=death.reason)


async def _launch_by(
    clock: StartupClock, launch: Callable[[], Awaitable[Launched]], timeouts: Timeouts
) -> Launched:
    with clock.limit():
        return await launch()
    if clock.ran_out_in_queue:
        raise _queue_over(timeouts)
    raise KernelNotReady(
        f"launching the kernel took longer than {timeouts.startup:g} s",
        phase="launch",
        seconds=timeouts.startup,
    )


def _queue_over(timeouts: Timeouts) -> KernelNotReady:
    return KernelNotReady(
        f"the kernel waited in a queue, or could not be reached, for {timeouts.queue:g} s; "
        + LONGER_QUEUE,
        phase="queue",
        seconds=timeouts.queue,
    )


@asynccontextmanager
async def _open(
    info: ConnectionInfo,
    manager: KernelManager,
    timeouts: Timeouts,
    observers: Observers | None,
    comm_targets: dict[str, OnCommOpen] | None,
) -> AsyncGenerator[Instance]:
    """Open the client of a kernel that was just launched, and clean up after the block."""
    finish = manager.cleanup
    owner = Owner()
    try:
        open_channels: OpenChannels = open_zmq_channels
        if isinstance(manager, BringsChannels):
            open_channels = manager.open_channels
        if observers is not None:
            observers.begin(manager)
        async with AsyncExitStack() as stack:
            opened = open_client(
                info,
                open_channels=open_channels,
                timeouts=timeouts,
                observers=observers,
                comm_targets=comm_targets,
            )
            with shortages_named():
                client = await stack.enter_async_context(opened)
            instance = Instance(info, manager, client, timeouts)
            try:
                yield instance
            finally:
                if instance.outlives and isinstance(manager, MayOutlive):
                    finish = manager.detach
                else:
                    await instance.end(instance.closing_error)
    finally:
        if owner.is_here:
            await to_the_end(partial(attempt, finish), seconds=timeouts.kill)
