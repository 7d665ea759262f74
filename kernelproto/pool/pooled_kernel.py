"""ManagedKernel: one kernel of a pool; PooledKernel: the description of a kernel."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeAlias

import anyio
import msgspec

from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import ClientClosed, KernelProtoError, PoolError
from kernelproto.interfaces import DeathCause, HasProcess
from kernelproto.log_fields import logging_about
from kernelproto.pool.slots import Lease, ScheduledEnd
from kernelproto.supervise import (
    Died,
    Kernel,
    KernelRestarter,
    Reachable,
    RestartPolicy,
    Unreachable,
    open_kernel,
)
from kernelproto.supervise.instance import Launch
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

logger = logging.getLogger(__name__)

PooledState: TypeAlias = Literal["starting", "idle", "busy", "unreachable", "restarting", "dead"]

# Clients send these requests without the user, to check or to inspect the kernel.
_HOUSEKEEPING = frozenset(
    (
        "kernel_info_request",
        "comm_info_request",
        "connect_request",
        "debug_request",
        "interrupt_request",
        "shutdown_request",
        "usage_request",
    )
)

# A kernel publishes these without a request.
_UNSOLICITED = frozenset(("status", "iopub_welcome"))


class KernelEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The coming end of a kernel, by a limit.

    Args:
        at: the time, in UTC.
        reason: "culled": the kernel will have been idle for ``idle_timeout``, unless used before.
            "expired": the kernel will reach ``max_age``, used or not.
        limit: this limit, in seconds.
    """

    at: datetime
    reason: Literal["culled", "expired"]
    limit: float


class PooledKernel(msgspec.Struct, frozen=True, kw_only=True):
    """A description of a kernel of a pool, at one moment.

    Args:
        kernel_id: a UUID, the same as ``Kernel.kernel_id``; restarts keep it.
        user: the user of the kernel.
        name: the name among the user's kernels.
        kernel_type: the kernel type.
        state: the state as last known.
        connections: the number of connected clients.
        started_at: when the start began, in UTC.
        last_activity: when the kernel was last started, restarted or active for a client, in UTC.
        pid: the id of the process; None if the process is on another machine or does not run.
        process_started_at: when the present process was ready, in UTC; the kernel has no older
            state. None before the first process is ready.
        previous_end: a sentence about the end of the previous process with this *kernel_id*; None
            for the first process.
        last_death: a sentence about the kernel's last death; None if the kernel never died.
        end: when the pool will end the kernel if the state does not change; None for never.
        unreachable: the reason why the kernel cannot be reached; None in all other states.
    """

    kernel_id: str
    user: str
    name: str
    kernel_type: str
    state: PooledState
    connections: int
    started_at: datetime
    last_activity: datetime
    pid: int | None = None
    process_started_at: datetime | None = None
    previous_end: str | None = None
    last_death: str | None = None
    end: KernelEnd | None = None
    unreachable: str | None = None


class LostKernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of a pool that died and was not restarted.

    Args:
        kernel_id: the id.
        user: the user.
        kernel_type: the kernel type.
        death: a sentence about the death.
        died_at: when the pool removed the kernel, in UTC.
    """

    kernel_id: str
    user: str
    kernel_type: str
    death: str
    died_at: datetime


class ManagedKernel:
    """One kernel of a pool: ``serve`` runs the kernel, and ``offer`` watches the messages.

    Args:
        number: the slot in the plan.
        lease: the user and name.
        kernel_type: the kernel type.
        kernel_id: the id.
        counts: the pool's counts; "failed" and "restarted" are counted here.
        deaths: the pool's counts of deaths by cause.
        on_change: called with this object when the kernel is ready, becomes busy or idle, or dies
            without a restart.
        previous_end: a sentence about the end of an earlier kernel with this id; None without one.

    Attributes:
        ready: set to the Kernel once it is ready, or to the error that prevented the start.
        ending: whether the kernel is being ended.
        gone: set when the kernel has ended completely.
        busy: whether the kernel works, is being restarted or cannot be reached, as of the last
            ``look``.
        dead: whether the kernel is dead without a restart, as of the last ``look``.
        active_at: when the kernel was last active for a client, by ``anyio.current_time``.
        ready_at: when the kernel was first ready, by ``anyio.current_time``.
        last_death: a sentence about the last death; None if the kernel never died.
    """

    def __init__(
        self,
        number: int,
        lease: Lease,
        kernel_type: str,
        *,
        kernel_id: str,
        counts: Counter[str],
        deaths: Counter[DeathCause],
        on_change: Callable[[ManagedKernel], None],
        previous_end: str | None = None,
    ) -> None:
        self.number = number
        self.lease = lease
        self.kernel_type = kernel_type
        self.kernel_id = kernel_id
        self.ready = Waiter[Kernel]()
        self.ending = False
        self.gone = anyio.Event()
        self.busy = False
        self.dead = False
        self.active_at = self.ready_at = -math.inf
        self.last_death: str | None = None
        self._kernel: Kernel | None = None
        self._has_worked = False
        self._died = False
        self._scope = anyio.CancelScope()
        self._started_at = self._last_activity = datetime.now(UTC)
        self._process_started_at: datetime | None = None
        self._previous_end = previous_end
        self._counts = counts
        self._deaths = deaths
        self._on_change = on_change

    def __str__(self) -> str:
        return f"kernel {self.lease.name!r} of {self.lease.user!r} ({self.kernel_id})"

    @property
    def running(self) -> bool:
        """Whether the kernel has been ready."""
        return self._kernel is not None

    def logged(self) -> AbstractContextManager[None]:
        """Attach the kernel's id and user to the log records of the block and of tasks in it."""
        return logging_about(kernel_id=self.kernel_id, user=self.lease.user)

    def describe(self, connections: int, end: ScheduledEnd | None = None) -> PooledKernel:
        """Return the public description of the kernel."""
        return PooledKernel(
            kernel_id=self.kernel_id,
            user=self.lease.user,
            name=self.lease.name,
            kernel_type=self.kernel_type,
            state=self._state(),
            connections=connections,
            started_at=self._started_at,
            last_activity=self._last_activity,
            pid=self._pid(),
            process_started_at=self._process_started_at,
            previous_end=self._previous_end,
            last_death=self.last_death,
            end=None if end is None else self._end_in_utc(end),
            unreachable=None if self._kernel is None else self._kernel.unreachable,
        )

    def describe_loss(self) -> LostKernel | None:
        """Return the description of a lost kernel; None if a client shut the kernel down."""
        if self.last_death is None:
            return None
        return LostKernel(
            kernel_id=self.kernel_id,
            user=self.lease.user,
            kernel_type=self.kernel_type,
            death=self.last_death,
            died_at=datetime.now(UTC),
        )

    async def serve(
        self,
        launch: Launch,
        cwd: str | None,
        timeouts: Timeouts,
        restart: RestartPolicy | None,
    ) -> None:
        """Run the kernel until this task is cancelled or ``end`` is called, then shut it down.

        Raises no Exception: a failure of one kernel must not affect the others.
        """
        try:
            with self._scope:
                await self._live(launch, cwd, timeouts, restart)
        except Exception as error:
            self._counts["failed"] += 1
            words = "could not be started" if self._kernel is None else "has failed"
            # Any other exception is a bug, so log the traceback.
            is_bug = not isinstance(error, KernelProtoError)
            logger.warning("the %s %s: %s", self, words, error, exc_info=is_bug)
            self.ready.fail(error)
        finally:
            self.ready.fail(PoolError(f"the {self} was ended while it was being started"))
            self.gone.set()

    async def _live(
        self, launch: Launch, cwd: str | None, timeouts: Timeouts, restart: RestartPolicy | None
    ) -> None:
        async with (
            open_kernel(launch, timeouts=timeouts, cwd=cwd) as kernel,
            nullcontext() if restart is None else KernelRestarter(kernel, restart),
        ):
            self._begin(kernel)
            try:
                await anyio.sleep_forever()
            finally:  # an end with the whole pool is no loss either
                self.ending = True

    def end(self, reason: ClientClosed) -> None:
        """Begin to shut the kernel down; ``gone`` is set after the complete end.

        Args:
            reason: raised by later calls on the kernel.
        """
        self.ending = True
        if self._kernel is not None:
            self._kernel.explain_end(reason)
        self._scope.cancel()

    def look(self) -> bool:
        """Update ``busy`` and ``dead``; return whether either has changed."""
        if self._kernel is None:
            return False
        state = self._kernel.state
        before = self.busy, self.dead
        in_use = state in ("busy", "unreachable", "restarting")
        self.busy = in_use or self._kernel.client.waiting
        self.dead = state == "dead"
        return before != (self.busy, self.dead)

    def offer(self, message: Message, channel: ChannelName) -> None:
        """Observe a message; part of ``Watcher``."""
        if is_activity(message, channel):
            self._has_worked = True
            self._note_activity()
        if channel != "iopub" or message.msg_type == "status":  # outputs do not change the state
            self._look()

    def fail(self, error: Exception) -> None:
        """Observe the kernel's death; part of ``Watcher``."""
        self._look()

    def resume(self) -> None:
        """Observe a restart; part of ``Watcher``."""
        self._counts["restarted"] += 1
        self._has_worked = False
        if not self._died:
            self._previous_end = "the kernel was restarted"
        self._note_process()
        self._look()

    def _begin(self, kernel: Kernel) -> None:
        kernel.kernel_id = self.kernel_id
        kernel.watch(self)
        kernel.add_callback(self._note_death, Died)
        kernel.add_callback(self._note_unreachable, Unreachable)
        kernel.add_callback(self._note_reachable, Reachable)
        self._kernel = kernel
        self._note_start()
        self.ready.set(kernel)
        self._on_change(self)

    def _note_start(self) -> None:
        self._note_process()
        self.ready_at = self.active_at

    def _note_process(self) -> None:
        self._died = False
        self._note_activity()
        self._process_started_at = self._last_activity

    def _note_death(self, death: Died) -> None:
        """Count and log a death; a restart may follow."""
        self._died = True
        self._deaths[death.cause] += 1
        self.last_death = str(death)
        self._previous_end = f"the kernel died: {death}"
        attempt = None if self._kernel is None else self._kernel.restart_attempt
        follows = f"restart {attempt} begins" if attempt else "it stays dead"
        with self.logged():
            logger.warning("the %s died: %s; %s", self, death, follows)

    def _note_unreachable(self, event: Unreachable) -> None:
        self._look()

    def _note_reachable(self, event: Reachable) -> None:
        """Restart the idle time, because the kernel could not be used."""
        self._note_activity()
        self._look()

    def _end_in_utc(self, end: ScheduledEnd) -> KernelEnd:
        at = end.at
        if end.reason == "culled":  # the plan does not know of every use, and asks before culling
            at = max(at, self.active_at + end.limit)
        after = timedelta(seconds=at - self.active_at)
        return KernelEnd(at=self._last_activity + after, reason=end.reason, limit=end.limit)

    def _state(self) -> PooledState:
        if self._kernel is None:
            return "starting"
        # A new kernel is still busy with the readiness check, which does not count as work.
        busy = self._kernel.state == "busy" and not self._has_worked
        return "idle" if busy else self._kernel.state

    def _pid(self) -> int | None:
        # After the end of the process, another process may have the same id.
        if self._kernel is None or self._kernel.state not in ("idle", "busy"):
            return None
        manager = self._kernel.manager
        return manager.pid if isinstance(manager, HasProcess) else None

    def _note_activity(self) -> None:
        self.active_at = anyio.current_time()
        self._last_activity = datetime.now(UTC)

    def _look(self) -> None:
        if self.look():
            self._on_change(self)


def is_activity(message: Message, channel: ChannelName) -> bool:
    """Return whether a message shows that the kernel is active for a client.

    All messages on iopub do, except for those caused by housekeeping requests (kernel_info,
    comm_info, debug, interrupt, shutdown and the like) and unsolicited status messages.
    """
    if channel != "iopub":
        return False
    if message.parent_header is None:
        return message.msg_type not in _UNSOLICITED
    return message.parent_header.msg_type not in _HOUSEKEEPING
