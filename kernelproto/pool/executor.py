"""Members: the kernels of a pool, their start and their end, as the plan says."""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter, deque
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, Protocol, TypedDict

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskGroup

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import ClientClosed, PoolError, PoolFull, QuotaExceeded
from kernelproto.interfaces import DeathCause
from kernelproto.pool.plan import (
    Action,
    Cull,
    Evict,
    Expire,
    HandOver,
    Lease,
    LeaseLimits,
    Phase,
    Plan,
    RefuseFull,
    RefuseQuota,
    Replace,
    Start,
)
from kernelproto.pool.pooled_kernel import LostKernel, Member, PooledKernel
from kernelproto.supervise import Kernel, RestartPolicy
from kernelproto.supervise.instance import Launch
from kernelproto.timeouts import Timeouts

logger = logging.getLogger(__name__)

# How long to wait before looking again at busy kernels: when nobody waits for an answer any more,
# there is no message that tells of it.
_LOOK_AGAIN_SECONDS = 1.0


# What those are told who hold a kernel still.
_REASONS = {
    "evicted": "evicted: it was idle, and somebody else needed its place; get() starts another one",
    "culled": "culled: it was idle for too long; get() starts another one",
    "expired": "expired: it had its maximum age; get() starts another one",
    "released": "released: get() starts another one",
    "lost": "lost: it has died, and get() starts another one",
}


# What the next kernel of the same id tells about the one before.
_ENDS = {
    "evicted": "the kernel was evicted: it was idle, and another one needed its place",
    "culled": "the kernel was culled: it was idle for too long",
    "expired": "the kernel was ended: it had its maximum age",
    "released": "the kernel was shut down",
}

# So many kernels that have ended are remembered, and so many that were lost: the last ones.
_MOST_ENDS = 10_000
_MOST_LOST = 1000


class StartOptions(TypedDict, total=False):
    """How a kernel is started, where that differs from the pool's other kernels.

    Keys:
        kernel_type: the kernel type.
        cwd: the working directory.
        env: environment variables, beside those of the pool.
        launch_params: launch parameters in place of the pool's.
        kernel_id: the id that it gets, a UUID; a new one by default.
        lease_limits: the limits of the user and of this kernel, in place of the pool's.
    """

    kernel_type: str | None
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    launch_params: Mapping[str, object] | None
    kernel_id: str | None
    lease_limits: LeaseLimits | None


class Recipe(Protocol):
    """Says how kernels are started."""

    def kernel_type(self, start: StartOptions) -> str:
        """Return the kernel type."""
        ...

    def launch(self, start: StartOptions) -> tuple[Launch, str | None]:
        """Return the function that launches such a kernel, and the working directory."""
        ...


class _Request(NamedTuple):
    lease: Lease
    start: StartOptions
    member: Waiter[Member]


class Members(AsyncContextManagerMixin):
    """The kernels of a pool, for the block; performs the plan.

    Every change is told to the plan at once, and what the plan says is begun at once, without
    waiting in between: so the plan always knows how things are. A kernel that was idle at the last
    message is looked at once more before it is ended for that; one that was busy, once a second,
    and before a request is refused because all are busy.

    Args:
        plan: decides.
        recipe: how kernels are started.
        timeouts: the phases of their lives.
        restart: when one that has died is started again.

    Attributes:
        counts: how many kernels and requests came to what.
        deaths: how many kernels have died of what, whether they were restarted or not.
        lost: the kernels that died last and were not restarted, in the order of their deaths.
    """

    def __init__(
        self, plan: Plan, recipe: Recipe, timeouts: Timeouts, restart: RestartPolicy | None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.deaths: Counter[DeathCause] = Counter()
        self.lost: deque[LostKernel] = deque(maxlen=_MOST_LOST)
        self._plan = plan
        self._recipe = recipe
        self._timeouts = timeouts
        self._restart = restart
        self._members: dict[int, Member] = {}
        self._busy: set[int] = set()  # of the members
        self._ends: dict[tuple[str, str], str] = {}
        self._requests: dict[int, _Request] = {}
        self._tasks: TaskGroup | None = None
        self._alarm: anyio.Event
        self._alarm_at = 0.0
        self._look_at = 0.0

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Members]:
        async with background_tasks() as tasks:
            self._tasks = tasks
            self._alarm = anyio.Event()
            tasks.start_soon(self._keep_time)
            try:
                yield self
            finally:
                self._tasks = None
                for request in self._requests.values():
                    request.member.fail(PoolError("the pool was closed while this was waiting"))

    @property
    def waiting(self) -> int:
        """How many requests wait for room."""
        return self._plan.waiting

    @asynccontextmanager
    async def hand_over(
        self,
        lease: Lease,
        *,
        wait: bool,
        start: StartOptions,
        replaces: Lease | None = None,
        used: bool = True,
    ) -> AsyncGenerator[tuple[Member, Kernel]]:
        """Give a lease's kernel, ready, and hold it for the block; see ``KernelPool.get``.

        With *used*, the idle time of the kernel begins anew after the block.
        """
        with self._asking(lease, wait, start, replaces, used) as request:
            member = await request.member.wait()
            yield member, await member.ready.wait()

    @contextmanager
    def connected(self, member: Member) -> Generator[None]:
        """Count one more client as connected to a kernel."""
        self._plan.connected(member.number, anyio.current_time())
        try:
            yield
        finally:
            self._plan.disconnected(member.number, anyio.current_time())
            self._update()

    def find(self, lease: Lease) -> Member | None:
        """Return a lease's kernel, which may be starting; None where it has none."""
        number = self._plan.place_of(lease)
        return None if number is None else self._members[number]

    async def end(self, member: Member) -> None:
        """End a kernel because its user wants it; return when nothing is left of it."""
        self._end(member, "released")
        self._update()
        await member.gone.wait()

    def describe(
        self, user: str | None = None, *, kernel_id: str | None = None
    ) -> Iterator[PooledKernel]:
        """Describe kernels, but none that is being ended, in the order of their starts.

        Args:
            user: whose kernels; None means everybody's.
            kernel_id: the only id that matters; None means any.
        """
        places = self._plan.places if user is None else self._plan.places_of(user)
        for number, place in places.items():
            member = self._members[number]
            if place.phase is not Phase.ENDING and kernel_id in (None, member.kernel_id):
                yield member.describe(place.connections)

    @contextmanager
    def _asking(
        self, lease: Lease, wait: bool, start: StartOptions, replaces: Lease | None, used: bool
    ) -> Generator[_Request]:
        """Ask for a lease's kernel; for the block, nobody else gets its place."""
        if self._tasks is None:
            raise PoolError("a KernelPool has kernels during its block: async with KernelPool()")
        self._check_type(lease, start.get("kernel_type"))
        if not wait and self._plan.crowded and self.find(lease) is None:
            self._look_at_busy()  # before this request is refused because of them
        limits = start.get("lease_limits")
        ticket = self._plan.ask(lease, wait=wait, replaces=replaces, limits=limits)
        request = self._requests[ticket] = _Request(lease, start, Waiter[Member]())
        try:
            self._update()
            yield request
        finally:
            del self._requests[ticket]
            self._plan.leave(ticket, anyio.current_time(), used=used)
            self._update()

    def _check_type(self, lease: Lease, wanted: str | None) -> None:
        """Refuse to hand over a kernel of another type than the one that was asked for."""
        member, ticket = self.find(lease), self._plan.first_ticket(lease)
        if member is not None:
            kernel_type = member.kernel_type
        elif ticket is not None:
            kernel_type = self._recipe.kernel_type(self._requests[ticket].start)
        else:
            return
        if wanted not in (None, kernel_type):
            raise PoolError(
                f"the kernel {lease.name!r} of {lease.user!r} is {kernel_type!r}, not {wanted!r}: "
                "release it first, or ask under another name"
            )

    def _update(self) -> None:
        """Begin what follows from what the plan was told."""
        if self._tasks is None:
            return  # everything is ending
        for action in self._plan.decide(anyio.current_time(), self._look):
            self._perform(action, self._tasks)
        self._arm()

    def _look(self, number: int) -> None:
        """Tell the plan what a kernel does now: not every change comes with a message."""
        self._members[number].look()
        self._tell(self._members[number])

    def _look_at_busy(self) -> None:
        self._look_at = anyio.current_time() + _LOOK_AGAIN_SECONDS
        for number in tuple(self._busy):
            self._look(number)

    def _note_change(self, member: Member) -> None:
        """Do what follows from a change of one kernel; nothing but this happens all the time."""
        self._tell(member)
        if member.dead or (self._plan.somebody_waits and not member.busy):
            self._update()
        else:
            self._arm()

    def _tell(self, member: Member) -> None:
        if member.dead:
            self._end(member, "lost")
        elif member.running:
            (self._busy.add if member.busy else self._busy.discard)(member.number)
            self._plan.started(member.number, member.active_at)
            self._plan.busy(member.number, member.busy)
            self._plan.used(member.number, member.active_at)

    def _perform(self, action: Action, tasks: TaskGroup) -> None:
        match action:
            case Start(number, lease, ticket):
                self._start(number, lease, self._requests[ticket].start, tasks)
            case HandOver(ticket, number):
                self._requests[ticket].member.set(self._members[number])
            case Evict(number):
                self._end(self._members[number], "evicted")
            case Replace(number):
                self._end(self._members[number], "released")
            case Cull(number):
                self._end(self._members[number], "culled")
            case Expire(number):
                self._end(self._members[number], "expired")
            case RefuseFull(ticket, waiting):
                self._refuse(ticket, "full", _full(self._plan.limits.max_kernels, waiting))
            case RefuseQuota(ticket):
                _, start, *_ = request = self._requests[ticket]
                limits = start.get("lease_limits") or self._plan.limits
                message = _beyond_quota(limits.max_per_user, request.lease.user)
                self._refuse(ticket, "quota", message)

    def _start(self, number: int, lease: Lease, start: StartOptions, tasks: TaskGroup) -> None:
        kernel_type = self._recipe.kernel_type(start)
        kernel_id = start.get("kernel_id") or str(uuid.uuid4())
        self._members[number] = Member(
            number,
            lease,
            kernel_type,
            kernel_id=kernel_id,
            counts=self.counts,
            deaths=self.deaths,
            on_change=self._note_change,
            previous_end=self._ends.get((lease.user, kernel_id)),
        )
        self.counts["started"] += 1
        tasks.start_soon(self._serve, self._members[number], start)

    def _end(self, member: Member, why: str) -> None:
        if not member.ending:
            with member.logged():
                logger.info("the %s is ended: it was %s", member, why)
            self.counts[why] += 1
            self._remember_end(member, why)
            if why == "lost" and (loss := member.describe_loss()):
                self.lost.append(loss)
            self._plan.end(member.number)
            member.end(ClientClosed(f"the {member} was {_REASONS[why]}", ended=why))

    def _remember_end(self, member: Member, why: str) -> None:
        if member.running:
            died = f"the kernel died: {member.last_death or 'it could not be restarted'}"
            self._ends[member.lease.user, member.kernel_id] = _ENDS.get(why, died)
            if len(self._ends) > _MOST_ENDS:
                del self._ends[next(iter(self._ends))]

    def _refuse(self, ticket: int, why: str, error: PoolError) -> None:
        self.counts["refused"] += 1
        self.counts[why] += 1
        self._requests[ticket].member.fail(error)

    async def _serve(self, member: Member, start: StartOptions) -> None:
        launch, cwd = self._recipe.launch(start)
        try:
            with member.logged():
                await member.serve(launch, cwd, self._timeouts, self._restart)
        finally:
            self._plan.ended(member.number)
            self._busy.discard(member.number)
            del self._members[member.number]
            self._update()

    async def _keep_time(self) -> None:
        """Do what is to be done although nothing has happened."""
        while True:
            self._alarm = anyio.Event()
            self._alarm_at = self._next_look()
            with anyio.CancelScope(deadline=self._alarm_at) as waiting:
                await self._alarm.wait()
            if waiting.cancelled_caught:
                if self._busy and self._look_at <= anyio.current_time():
                    self._look_at_busy()
                self._update()

    def _arm(self) -> None:
        """Have the alarm go off earlier, where that is needed now."""
        if self._next_look() < self._alarm_at:
            self._alarm.set()

    def _next_look(self) -> float:
        return min(self._plan.wake_at, self._look_at) if self._busy else self._plan.wake_at


def _full(limit: int, waiting: int) -> PoolFull:
    reason = "others wait for room already" if waiting else "none of them is idle"
    return PoolFull(
        f"the pool has {limit} kernels, as many as it may, and {reason}: ask again later, wait "
        "with get(..., wait=True), or raise max_kernels",
        limit=limit,
    )


def _beyond_quota(limit: int, user: str) -> QuotaExceeded:
    kernels = "1 kernel" if limit == 1 else f"{limit} kernels"
    return QuotaExceeded(
        f"{user!r} has {kernels}, as many as each user may: end one first, or raise max_per_user",
        limit=limit,
    )
