"""Plan: decides which kernels of a pool are started, handed over, evicted and ended. Pure.

Theory of operation
-------------------
A lease is one kernel of one user, under a name. The caller reports each fact to the plan, with one
method per fact. ``decide`` returns the actions that follow. The caller performs them and reports
when they are done. The plan never waits, and ``now`` is an argument.

Every kernel occupies a slot, from the decision about the start until the complete end. The limits
count slots, so the pool never exceeds them, not even for a moment:

    Start --started--> RUNNING --Evict, Cull, or end()--> ENDING --ended--> no slot
    STARTING --end()--> ENDING
    STARTING, RUNNING --ended--> no slot       (it could not be started, or has crashed)

A slot belongs to one lease for its whole life. While the slot is ENDING the lease has no kernel;
the lease may get another slot when the first slot is free. ENDING kernels still count for
``max_per_user``.

Every request is a ticket. A ticket waits in the queue under its lease until the lease has a slot.
The ticket then holds the kernel until the request leaves, so a kernel is never evicted before the
caller has received the kernel. Leases get slots in the order of their first tickets. Each free or
ENDING slot is reserved for one queued lease. For the oldest lease without a reservation, the plan
evicts the kernel that has been idle longest. If no kernel is idle, the plan refuses the tickets
that do not wait, and no younger lease overtakes.

A ticket may replace another lease of its user. As the last resort, the plan ends that lease's
kernel, even a busy one, and reserves the slot for the ticket's lease, first of all.

A kernel is idle when it is RUNNING, is neither busy nor connected, and no ticket holds it. An
unreachable kernel is reported as busy, and so neither evicted nor culled. A kernel that became idle
a moment ago may be between two executions, or not used yet after being handed over. Waiting tickets
do not evict such a kernel; otherwise a long queue would evict each kernel unused.

Each use of a kernel resets its idle time. A connected client stops the clock, and a disconnect
continues it, so a client that only reconnects does not keep a kernel alive. With
``cull_connected`` clients do not stop the clock, and a connected kernel may be culled but not
evicted. A kernel that reaches its ``max_age`` is ended in any state. Each ticket carries the limits
of its kernel and its user.

A decision costs O(1), or O(log n) where idle kernels or reserved leases are ordered. A decision
visits the new requests, the reserved leases that get a kernel, the oldest unserved lease, and each
kernel to be ended, but no other kernel and no other lease. ``SlotTable`` keeps the counts and
orders of kernels, ``Queue`` those of leases.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping

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
from kernelproto.pool.limits import LeaseLimits, PoolLimits
from kernelproto.pool.queue import Queue, QueuedLease, Ticket
from kernelproto.pool.slots import Lease, Slot, SlotHeap, SlotTable

# A ticket that waits evicts a kernel only after so many idle seconds.
SETTLED_SECONDS = 0.5


def _up_to_date(number: int) -> None:
    """Do nothing: the caller has reported all facts about the kernel."""


class Plan:
    """The kernels of a pool and the requests for them.

    Late facts, about a slot that is ENDING or gone, are ignored.

    Args:
        limits: the limits of the pool.

    Attributes:
        elsewhere: the number of kernels of other programs that count towards the limits.
        is_suspended: whether no kernel is culled, expires or is evicted for others now.
        started: reports that a kernel is ready.
        busy: reports whether a kernel works.
        used: reports the time of a use of a kernel, which resets its idle time.
        connected: reports that a client has connected to a kernel.
        disconnected: reports that a client has disconnected from a kernel.
        end: reports that a kernel is being ended, by the user or after a death.
    """

    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self.elsewhere = 0
        self.is_suspended = False
        self._slots = slots = SlotTable()
        self._queue = Queue()
        self._held: dict[int, int] = {}
        self._new_ticket = itertools.count(1)
        # These facts concern one slot only.
        self.started = slots.started
        self.busy = slots.busy
        self.used = slots.used
        self.connected = slots.connected
        self.disconnected = slots.disconnected
        self.end = slots.end

    @property
    def slots(self) -> Mapping[int, Slot]:
        """Every kernel, in the order of their starts; read-only."""
        return self._slots.all

    @property
    def has_unserved(self) -> bool:
        """Whether a queued lease has no reserved slot."""
        return bool(self._queue.unserved)

    @property
    def waiting(self) -> int:
        """The number of tickets in the queue."""
        return len(self._queue)

    @property
    def crowded(self) -> bool:
        """Whether the pool has neither a free slot nor an idle kernel."""
        full = len(self._slots) + self.elsewhere >= self.limits.max_kernels
        return full and self._slots.idle.first() is None

    @property
    def wake_at(self) -> float:
        """When to call ``decide`` again even without a new fact; infinity means never."""
        times = [math.inf]
        if not self.is_suspended:
            times += self._slots.culling.first_time(), self._slots.expiring.first_time()
        if self.has_unserved:
            times.append(self._slots.idle.first_time() + SETTLED_SECONDS)
        return min(times)

    def slots_of(self, user: str) -> Mapping[int, Slot]:
        """Return a user's kernels, in the order of their starts; read-only."""
        return self._slots.of_user(user)

    def slot_of(self, lease: Lease) -> int | None:
        """Return the slot of a lease's kernel; None if the lease has none."""
        return self._slots.leased.get(lease)

    def first_ticket(self, lease: Lease) -> int | None:
        """Return the oldest queued ticket of a lease; None if the lease has none."""
        return self._queue.first_ticket(lease)

    def ask(
        self,
        lease: Lease,
        *,
        wait: bool,
        replaces: Lease | None = None,
        limits: LeaseLimits | None = None,
    ) -> int:
        """Request a lease's kernel; return the ticket.

        Args:
            lease: the lease.
            wait: whether the request waits in the queue instead of being refused.
            replaces: a lease of the same user whose kernel is ended if the pool cannot hold both.
            limits: the limits of the user, and of the kernel if this request starts one; None means
                the limits of the plan.
        """
        number = next(self._new_ticket)
        self._queue.join(number, lease, Ticket(wait, replaces, limits or self.limits))
        return number

    def ended(self, number: int) -> None:
        """Report that a kernel has ended completely."""
        slot = self._slots.all.get(number)
        if slot is not None:
            self._slots.ended(number)
            self._queue.unblock(slot.lease.user)

    def restore(self, lease: Lease, limits: LeaseLimits | None = None) -> int:
        """Give a slot to a kernel that outlived its pool; return the number of the slot.

        *limits* are those of the kernel and the user, by default those of the plan. The kernel
        counts as starting until ``started`` is called. There may be more kernels to restore than
        the limits allow: all of them get slots, and no other lease gets one until enough of them
        have ended.
        """
        return self._slots.take(lease, limits or self.limits)

    def leave(self, ticket: int, now: float, *, used: bool = True) -> None:
        """Report the end of a request, which has a kernel, was cancelled, or was refused.

        Args:
            ticket: the ticket of the request.
            now: the current time.
            used: whether the request counts as a use of the kernel.
        """
        number = self._held.pop(ticket, None)
        if number is None:
            self._queue.leave(ticket)
        else:
            if used:
                self._slots.used(number, now)
            self._slots.drop_ticket(number, ticket)

    def evict(self, now: float, look: Callable[[int], object] = _up_to_date) -> Evict | None:
        """Return the eviction of the kernel that has been idle longest, for another program.

        Like a waiting ticket, the other program evicts no kernel that became idle a moment ago.

        Args:
            now: as for ``decide``.
            look: as for ``decide``.

        Returns:
            The action; None if no kernel is idle, or the plan is suspended.
        """
        if self.is_suspended:
            return None
        victim = self._due(self._slots.idle, now, look, SETTLED_SECONDS)
        if victim is None:
            return None
        self.end(victim)
        return Evict(victim)

    def decide(self, now: float, look: Callable[[int], object] = _up_to_date) -> list[Action]:
        """Return the actions to perform now; the plan already counts them as done.

        Args:
            now: the current time, in seconds on any monotonic clock.
            look: called with the slot of each idle kernel before the plan ends the kernel. The
                function reports the newest facts about the kernel to the plan, which keeps a kernel
                in use.
        """
        new = self._queue.take_new()
        return [
            *([] if self.is_suspended else self._expire(now)),
            *self._hand_over(new),
            *([] if self.is_suspended else self._cull(now, look)),
            *self._admit(new),
            *self._serve_queue(now, look),
        ]

    def _expire(self, now: float) -> Iterator[Action]:
        while (number := self._slots.expiring.first()) is not None:
            if self._slots.expiring.time(number) > now:
                break
            self.end(number)
            yield Expire(number)

    def _hand_over(self, new: list[QueuedLease]) -> Iterator[Action]:
        """Hand existing kernels to their new tickets."""
        for queued in new:
            if queued.lease in self._slots.leased:
                yield from self._give(queued)

    def _cull(self, now: float, look: Callable[[int], object]) -> Iterator[Action]:
        while (number := self._due(self._slots.culling, now, look)) is not None:
            self.end(number)
            yield Cull(number)

    def _admit(self, new: list[QueuedLease]) -> Iterator[Action]:
        """Refuse new leases that exceed their user's quota."""
        for queued in new:
            if not queued.tickets:
                continue  # the tickets have their kernel
            user = queued.lease.user
            kernels = self._slots.leased_by(user) + self._queue.of_user(user)
            if kernels < queued.limits.max_per_user:
                self._queue.add_unserved(queued)
            elif (replace := self._replace(queued)) is not None:
                yield replace
            else:
                yield from map(RefuseQuota, self._queue.take(queued.lease))

    def _serve_queue(self, now: float, look: Callable[[int], object]) -> Iterator[Action]:
        """Start kernels for queued leases, evict for them, refuse tickets that do not wait."""
        while self._free and (queued := self._queue.startable()) is not None:
            if self._is_blocked(queued):
                self._queue.block(queued)
            else:
                yield from self._start(queued)
        while (first := self._queue.first()) is not None:
            yield from self._serve(first, now, look)
            if first is self._queue.first():
                break  # this lease and all younger ones wait
        for queued in self._queue.due():
            yield from self._serve(queued, now, look)

    def _serve(
        self, queued: QueuedLease, now: float, look: Callable[[int], object]
    ) -> Iterator[Action]:
        """Reserve a slot for an unserved lease; without a slot refuse tickets that do not wait."""
        first = queued is self._queue.first()
        if first and not self._unreserved:
            seconds = SETTLED_SECONDS if queued.patient else 0
            if (victim := self._due(self._slots.idle, now, look, seconds)) is not None:
                self.end(victim)
                yield Evict(victim)
        if first and self._unreserved:
            self._queue.reserve(queued)
        elif (replace := self._replace(queued)) is not None:
            yield replace
        else:
            yield from self._refuse_impatient(queued)
            return
        if self._free and not self._is_blocked(queued):
            yield from self._start(queued)

    @property
    def _free(self) -> int:
        return max(0, self.limits.max_kernels - self.elsewhere - len(self._slots))

    @property
    def _unreserved(self) -> int:
        """The number of free or ENDING slots that are not reserved."""
        taken = len(self._slots.leased) + len(self._queue.reserved)
        return max(0, self.limits.max_kernels - self.elsewhere - taken)

    def _is_blocked(self, queued: QueuedLease) -> bool:
        """Return whether a lease waits for the end of an ENDING kernel of the same user."""
        user, most = queued.lease.user, queued.limits.max_per_user
        of_user = len(self._slots.of_user(user))
        if of_user >= most and of_user > self._slots.leased_by(user):
            return True
        return self._slots.holds(queued.lease)

    def _start(self, queued: QueuedLease) -> Iterator[Action]:
        """Start the kernel of a lease with a reservation, in a free slot."""
        lease = queued.lease
        yield Start(self._slots.take(lease, queued.limits), lease, next(iter(queued.tickets)))
        yield from self._give(queued)
        self._queue.kernel_started(lease)

    def _give(self, queued: QueuedLease) -> Iterator[Action]:
        number = self._slots.leased[queued.lease]
        for ticket in self._queue.take(queued.lease):
            self._held[ticket] = number
            self._slots.add_ticket(number, ticket)
            yield HandOver(ticket, number)

    def _replace(self, queued: QueuedLease) -> Action | None:
        """Reserve the slot of the kernel that a ticket of the lease replaces, if there is one."""
        for ticket in queued.replacing.values():
            number = None if ticket.replaces is None else self.slot_of(ticket.replaces)
            if number is not None:
                self.end(number)
                self._queue.reserve(queued, first=True)  # this takes no slot from another lease
                return Replace(number)
        return None

    def _refuse_impatient(self, queued: QueuedLease) -> Iterator[Action]:
        impatient = list(queued.impatient)
        before = self._queue.before(queued) if impatient else 0
        for number in impatient:
            self._queue.leave(number)
            yield RefuseFull(number, before)

    def _due(
        self, order: SlotHeap, now: float, look: Callable[[int], object], seconds: float = 0
    ) -> int | None:
        """Return the first kernel whose time was *seconds* ago, even after ``look``."""
        while (number := order.first()) is not None:
            time = order.time(number)
            if time + seconds > now:
                break
            look(number)
            if order.time(number) == time:
                return number
        return None
