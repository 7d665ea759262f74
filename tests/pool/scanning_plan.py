"""A plan that makes the same decisions by looking through everything it knows, each time.

It keeps no counts, indexes or queues, so it is slow, and can be checked by reading. The plan of the
pool is compared with it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

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
from kernelproto.pool.plan import SETTLED_SECONDS
from kernelproto.pool.queue import Ticket
from kernelproto.pool.slots import Lease, Phase, Slot


class ScanningPlan:
    """What ``Plan`` decides, in O(n)."""

    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self.has_unserved = False
        self._slots: dict[int, Slot] = {}
        self._leased: dict[Lease, int] = {}
        # Those that replace, then the others in the order of their first requests; each with its
        # tickets.
        self._queue: dict[Lease, dict[int, Ticket]] = {}
        self._held: dict[int, int] = {}
        self._new_ticket = itertools.count(1)
        self._new_slot = itertools.count(1)

    @property
    def slots(self) -> Mapping[int, Slot]:
        return MappingProxyType(self._slots)

    @property
    def wake_at(self) -> float:
        slots = self._slots.values()
        times = [t for slot in slots for t in (self._cull_at(slot), self._expire_at(slot))]
        if self.has_unserved:
            times += [slot.idle_since + SETTLED_SECONDS for slot in slots if slot.idle]
        return min(times, default=math.inf)

    def slot_of(self, lease: Lease) -> int | None:
        return self._leased.get(lease)

    def ask(
        self,
        lease: Lease,
        *,
        wait: bool,
        replaces: Lease | None = None,
        limits: LeaseLimits | None = None,
    ) -> int:
        ticket = next(self._new_ticket)
        self._queue.setdefault(lease, {})[ticket] = Ticket(wait, replaces, limits or self.limits)
        return ticket

    def leave(self, ticket: int, now: float, *, used: bool = True) -> None:
        number = self._held.pop(ticket, None)
        if number is None:
            self._leave_queue(ticket)
        elif number in self._slots:
            self._slots[number].tickets.discard(ticket)
            if used:
                self.used(number, now)

    def started(self, number: int, now: float) -> None:
        slot = self._slots.get(number)
        if slot is not None and slot.phase is Phase.STARTING:
            slot.phase = Phase.RUNNING
            slot.started_at = now
            self.used(number, now)

    def busy(self, number: int, busy: bool) -> None:
        if number in self._slots:
            self._slots[number].busy = busy

    def used(self, number: int, at: float) -> None:
        slot = self._slots.get(number)
        if slot is not None:
            slot.idle_since = max(slot.idle_since, at)

    def connected(self, number: int, now: float) -> None:
        slot = self._slots.get(number)
        if slot is not None:
            slot.connected_at = now if not slot.connections else slot.connected_at
            slot.connections += 1

    def disconnected(self, number: int, now: float) -> None:
        slot = self._slots.get(number)
        if slot is not None:
            slot.connections -= 1
            if not slot.connections and not slot.limits.cull_connected:
                slot.idle_since += max(0, now - max(slot.connected_at, slot.idle_since))

    def end(self, number: int) -> None:
        slot = self._slots.get(number)
        if slot is not None and slot.phase is not Phase.ENDING:
            slot.phase = Phase.ENDING
            del self._leased[slot.lease]

    def ended(self, number: int) -> None:
        self.end(number)
        self._slots.pop(number, None)

    def decide(self, now: float) -> list[Action]:
        return [
            *self._expire(now),
            *self._hand_over(),
            *self._cull(now),
            *self._hold_to_quota(),
            *self._serve_queue(now),
        ]

    def _hand_over(self) -> Iterator[Action]:
        for lease in [lease for lease in self._queue if lease in self._leased]:
            number = self._leased[lease]
            for ticket in self._queue.pop(lease):
                self._held[ticket] = number
                self._slots[number].tickets.add(ticket)
                yield HandOver(ticket, number)

    def _expire(self, now: float) -> Iterator[Action]:
        times = [(self._expire_at(slot), number) for number, slot in self._slots.items()]
        for time, number in sorted(times):
            if time <= now:
                self.end(number)
                yield Expire(number)

    def _cull(self, now: float) -> Iterator[Action]:
        times = [(self._cull_at(slot), number) for number, slot in self._slots.items()]
        for time, number in sorted(times):
            if time <= now:
                self.end(number)
                yield Cull(number)

    def _expire_at(self, slot: Slot) -> float:
        max_age = slot.limits.max_age
        runs = slot.phase is Phase.RUNNING
        return slot.started_at + max_age if runs and max_age is not None else math.inf

    def _cull_at(self, slot: Slot) -> float:
        timeout = slot.limits.idle_timeout
        used = slot.busy or slot.tickets or slot.phase is not Phase.RUNNING
        connected = slot.connections and not slot.limits.cull_connected
        return math.inf if used or connected or timeout is None else slot.idle_since + timeout

    def _hold_to_quota(self) -> Iterator[Action]:
        kernels = Counter(lease.user for lease in self._leased)
        for lease in list(self._queue):
            if kernels[lease.user] < self._limits(lease).max_per_user:
                kernels[lease.user] += 1
            elif (replace := self._replace(lease)) is not None:
                yield replace
            else:
                yield from map(RefuseQuota, self._queue.pop(lease))

    def evict(self, now: float) -> Evict | None:
        for victim in self._idle(now, SETTLED_SECONDS)[:1]:
            self.end(victim)
            return Evict(victim)
        return None

    def _serve_queue(self, now: float) -> Iterator[Action]:
        free = self.limits.max_kernels - len(self._slots)
        reserved = free + sum(p.phase is Phase.ENDING for p in self._slots.values())
        unserved = 0
        for lease in list(self._queue):
            if not reserved and not unserved:
                patient = all(ticket.wait for ticket in self._queue[lease].values())
                for victim in self._idle(now, SETTLED_SECONDS if patient else 0)[:1]:
                    self.end(victim)
                    reserved += 1
                    yield Evict(victim)
            if not reserved and (replace := self._replace(lease)) is not None:
                reserved += 1
                yield replace
            if not reserved:
                yield from self._refuse_impatient(lease, unserved)
                unserved += lease in self._queue
                continue
            reserved -= 1
            if free and self._may_start(lease):
                free -= 1
                yield self._start(lease)
                yield from self._hand_over()
        self.has_unserved = bool(unserved)

    def _start(self, lease: Lease) -> Action:
        number = next(self._new_slot)
        self._slots[number] = Slot(lease, self._limits(lease))
        self._leased[lease] = number
        return Start(number, lease, next(iter(self._queue[lease])))

    def _replace(self, lease: Lease) -> Action | None:
        for ticket in self._queue[lease].values():
            number = None if ticket.replaces is None else self._leased.get(ticket.replaces)
            if number is not None:
                self.end(number)
                self._queue = {
                    lease: self._queue[lease],
                    **self._queue,
                }  # takes no slot from another lease
                return Replace(number)
        return None

    def _may_start(self, lease: Lease) -> bool:
        user = [p.lease for p in self._slots.values() if p.lease.user == lease.user]
        ending = len(user) > sum(leased.user == lease.user for leased in self._leased)
        has_room = len(user) < self._limits(lease).max_per_user
        return lease not in user and (has_room or not ending)

    def _limits(self, lease: Lease) -> LeaseLimits:
        return next(iter(self._queue[lease].values())).limits

    def _refuse_impatient(self, lease: Lease, waiting: int) -> Iterator[Action]:
        impatient = [number for number, ticket in self._queue[lease].items() if not ticket.wait]
        for ticket in impatient:
            self._leave_queue(ticket)
            yield RefuseFull(ticket, waiting)

    def _leave_queue(self, ticket: int) -> None:
        for lease, tickets in self._queue.items():
            if tickets.pop(ticket, None) is not None:
                if not tickets:
                    del self._queue[lease]
                return

    def _idle(self, now: float, seconds: float) -> list[int]:
        idle = [
            number
            for number, slot in self._slots.items()
            if slot.idle and slot.idle_since + seconds <= now
        ]
        return sorted(idle, key=lambda number: self._slots[number].idle_since)
