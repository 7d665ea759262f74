"""Plan: who has a kernel, who gets the next one, and whose is taken away. Pure.

Theory of operation
-------------------
A lease is one kernel of one user, under a name. The plan is told what happens, by one verb for each
fact, and ``decide`` says what is to be done about it, as a list of actions. Whoever performs them
tells the plan when they are done. The plan never waits, and ``now`` is an argument.

Every kernel has a place, from the decision to start it until its end is over. The number of places
is what the limits are about, so there are never more kernels than allowed, not even for a moment:

    Start --started--> RUNNING --Evict, Cull, or end()--> ENDING --ended--> no place
    STARTING --end()--> ENDING
    STARTING, RUNNING --ended--> no place       (it could not be started, or has crashed)

A place belongs to one lease for ever. The lease lets go of it when it is ENDING, and may have
another one once that is over. A user's kernels that are ENDING count for ``max_per_user`` as well.

Every request is a ticket. It waits in the line of its lease until there is a place, which it then
holds until it leaves: the kernel is not taken away before whoever has asked for it has it in hand.
Leases get places in the order in which they were asked for. Each lease in line is promised one of
the free places or of those that are ENDING; for the first one to which nothing is promised, the
kernel that has been idle longest is evicted. If there is none, those tickets are refused that do
not want to wait, and nobody behind goes first.

A ticket may name another lease of its user which it replaces. That one's kernel is ended, whatever
it does, once there is no other way; its place is promised to the ticket's lease, before the line.

A kernel is idle when it is RUNNING, neither busy nor connected, and no ticket holds it. What was
idle for a moment only may be between two executions, or was handed over and not used yet: requests
that wait leave it alone. Otherwise a long line would take each kernel away before it was of use.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import msgspec

# For how many seconds a kernel must have been idle before a request that waits may have its place.
SETTLED_SECONDS = 0.5


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What the kernels of a pool are limited to.

    Args:
        max_kernels: how many there may be, those that start and end included.
        max_per_user: how many of them each user may have.
        idle_timeout: after how many idle seconds a kernel is culled; None means never.
    """

    max_kernels: int = 50
    max_per_user: int = 1
    idle_timeout: float | None = 1800.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.max_kernels < 1 or self.max_per_user < 1:
            raise ValueError("a pool's max_kernels and max_per_user are 1 or more")
        if self.idle_timeout is not None and self.idle_timeout <= 0:
            raise ValueError("a pool's idle_timeout is a positive number of seconds, or None")


class Lease(msgspec.Struct, frozen=True):
    """One kernel of one user.

    Args:
        user: whose it is.
        name: which one of the user's.
    """

    user: str
    name: str


class Phase(StrEnum):
    """How far a kernel has come."""

    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"


@dataclass(slots=True)
class Place:
    """A kernel, as far as the plan knows it.

    Attributes:
        lease: whose it is.
        phase: how far it has come.
        busy: whether it works.
        connections: how many clients are connected to it.
        idle_since: when it was last used, if it is idle.
        tickets: the requests that it was handed over to and that have not left yet.
    """

    lease: Lease
    phase: Phase = Phase.STARTING
    busy: bool = False
    connections: int = 0
    idle_since: float = -math.inf
    tickets: set[int] = field(default_factory=set[int])

    @property
    def idle(self) -> bool:
        """Whether nobody uses it."""
        return (
            self.phase is Phase.RUNNING
            and not self.busy
            and not self.connections
            and not self.tickets
        )


class Start(msgspec.Struct, frozen=True):
    """Start a kernel for a lease, as that ticket wants it."""

    place: int
    lease: Lease
    ticket: int


class HandOver(msgspec.Struct, frozen=True):
    """Give a ticket its kernel, which may be starting still."""

    ticket: int
    place: int


class Evict(msgspec.Struct, frozen=True):
    """End an idle kernel, because somebody else needs its place."""

    place: int


class Replace(msgspec.Struct, frozen=True):
    """End a kernel, because its user would have another one in its place."""

    place: int


class Cull(msgspec.Struct, frozen=True):
    """End a kernel that was idle for too long."""

    place: int


class RefuseFull(msgspec.Struct, frozen=True):
    """Tell a ticket that there is no room, and that so many leases wait before it."""

    ticket: int
    waiting: int


class RefuseQuota(msgspec.Struct, frozen=True):
    """Tell a ticket that its user has as many kernels as allowed."""

    ticket: int


Action: TypeAlias = Start | HandOver | Evict | Replace | Cull | RefuseFull | RefuseQuota


class _Ticket(NamedTuple):
    wait: bool
    replaces: Lease | None


class Plan:
    """The kernels of a pool and the requests for them.

    A fact about a place that is ENDING or no more is ignored: it has come too late.

    Args:
        limits: what is allowed.

    Attributes:
        somebody_waits: whether there is a lease in line to which no place is promised.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.somebody_waits = False
        self._places: dict[int, Place] = {}
        self._leased: dict[Lease, int] = {}
        # Those that replace, then the others in the order of their first requests; each with its
        # tickets.
        self._line: dict[Lease, dict[int, _Ticket]] = {}
        self._held: dict[int, int] = {}
        self._new_ticket = itertools.count(1)
        self._new_place = itertools.count(1)

    @property
    def places(self) -> Mapping[int, Place]:
        """Every kernel there is, in the order in which they were started; to be read only."""
        return MappingProxyType(self._places)

    @property
    def wake_at(self) -> float:
        """When to ``decide`` again although nothing has happened; infinity means never."""
        delays: list[float] = []
        if self.limits.idle_timeout is not None:
            delays.append(self.limits.idle_timeout)
        if self.somebody_waits:
            delays.append(SETTLED_SECONDS)
        idle = [place.idle_since for place in self._places.values() if place.idle]
        return min(idle) + min(delays) if idle and delays else math.inf

    def place_of(self, lease: Lease) -> int | None:
        """Return the place of a lease's kernel, None where it has none."""
        return self._leased.get(lease)

    def ask(self, lease: Lease, *, wait: bool, replaces: Lease | None = None) -> int:
        """Ask for a lease's kernel; return the ticket.

        Args:
            lease: whose kernel.
            wait: whether to wait in line rather than to be refused when there is no room.
            replaces: a lease of the same user's whose kernel goes when there is no room for both.
        """
        ticket = next(self._new_ticket)
        self._line.setdefault(lease, {})[ticket] = _Ticket(wait, replaces)
        return ticket

    def leave(self, ticket: int, now: float) -> None:
        """The request is over: its kernel is in hand, or it has given up, or was refused."""
        number = self._held.pop(ticket, None)
        if number is None:
            self._leave_line(ticket)
        elif number in self._places:
            self._places[number].tickets.discard(ticket)
            self.used(number, now)

    def started(self, number: int, now: float) -> None:
        """A kernel that was to be started is there."""
        place = self._places.get(number)
        if place is not None and place.phase is Phase.STARTING:
            place.phase = Phase.RUNNING
            self.used(number, now)

    def busy(self, number: int, busy: bool) -> None:
        """A kernel works, or does not work any more."""
        if number in self._places:
            self._places[number].busy = busy

    def used(self, number: int, at: float) -> None:
        """A kernel was used at that time."""
        place = self._places.get(number)
        if place is not None:
            place.idle_since = max(place.idle_since, at)

    def connected(self, number: int) -> None:
        """One more client is connected to a kernel."""
        if number in self._places:
            self._places[number].connections += 1

    def disconnected(self, number: int, now: float) -> None:
        """One client less is connected to a kernel."""
        if number in self._places:
            self._places[number].connections -= 1
            self.used(number, now)

    def end(self, number: int) -> None:
        """A kernel is being ended, because its user wants it or because it has died for good."""
        place = self._places.get(number)
        if place is not None and place.phase is not Phase.ENDING:
            place.phase = Phase.ENDING
            del self._leased[place.lease]

    def ended(self, number: int) -> None:
        """Nothing is left of a kernel."""
        self.end(number)
        self._places.pop(number, None)

    def decide(self, now: float) -> list[Action]:
        """Return what is to be done now; for the plan it is done already.

        Args:
            now: the time, in seconds on any clock that never goes back.
        """
        return [
            *self._hand_over(),
            *self._cull(now),
            *self._hold_to_quota(),
            *self._serve_line(now),
        ]

    def _hand_over(self) -> Iterator[Action]:
        """Let the tickets for a kernel that is there have it."""
        for lease in [lease for lease in self._line if lease in self._leased]:
            number = self._leased[lease]
            for ticket in self._line.pop(lease):
                self._held[ticket] = number
                self._places[number].tickets.add(ticket)
                yield HandOver(ticket, number)

    def _cull(self, now: float) -> Iterator[Action]:
        if self.limits.idle_timeout is None:
            return
        for number in self._idle(now, self.limits.idle_timeout):
            self.end(number)
            yield Cull(number)

    def _hold_to_quota(self) -> Iterator[Action]:
        """Refuse the leases that are one too many for their user."""
        kernels = Counter(lease.user for lease in self._leased)
        for lease in list(self._line):
            if kernels[lease.user] < self.limits.max_per_user:
                kernels[lease.user] += 1
            elif (replace := self._replace(lease)) is not None:
                yield replace
            else:
                yield from map(RefuseQuota, self._line.pop(lease))

    def _serve_line(self, now: float) -> Iterator[Action]:
        """Start what can be started, make room for what cannot, refuse what will not wait."""
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
        self._places[number] = Place(lease)
        self._leased[lease] = number
        return Start(number, lease, next(iter(self._line[lease])))

    def _replace(self, lease: Lease) -> Action | None:
        """Promise a lease the place of a kernel that is given up for it, if there is one."""
        for ticket in self._line[lease].values():
            number = None if ticket.replaces is None else self._leased.get(ticket.replaces)
            if number is not None:
                self.end(number)
                self._line = {lease: self._line[lease], **self._line}  # nobody has less by that
                return Replace(number)
        return None

    def _may_start(self, lease: Lease) -> bool:
        """Whether nothing that is still ENDING is in the way of a lease."""
        user = [p.lease for p in self._places.values() if p.lease.user == lease.user]
        return lease not in user and len(user) < self.limits.max_per_user

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
        """Return the kernels that have been idle for so long, longest first."""
        idle = [
            number
            for number, place in self._places.items()
            if place.idle and place.idle_since + seconds <= now
        ]
        return sorted(idle, key=lambda number: self._places[number].idle_since)
