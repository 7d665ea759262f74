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

from kernelproto.pool.places import Lease, Phase, Place
from kernelproto.pool.plan import (
    SETTLED_SECONDS,
    Action,
    Cull,
    Evict,
    Expire,
    HandOver,
    LeaseLimits,
    Limits,
    RefuseFull,
    RefuseQuota,
    Replace,
    Start,
)
from kernelproto.pool.queue import Ticket


class ScanningPlan:
    """What ``Plan`` decides, in O(n)."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.somebody_waits = False
        self._places: dict[int, Place] = {}
        self._leased: dict[Lease, int] = {}
        # Those that replace, then the others in the order of their first requests; each with its
        # tickets.
        self._line: dict[Lease, dict[int, Ticket]] = {}
        self._held: dict[int, int] = {}
        self._new_ticket = itertools.count(1)
        self._new_place = itertools.count(1)

    @property
    def places(self) -> Mapping[int, Place]:
        return MappingProxyType(self._places)

    @property
    def wake_at(self) -> float:
        places = self._places.values()
        times = [t for place in places for t in (self._cull_at(place), self._expire_at(place))]
        if self.somebody_waits:
            times += [place.idle_since + SETTLED_SECONDS for place in places if place.idle]
        return min(times, default=math.inf)

    def place_of(self, lease: Lease) -> int | None:
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
        self._line.setdefault(lease, {})[ticket] = Ticket(wait, replaces, limits or self.limits)
        return ticket

    def leave(self, ticket: int, now: float, *, used: bool = True) -> None:
        number = self._held.pop(ticket, None)
        if number is None:
            self._leave_line(ticket)
        elif number in self._places:
            self._places[number].tickets.discard(ticket)
            if used:
                self.used(number, now)

    def started(self, number: int, now: float) -> None:
        place = self._places.get(number)
        if place is not None and place.phase is Phase.STARTING:
            place.phase = Phase.RUNNING
            place.started_at = now
            self.used(number, now)

    def busy(self, number: int, busy: bool) -> None:
        if number in self._places:
            self._places[number].busy = busy

    def used(self, number: int, at: float) -> None:
        place = self._places.get(number)
        if place is not None:
            place.idle_since = max(place.idle_since, at)

    def connected(self, number: int, now: float) -> None:
        place = self._places.get(number)
        if place is not None:
            place.connected_at = now if not place.connections else place.connected_at
            place.connections += 1

    def disconnected(self, number: int, now: float) -> None:
        place = self._places.get(number)
        if place is not None:
            place.connections -= 1
            if not place.connections and not place.limits.cull_connected:
                place.idle_since += max(0, now - max(place.connected_at, place.idle_since))

    def end(self, number: int) -> None:
        place = self._places.get(number)
        if place is not None and place.phase is not Phase.ENDING:
            place.phase = Phase.ENDING
            del self._leased[place.lease]

    def ended(self, number: int) -> None:
        self.end(number)
        self._places.pop(number, None)

    def decide(self, now: float) -> list[Action]:
        return [
            *self._expire(now),
            *self._hand_over(),
            *self._cull(now),
            *self._hold_to_quota(),
            *self._serve_line(now),
        ]

    def _hand_over(self) -> Iterator[Action]:
        for lease in [lease for lease in self._line if lease in self._leased]:
            number = self._leased[lease]
            for ticket in self._line.pop(lease):
                self._held[ticket] = number
                self._places[number].tickets.add(ticket)
                yield HandOver(ticket, number)

    def _expire(self, now: float) -> Iterator[Action]:
        times = [(self._expire_at(place), number) for number, place in self._places.items()]
        for time, number in sorted(times):
            if time <= now:
                self.end(number)
                yield Expire(number)

    def _cull(self, now: float) -> Iterator[Action]:
        times = [(self._cull_at(place), number) for number, place in self._places.items()]
        for time, number in sorted(times):
            if time <= now:
                self.end(number)
                yield Cull(number)

    def _expire_at(self, place: Place) -> float:
        max_age = place.limits.max_age
        runs = place.phase is Phase.RUNNING
        return place.started_at + max_age if runs and max_age is not None else math.inf

    def _cull_at(self, place: Place) -> float:
        timeout = place.limits.idle_timeout
        used = place.busy or place.tickets or place.phase is not Phase.RUNNING
        connected = place.connections and not place.limits.cull_connected
        return math.inf if used or connected or timeout is None else place.idle_since + timeout

    def _hold_to_quota(self) -> Iterator[Action]:
        kernels = Counter(lease.user for lease in self._leased)
        for lease in list(self._line):
            if kernels[lease.user] < self._limits(lease).max_per_user:
                kernels[lease.user] += 1
            elif (replace := self._replace(lease)) is not None:
                yield replace
            else:
                yield from map(RefuseQuota, self._line.pop(lease))

    def _serve_line(self, now: float) -> Iterator[Action]:
        free = self.limits.max_kernels - len(self._places)
        promised = free + sum(p.phase is Phase.ENDING for p in self._places.values())
        unserved = 0
        for lease in list(self._line):
            if not promised and not unserved:
                patient = all(ticket.wait for ticket in self._line[lease].values())
                for victim in self._idle(now, SETTLED_SECONDS if patient else 0)[:1]:
                    self.end(victim)
                    promised += 1
                    yield Evict(victim)
            if not promised and (replace := self._replace(lease)) is not None:
                promised += 1
                yield replace
            if not promised:
                yield from self._refuse_impatient(lease, unserved)
                unserved += lease in self._line
                continue
            promised -= 1
            if free and self._may_start(lease):
                free -= 1
                yield self._start(lease)
                yield from self._hand_over()
        self.somebody_waits = bool(unserved)

    def _start(self, lease: Lease) -> Action:
        number = next(self._new_place)
        self._places[number] = Place(lease, self._limits(lease))
        self._leased[lease] = number
        return Start(number, lease, next(iter(self._line[lease])))

    def _replace(self, lease: Lease) -> Action | None:
        for ticket in self._line[lease].values():
            number = None if ticket.replaces is None else self._leased.get(ticket.replaces)
            if number is not None:
                self.end(number)
                self._line = {lease: self._line[lease], **self._line}  # nobody has less by that
                return Replace(number)
        return None

    def _may_start(self, lease: Lease) -> bool:
        user = [p.lease for p in self._places.values() if p.lease.user == lease.user]
        ending = len(user) > sum(leased.user == lease.user for leased in self._leased)
        has_room = len(user) < self._limits(lease).max_per_user
        return lease not in user and (has_room or not ending)

    def _limits(self, lease: Lease) -> LeaseLimits:
        return next(iter(self._line[lease].values())).limits

    def _refuse_impatient(self, lease: Lease, waiting: int) -> Iterator[Action]:
        impatient = [number for number, ticket in self._line[lease].items() if not ticket.wait]
        for ticket in impatient:
            self._leave_line(ticket)
            yield RefuseFull(ticket, waiting)

    def _leave_line(self, ticket: int) -> None:
        for lease, tickets in self._line.items():
            if tickets.pop(ticket, None) is not None:
                if not tickets:
                    del self._line[lease]
                return

    def _idle(self, now: float, seconds: float) -> list[int]:
        idle = [
            number
            for number, place in self._places.items()
            if place.idle and place.idle_since + seconds <= now
        ]
        return sorted(idle, key=lambda number: self._places[number].idle_since)
