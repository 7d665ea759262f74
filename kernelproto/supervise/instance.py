"""Instance: one process of a kernel and the client that talks to it, from launched to gone."""

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
    MayLoseAddress,
    MayOutlive,
    OpenChannels,
)
from kernelproto.launch.failures import (
    MORE_TIME,
    NOT_ENCRYPTED,
    exited_early,
    not_ready,
    shortages_named,
)
from kernelproto.supervise.events import Died
from kernelproto.supervise.shutdown import attempt, end_process, longest
from kernelproto.timeouts import Timeouts
from kernelproto.transport import open_channels as open_zmq_channels
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

Launched: TypeAlias = tuple[ConnectionInfo, KernelManager]


class Launch(Protocol):
    """Launches a kernel, again for each restart."""

    async def __call__(self, *, env: Mapping[str, str], cwd: str | None) -> Launched:
        """Launch the kernel; it is not ready yet when this returns.

        Args:
            env: environment variables beside those of the first launch.
            cwd: the working directory; None means the caller's.
        """
        ...


# A kernel whose port another program has taken is launched again on other ports, this often in a
# row: more often cannot be chance.
_MOST_RELAUNCHES = 5

# How long a kernel may be silent before it is looked after whether it listens at its own ports.
_ADDRESS_CHECK_SECONDS = 1.0


class Instance:
    """One process of a kernel; ``start_instance`` makes it.

    Attributes:
        info: where the kernel is.
        manager: the handle on its process.
        client: the client that talks to it.
        ready_at: when it was ready, on the clock of ``anyio.current_time``; None before.
        gone: set when its process has ended and every pending call has raised.
        outlives: whether leaving lets go of the process instead of ending it.
        reason: why it was killed, if it was killed from here.
        closing_error: the error of calls that are pending when its block is left.
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

    async def wait_for_ready(self, deadline: float) -> None:
        """Wait until the kernel answers and its outputs arrive.

        Args:
            deadline: when it must be ready, on the clock of ``anyio.current_time``.

        Raises:
            KernelExitedEarly: its process ended before.
            KernelNotReady: the time was up before.
        """
        with anyio.CancelScope(deadline=deadline):
            try:
                async with background_tasks() as tasks:
                    tasks.start_soon(self._watch_address)
                    await self.client.wait_for_ready()
                    await self._reach_shell()
            except KernelDied as error:
                raise exited_early(self.manager, error.returncode) from None
            self.ready_at = anyio.current_time()
            return
        remedy = NOT_ENCRYPTED if self.info.encrypted else MORE_TIME
        raise not_ready(self.manager, self.client.awaited, self._timeouts.startup, remedy=remedy)

    @property
    def uptime(self) -> float:
        """For how many seconds it has been ready."""
        if self.ready_at is None:
            return 0.0
        return anyio.current_time() - self.ready_at

    @property
    def lost_address(self) -> bool:
        """Whether the kernel could not listen, because another program does at its address."""
        return self._lost_address or self._look_after_address()

    async def interrupt(self) -> None:
        """Interrupt the running code, by a signal or by a message, as the kernel wants it."""
        try:
            await self.manager.interrupt()
        except UnsupportedRequest:
            await self.client.request_interrupt()

    async def kill(self, reason: str) -> None:
        """Kill the process, whose death then has this reason."""
        self.reason = reason
        await attempt(self.manager.kill)

    async def end(self, error: KernelProtoError, *, restart: bool = False) -> int | None:
        """End the process in order, whatever is cancelled meanwhile; a forked child ends nothing.

        Args:
            error: raised by calls that still wait for the kernel.
            restart: whether the kernel is told that it will be started again.

        Returns:
            The exit status, None where it can't be known.
        """
        if not self._owner.is_here:
            return None
        return await to_the_end(partial(self._end, error, restart), seconds=longest(self._timeouts))

    async def watch(self, on_death: Callable[[int | None], KernelProtoError]) -> None:
        """Wait for the end of the process, then end every pending call.

        Args:
            on_death: called with the exit status if this program has not ended the process; returns
                the error of pending calls.
        """
        returncode = await self.manager.wait()
        if not self._ending.locked():
            await self.client.settle()
        if not self._ending.locked():
            self.client.fail(on_death(returncode))
        self.gone.set()

    def death(self, returncode: int | None) -> Died:
        """Return how the process has died."""
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
        """See that shell answers: control may do so while somebody else has the port of shell."""
        if self.info.transport == "tcp" and isinstance(self.manager, MayLoseAddress):
            # In this time _watch_address has looked; a kernel that is just busy is ready.
            with anyio.move_on_after(1.5 * _ADDRESS_CHECK_SECONDS):
                await self.client.kernel_info()

    async def _watch_address(self) -> None:
        while True:
            await anyio.sleep(_ADDRESS_CHECK_SECONDS)
            if self._look_after_address():
                self._lost_address = True
                await attempt(self.manager.kill)
                return

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
    """Launch a kernel, give it when it is ready, and end it with the block.

    A kernel that finds somebody else at its address is launched again, five times at the most.

    Args:
        launch: launches it.
        on_death: called when a kernel that was ready dies; returns what those get who wait for it.
        timeouts: the phases of its life.
        observers: who watches it; see ``open_client``.
        comm_targets: likewise.

    Raises:
        KernelExitedEarly: its process ended before it was ready.
        KernelNotReady: it was not ready in time.
    """
    deadline = anyio.current_time() + timeouts.startup
    for relaunches in range(_MOST_RELAUNCHES + 1):
        info, manager = await _launch_by(deadline, launch, timeouts)
        async with (
            _open(info, manager, timeouts, observers, comm_targets) as instance,
            background_tasks() as tasks,
        ):
            tasks.start_soon(instance.watch, partial(_tell, instance, on_death))
            try:
                await instance.wait_for_ready(deadline)
            except KernelExitedEarly:
                if relaunches == _MOST_RELAUNCHES or not instance.lost_address:
                    raise
                logger.info("a port of the new kernel was taken: it is launched again")
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
    """Return the exception for the tasks that wait for a kernel that has died."""
    return kind(f"{news}: {death}", returncode=death.returncode, reason=death.reason)


async def _launch_by(
    deadline: float, launch: Callable[[], Awaitable[Launched]], timeouts: Timeouts
) -> Launched:
    launched = None
    with anyio.CancelScope(deadline=deadline):
        launched = await launch()
    if launched is None:
        raise KernelNotReady(
            f"launching the kernel took longer than {timeouts.startup:g} s",
            phase="launch",
            seconds=timeouts.startup,
        )
    return launched


@asynccontextmanager
async def _open(
    info: ConnectionInfo,
    manager: KernelManager,
    timeouts: Timeouts,
    observers: Observers | None,
    comm_targets: dict[str, OnCommOpen] | None,
) -> AsyncGenerator[Instance]:
    """Open the client of a kernel that was just launched; clean up after it whatever happens."""
    finish = manager.cleanup
    owner = Owner()
    try:
        open_channels: OpenChannels = open_zmq_channels
        if isinstance(manager, BringsChannels):
            open_channels = manager.open_channels
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
