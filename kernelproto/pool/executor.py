"""Executor: performs the plan of a pool; starts, hands over and ends the kernels."""

from __future__ import annotations

import logging
import os
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import islice
from typing import NamedTuple, Protocol

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskGroup

from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import ClientClosed, PoolError, PoolFull, QuotaExceeded
from kernelproto.interfaces import DeathCause
from kernelproto.pool.actions import (
    Action,
    Cull,
    Evict,
    Expire,
    HandOver,
    RefuseFull,
    RefuseQuota,
    Replace,
    Start,
)
from kernelproto.pool.kernel_table import KernelTable
from kernelproto.pool.launcher import StartOptions
from kernelproto.pool.plan import Plan
from kernelproto.pool.pooled_kernel import LostKernel, ManagedKernel, PooledKernel
from kernelproto.pool.slots import Lease, Phase
from kernelproto.supervise import Kernel, RestartPolicy
from kernelproto.supervise.instance import Launch
from kernelproto.timeouts import Timeouts

logger = logging.getLogger(__name__)

# How often busy kernels are examined: a caller that stops to wait for a reply causes no message.
_LOOK_AGAIN_SECONDS = 1.0

# Clients may be refused at any rate, so a refusal must cost little.
_MOST_LOOKS = 100

# For callers that still hold the kernel.
_REASONS = {
    "evicted": "evicted: it was idle and another kernel needed its slot; get() starts a new one",
    "culled": "culled: it was idle for too long; get() starts a new one",
    "expired": "expired: it reached its maximum age; get() starts a new one",
    "released": "released; get() starts a new one",
    "lost": "lost: it died and was not restarted; get() starts a new one",
}

# For ``previous_end`` of the next kernel with the same id.
_ENDS = {
    "evicted": "the kernel was evicted: it was idle and another kernel needed its slot",
    "culled": "the kernel was culled: it was idle for too long",
    "expired": "the kernel was ended: it reached its maximum age",
    "released": "the kernel was shut down",
}

# How many ends and how many lost kernels the pool remembers: the latest ones.
_MOST_ENDS = 10_000
_MOST_LOST = 1000


class Launcher(Protocol):
    """Launches the kernels of a pool."""

    def kernel_type(self, start: StartOptions) -> str:
        """Return the kernel type that ``launch`` would start."""
        ...

    def launch(self, start: StartOptions) -> tuple[Launch, str | None]:
        """Return the function that launches such a kernel, and the working directory."""
        ...


class _Request(NamedTuple):
    lease: Lease
    start: StartOptions
    managed: Waiter[ManagedKernel]


class Executor(AsyncContextManagerMixin):
    """Performs the plan of a pool during the block; all kernels end with the block.

    The executor reports each fact to the plan and begins the resulting actions in one step, without
    a checkpoint in between, so the plan is always up to date. The executor examines an idle kernel
    once more before ending the kernel for being idle. The executor examines busy kernels once a
    second, and up to 100 of them, in turn, before refusing a request because all kernels are busy.

    Args:
        plan: decides which kernels start and end.
        launcher: launches kernels.
        timeouts: the phases of each kernel's life.
        restart: the policy for kernels that die; None means no restarts.

    Attributes:
        counts: the numbers of kernels and requests, by outcome; see ``KernelPool``.
        deaths: the number of deaths by cause, including those followed by a restart.
        lost: the latest kernels that died and were not restarted, oldest first.
    """

    def __init__(
        self, plan: Plan, launcher: Launcher, timeouts: Timeouts, restart: RestartPolicy | None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.deaths: Counter[DeathCause] = Counter()
        self.lost: deque[LostKernel] = deque(maxlen=_MOST_LOST)
        self._plan = plan
        self._launcher = launcher
        self._timeouts = timeouts
        self._restart = restart
        self._kernels = KernelTable()
        self._busy: OrderedDict[int, None] = OrderedDict()  # slots; examined last: last
        self._ends: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._requests: dict[int, _Request] = {}
        self._tasks: TaskGroup | None = None
        self._alarm = Bell()
        self._alarm_at = 0.0
        self._look_at = 0.0

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Executor]:
        async with background_tasks() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._keep_time)
            try:
                yield self
            finally:
                self._tasks = None
                for request in self._requests.values():
                    request.managed.fail(PoolError("the pool was closed during this request"))

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a kernel."""
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
    ) -> AsyncGenerator[tuple[ManagedKernel, Kernel]]:
        """Yield a lease's kernel, ready, and hold the kernel for the block; see ``KernelPool.get``.

        With *used*, the end of the block counts as a use of the kernel.
        """
        with self._request(lease, wait, start, replaces, used) as request:
            managed = await request.managed.wait()
            yield managed, await managed.ready.wait()

    @contextmanager
    def connected(self, managed: ManagedKernel) -> Generator[None]:
        """Count a client as connected to a kernel during the block."""
        self._plan.connected(managed.number, anyio.current_time())
        try:
            yield
        finally:
            self._plan.disconnected(managed.number, anyio.current_time())
            self._update()

    def find(self, lease: Lease) -> ManagedKernel | None:
        """Return a lease's kernel, which may still be starting; None without a kernel."""
        number = self._plan.slot_of(lease)
        return None if number is None else self._kernels[number]

    async def end(self, managed: ManagedKernel) -> None:
        """End a kernel at its user's request; return when the kernel has ended completely."""
        self._end(managed, "released")
        self._update()
        await managed.gone.wait()

    async def end_all(self) -> None:
        """End all kernels, even those that would outlive the pool; return when they have ended."""
        ending = list(self._kernels)
        for managed in ending:
            self._end(managed, "released")
        self._update()
        for managed in ending:
            await managed.gone.wait()

    def describe(
        self, user: str | None = None, *, kernel_id: str | None = None
    ) -> Iterator[PooledKernel]:
        """Describe the kernels that are not being ended, in the order of their starts.

        Args:
            user: only kernels of this user; None means all users.
            kernel_id: only kernels with this id; None means any id.
        """
        slots = self._plan.slots if user is None else self._plan.slots_of(user)
        for number in slots if kernel_id is None else self._kernels.with_id(kernel_id):
            slot = slots.get(number)
            if slot is not None and slot.phase is not Phase.ENDING:
                yield self._kernels[number].describe(slot.connections, slot.scheduled_end)

    @contextmanager
    def _request(
        self, lease: Lease, wait: bool, start: StartOptions, replaces: Lease | None, used: bool
    ) -> Generator[_Request]:
        """Request a lease's kernel; the kernel is not evicted during the block."""
        if self._tasks is None:
            raise PoolError("the pool is not open: use it inside `async with KernelPool() as pool`")
        self._check_type(lease, start.get("kernel_type"))
        if (cwd := start.get("cwd")) is not None:
            start = {**start, "cwd": os.fspath(cwd)}  # raises TypeError for this caller alone
        if not wait and self._plan.crowded and self.find(lease) is None:
            self._look_at_busy(_MOST_LOOKS)  # one of them may be idle by now
        limits = start.get("lease_limits")
        ticket = self._plan.ask(lease, wait=wait, replaces=replaces, limits=limits)
        request = self._requests[ticket] = _Request(lease, start, Waiter[ManagedKernel]())
        try:
            self._update()
            yield request
        finally:
            del self._requests[ticket]
            self._plan.leave(ticket, anyio.current_time(), used=used)
            self._update()

    def _check_type(self, lease: Lease, wanted: str | None) -> None:
        """Refuse a request for another kernel type than that of the existing kernel."""
        managed, ticket = self.find(lease), self._plan.first_ticket(lease)
        if managed is not None:
            kernel_type = managed.kernel_type
        elif ticket is not None:
            kernel_type = self._launcher.kernel_type(self._requests[ticket].start)
        else:
            return
        if wanted not in (None, kernel_type):
            raise PoolError(
                f"kernel {lease.name!r} of {lease.user!r} has the type {kernel_type!r}, not "
                f"{wanted!r}: release it first, or use another name"
            )

    def _update(self) -> None:
        """Begin the actions that follow from the facts reported to the plan."""
        if self._tasks is None:
            return  # the pool is closing
        for action in self._plan.decide(anyio.current_time(), self._look):
            self._perform(action, self._tasks)
        self._arm()

    def _look(self, number: int) -> None:
        """Report the present state of a kernel to the plan: not every change causes a message."""
        self._kernels[number].look()
        self._report(self._kernels[number])

    def _look_at_busy(self, most: int | None = None) -> None:
        for number in list(islice(self._busy, most)):
            self._busy.move_to_end(number)
            self._look(number)

    def _note_change(self, managed: ManagedKernel) -> None:
        """React to a change of one kernel; this is the only frequent call."""
        self._report(managed)
        if managed.dead or (self._plan.has_unserved and not managed.busy):
            self._update()
        else:
            self._arm()

    def _report(self, managed: ManagedKernel) -> None:
        if managed.dead:
            self._end(managed, "lost")
        elif managed.running:
            if managed.busy:
                self._busy.setdefault(managed.number)
            else:
                self._busy.pop(managed.number, None)
            self._plan.started(managed.number, managed.ready_at)
            self._plan.busy(managed.number, managed.busy)
            self._plan.used(managed.number, managed.active_at)

    def _perform(self, action: Action, tasks: TaskGroup) -> None:
        match action:
            case Start(number, lease, ticket):
                self._start(number, lease, self._requests[ticket].start, tasks)
            case HandOver(ticket, number):
                self._requests[ticket].managed.set(self._kernels[number])
            case Evict(number):
                self._end(self._kernels[number], "evicted")
            case Replace(number):
                self._end(self._kernels[number], "released")
            case Cull(number):
                self._end(self._kernels[number], "culled")
            case Expire(number):
                self._end(self._kernels[number], "expired")
            case RefuseFull(ticket, waiting):
                self._refuse(ticket, "full", _full(self._plan.limits.max_kernels, waiting))
            case RefuseQuota(ticket):
                _, start, *_ = request = self._requests[ticket]
                limits = start.get("lease_limits") or self._plan.limits
                message = _beyond_quota(limits.max_per_user, request.lease.user)
                self._refuse(ticket, "quota", message)

    def _kind(self, start: StartOptions) -> Callable[..., ManagedKernel]:
        """Return the class of a new kernel."""
        return ManagedKernel

    def _start(self, number: int, lease: Lease, start: StartOptions, tasks: TaskGroup) -> None:
        kernel_id = start.get("kernel_id") or str(uuid.uuid4())
        managed = self._kind(start)(
            number,
            lease,
            self._launcher.kernel_type(start),
            kernel_id=kernel_id,
            counts=self.counts,
            deaths=self.deaths,
            on_change=self._note_change,
            previous_end=self._ends.get((lease.user, kernel_id)),
        )
        self._kernels.add(managed)
        self.counts["started"] += 1
        tasks.start_soon(self._serve, managed, start)

    def _end(self, managed: ManagedKernel, why: str) -> None:
        if not managed.ending:
            with managed.logged():
                logger.info("ending the %s: %s", managed, why)
            self.counts[why] += 1
            self._remember_end(managed, why)
            if why == "lost" and (loss := managed.describe_loss()):
                self.lost.append(loss)
            self._plan.end(managed.number)
            managed.end(ClientClosed(f"the {managed} was {_REASONS[why]}", ended=why))

    def _remember_end(self, managed: ManagedKernel, why: str) -> None:
        if managed.running:
            died = f"the kernel died: {managed.last_death or 'it could not be restarted'}"
            self._ends[managed.lease.user, managed.kernel_id] = _ENDS.get(why, died)
            if len(self._ends) > _MOST_ENDS:
                self._ends.popitem(last=False)

    def _refuse(self, ticket: int, why: str, error: PoolError) -> None:
        self.counts["refused"] += 1
        self.counts[why] += 1
        self._requests[ticket].managed.fail(error)

    async def _serve(self, managed: ManagedKernel, start: StartOptions) -> None:
        launch, cwd = self._launcher.launch(start)
        try:
            with managed.logged():
                await self._run(managed, launch, cwd)
        finally:
            self._plan.ended(managed.number)
            self._busy.pop(managed.number, None)
            self._kernels.remove(managed)
            self._update()

    async def _run(self, managed: ManagedKernel, launch: Launch, cwd: str | None) -> None:
        await managed.serve(launch, cwd, self._timeouts, self._restart)

    async def _keep_time(self) -> None:
        """Update when the next time limit of the plan is reached."""
        while True:
            self._alarm_at = self._next_look()
            with anyio.CancelScope(deadline=self._alarm_at) as waiting:
                await self._alarm.wait()
            if waiting.cancelled_caught:
                if self._busy and self._look_at <= anyio.current_time():
                    self._look_at = anyio.current_time() + _LOOK_AGAIN_SECONDS
                    self._look_at_busy()
                self._update()

    def _arm(self) -> None:
        """Wake ``_keep_time`` if the next time limit is now earlier."""
        if self._next_look() < self._alarm_at:
            self._alarm.ring()

    def _next_look(self) -> float:
        return min(self._plan.wake_at, self._look_at) if self._busy else self._plan.wake_at


def _full(limit: int, waiting: int) -> PoolFull:
    others = f"{waiting} ahead in the queue" if waiting else "none idle"
    return PoolFull(
        f"the pool is full ({limit} of {limit} kernels in use, {others}): try again later, wait "
        "with get(..., wait=True), or raise max_kernels",
        limit=limit,
    )


def _beyond_quota(limit: int, user: str) -> QuotaExceeded:
    kernels = "1 kernel" if limit == 1 else f"{limit} kernels"
    return QuotaExceeded(
        f"{user!r} already has the maximum of {kernels}: release one first, or raise max_per_user",
        limit=limit,
    )
