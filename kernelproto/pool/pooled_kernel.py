"""Member: one kernel of a pool, from its start until nothing is left of it."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import anyio
import msgspec

from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import ClientClosed, KernelProtoError, PoolError
from kernelproto.interfaces import DeathCause, HasProcess
from kernelproto.log_fields import logging_about
from kernelproto.pool.activity import is_activity
from kernelproto.pool.places import Lease
from kernelproto.supervise import Died, Kernel, KernelRestarter, RestartPolicy, open_kernel
from kernelproto.supervise.instance import Launch
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

logger = logging.getLogger(__name__)

PooledState: TypeAlias = Literal["starting", "idle", "busy", "restarting", "dead"]


class PooledKernel(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to tell about a kernel of a pool.

    Args:
        kernel_id: a UUID, the ``kernel_id`` of the Kernel as well; it outlives restarts.
        user: whose it is.
        name: which one of the user's.
        kernel_type: what it was started as.
        state: what it does, as far as is known here.
        connections: how many clients are connected.
        started_at: when its start began, in UTC.
        last_activity: when it was started, restarted, or last did something for somebody, in UTC.
        pid: the number of its process; None where that is not on this machine, and while there is
            none.
        process_started_at: when its process was ready, in UTC; all that the kernel knows is newer.
            None before the first one is.
        previous_end: how the process before this one ended that had the same *kernel_id*, in words;
            None for the first one.
        last_death: how the kernel died the last time, in words; None if it never did.
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


class LostKernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of a pool that has died and was not restarted.

    Args:
        kernel_id: its id.
        user: its user.
        kernel_type: its kernel type.
        death: how it died, in words.
        died_at: when the pool gave it up, in UTC.
    """

    kernel_id: str
    user: str
    kernel_type: str
    death: str
    died_at: datetime


class Member:
    """One kernel of a pool; it is served by ``serve`` and watches the kernel's messages.

    Args:
        number: its place in the plan.
        lease: whose it is.
        kernel_type: what it is started as.
        kernel_id: the id that the pool gives it.
        counts: of the pool: it adds to "failed" and "restarted".
        deaths: of the pool: it adds to the cause of each death.
        on_change: called with it when it is ready, has become busy or idle, or has died for good.
        previous_end: how an earlier kernel of the same id has ended; None where there was none.

    Attributes:
        ready: gives the kernel once it is ready, or the reason why there is none.
        ending: whether it was told to end, or ends with its pool.
        gone: set when nothing is left of it.
        busy: whether it works or is being restarted, when that was last looked at.
        dead: whether it has died for good, the same.
        active_at: when it last did something for somebody, on the clock of ``anyio.current_time``.
        last_death: how it died the last time, in words; None if it never did.
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
        on_change: Callable[[Member], None],
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
        self.active_at = -math.inf
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
        """Whether it was ready once."""
        return self._kernel is not None

    def logged(self) -> AbstractContextManager[None]:
        """Say in the block's log records, and those of its tasks, that they are about it."""
        return logging_about(kernel_id=self.kernel_id, user=self.lease.user)

    def describe(self, connections: int) -> PooledKernel:
        """Return what there is to tell about it."""
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
        )

    def describe_loss(self) -> LostKernel | None:
        """Describe it as lost; None if it never died, because its user has shut it down."""
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
        """Start the kernel, and end it in order when this is cancelled or ``end`` is called.

        It raises no Exception: that of one kernel concerns nobody else's.
        """
        try:
            with self._scope:
                async with (
                    open_kernel(launch, timeouts=timeouts, cwd=cwd) as kernel,
                    nullcontext() if restart is None else KernelRestarter(kernel, restart),
                ):
                    self._begin(kernel)
                    try:
                        await anyio.sleep_forever()
                    finally:  # also when the whole pool ends: it will be dead, but was not lost
                        self.ending = True
        except Exception as error:
            self._counts["failed"] += 1
            words = "could not be started" if self._kernel is None else "has failed"
            # What is no error of kernelproto's own is somebody's bug, and worth a traceback.
            foreign = not isinstance(error, KernelProtoError)
            logger.warning("the %s %s: %s", self, words, error, exc_info=foreign)
            self.ready.fail(error)
        finally:
            self.ready.fail(PoolError(f"the {self} was ended while it was being started"))
            self.gone.set()

    def end(self, reason: ClientClosed) -> None:
        """Begin to end the kernel; ``gone`` is set at the end of that.

        Args:
            reason: raised by calls on the kernel from now on.
        """
        self.ending = True
        if self._kernel is not None:
            self._kernel.explain_end(reason)
        self._scope.cancel()

    def look(self) -> bool:
        """Look at what the kernel does; return whether that has changed."""
        if self._kernel is None:
            return False
        state = self._kernel.state
        before = self.busy, self.dead
        self.busy = state in ("busy", "restarting") or self._kernel.client.waiting
        self.dead = state == "dead"
        return before != (self.busy, self.dead)

    def offer(self, message: Message, channel: ChannelName) -> None:
        """Take note of a message; part of ``Watcher``."""
        if is_activity(message, channel):
            self._has_worked = True
            self._note_activity()
        if channel != "iopub" or message.msg_type == "status":  # no output makes it busy or idle
            self._look()

    def fail(self, error: Exception) -> None:
        """Take note that the kernel is dead; part of ``Watcher``."""
        self._look()

    def resume(self) -> None:
        """Take note that the kernel was restarted; part of ``Watcher``."""
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
        self._kernel = kernel
        self._note_process()
        self.ready.set(kernel)
        self._on_change(self)

    def _note_process(self) -> None:
        self._died = False
        self._note_activity()
        self._process_started_at = self._last_activity

    def _note_death(self, death: Died) -> None:
        """Tell of a death; a restart may follow."""
        self._died = True
        self._deaths[death.cause] += 1
        self.last_death = str(death)
        self._previous_end = f"the kernel died: {death}"
        attempt = None if self._kernel is None else self._kernel.restart_attempt
        follows = f"restart {attempt} begins" if attempt else "it stays dead"
        with self.logged():
            logger.warning("the %s died: %s; %s", self, death, follows)

    def _state(self) -> PooledState:
        if self._kernel is None:
            return "starting"
        # A new kernel is still busy with the question whether it is ready, which is no work.
        busy = self._kernel.state == "busy" and not self._has_worked
        return "idle" if busy else self._kernel.state

    def _pid(self) -> int | None:
        # While there is no process, its number may be somebody else's.
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
