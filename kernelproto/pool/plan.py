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

The idle time of a kernel begins anew when it is used. A connected client stops the clock, and a
disconnect lets it go on, so a client that only reconnects keeps no kernel for ever. With
``cull_connected`` clients do not stop the clock, and a connected kernel may be culled, but is not
evicted. A kernel that has its ``max_age`` is ended, whatever it does. Each ticket brings the limits
of its kernel and its user.

A decision costs O(1), or O(log n) where idle kernels are put in order. It visits the new requests,
the promised leases if a place is free, the first lease of the others, and each kernel that it ends,
but no other kernel and no other lease. ``Places`` keeps the counts and orders that a decision needs
of the kernels, and ``Line`` those of the leases.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import msgspec

from kernelproto.pool.limits import LeaseLimits, Limits
from kernelproto.pool.places import Lease, Order, Phase, Place, Places
from kernelproto.pool.queue import Line, Ticket, Waiting

__all__ = [
    "SETTLED_SECONDS",
    "Action",
    "Cull",
    "Evict",
    "Expire",
    "HandOver",
    "Lease",
    "LeaseLimits",
    "Limits",
    "Phase",
    "Place",
    "Plan",
    "RefuseFull",
    "RefuseQuota",
    "Replace",
    "Start",
]

# For how many seconds a kernel must have been idle before a request that waits may have its place.
SETTLED_SECONDS = 0.5


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


class Expire(msgspec.Struct, frozen=True):
    """End a kernel that has its maximum age."""

    place: int


class RefuseFull(msgspec.Struct, frozen=True):
    """Tell a ticket that there is no room, and that so many leases wait before it."""

    ticket: int
    waiting: int


class RefuseQuota(msgspec.Struct, frozen=True):
    """Tell a ticket that its user has as many kernels as allowed."""

    ticket: int


Action: TypeAlias = Start | HandOver | Evict | Replace | Cull | Expire | RefuseFull | RefuseQuota


def _see_no_news(number: int) -> None:
    """Look at a kernel of which all facts are told anyway."""


class Plan:
    """The kernels of a pool and the requests for them.

    A fact about a place that is ENDING or no more is ignored: it has come too late.

    Args:
        limits: what is allowed.

    Attributes:
        started: a kernel that was to be started is ready.
        busy: a kernel works, or does not work any more.
        used: a kernel was used at that time, so its idle time begins anew.
        connected: one more client is connected to a kernel.
        disconnected: one client less is connected to a kernel.
        end: a kernel is being ended, because its user wants it or because it has died for good.
        ended: nothing is left of a kernel.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._places = places = Places()
        self._line = Line()
        self._held: dict[int, int] = {}
        self._new_ticket = itertools.count(1)
        # These facts concern one place and nothing else.
        self.started = places.started
        self.busy = places.busy
        self.used = places.used
        self.connected = places.connected
        self.disconnected = places.disconnected
        self.end = places.end
        self.ended = places.ended

    @property
    def places(self) -> Mapping[int, Place]:
        """Every kernel, in the order in which they were started; read-only."""
        return self._places.all

    @property
    def somebody_waits(self) -> bool:
        """Whether there is a lease in line to which no place is promised."""
        return bool(self._line.unserved)

    @property
    def waiting(self) -> int:
        """How many tickets wait for a place."""
        return len(self._line)

    @property
    def crowded(self) -> bool:
        """Whether a lease without a kernel finds neither a free place nor an idle kernel."""
        full = len(self._places) >= self.limits.max_kernels
        return full and self._places.idle.first() is None

    @property
    def wake_at(self) -> float:
        """When to ``decide`` again although nothing has happened; infinity means never."""
        times = [self._places.culling.first_time(), self._places.expiring.first_time()]
        if self.somebody_waits:
            times.append(self._places.idle.first_time() + SETTLED_SECONDS)
        return min(times)

    def places_of(self, user: str) -> Mapping[int, Place]:
        """Return a user's kernels, in the order in which they were started; read-only."""
        return self._places.of_user(user)

    def place_of(self, lease: Lease) -> int | None:
        """Return the place of a lease's kernel, None where it has none."""
        return self._places.leased.get(lease)

    def first_ticket(self, lease: Lease) -> int | None:
        """Return the first of a lease's tickets that are in line, None where there are none."""
        return self._line.first_ticket(lease)

    def ask(
        self,
        lease: Lease,
        *,
        wait: bool,
        replaces: Lease | None = None,
        limits: LeaseLimits | None = None,
    ) -> int:
        """Ask for a lease's kernel; return the ticket.

        Args:
            lease: the lease.
            wait: whether to wait in line rather than to be refused when there is no room.
            replaces: a lease of the same user's whose kernel goes when there is no room for both.
            limits: the limits of the user, and of the kernel that is started if there is none;
                None means those of the plan.
        """
        number = next(self._new_ticket)
        self._line.join(number, lease, Ticket(wait, replaces, limits or self.limits))
        return number

    def leave(self, ticket: int, now: float, *, used: bool = True) -> None:
        """The request is over: its kernel is in hand, or it has given up, or was refused.

        Args:
            ticket: the request's.
            now: the time.
            used: whether the request counts as a use of its kernel.
        """
        number = self._held.pop(ticket, None)
        if number is None:
            self._line.leave(ticket)
        else:
            if used:
                self._places.used(number, now)
            self._places.let_go(number, ticket)

    def decide(self, now: float, look: Callable[[int], object] = _see_no_news) -> list[Action]:
        """Return what is to be done now; for the plan it is done already.

        Args:
            now: the time, in seconds on any clock that never goes back.
            look: called with the place of each kernel that is to be ended because it is idle. It
                tells the plan the newest facts about that kernel, which may save it.
        """
        new = self._line.take_new()
        return [
            *self._expire(now),
            *self._hand_over(new),
            *self._cull(now, look),
            *self._admit(new),
            *self._serve_line(now, look),
        ]

    def _expire(self, now: float) -> Iterator[Action]:
        while (number := self._places.expiring.first()) is not None:
            if self._places.expiring.time(number) > now:
                break
            self.end(number)
            yield Expire(number)

    def _hand_over(self, new: list[Waiting]) -> Iterator[Action]:
        """Let the tickets for a kernel that is there have it."""
        for waiting in new:
            if waiting.lease in self._places.leased:
                yield from self._give(waiting)

    def _cull(self, now: float, look: Callable[[int], object]) -> Iterator[Action]:
        while (number := self._due(self._places.culling, now, look)) is not None:
            self.end(number)
            yield Cull(number)

    def _admit(self, new: list[Waiting]) -> Iterator[Action]:
        """Refuse the leases that are one too many for their user."""
        for waiting in new:
            if not waiting.tickets:
                continue  # it has its kernel
            user = waiting.lease.user
            kernels = self._places.leased_by(user) + self._line.of_user(user)
            if kernels < waiting.limits.max_per_user:
                self._line.keep(waiting)
            elif (replace := self._replace(waiting)) is not None:
                yield replace
            else:
                yield from map(RefuseQuota, self._line.take(waiting.lease))

    def _serve_line(self, now: float, look: Callable[[int], object]) -> Iterator[Action]:
        """Start what can be started, make room for what cannot, refuse what will not wait."""
        for waiting in list(self._line.promised.values()) if self._free else ():
            yield from self._start(waiting)
        while (first := self._line.first()) is not None:
            yield from self._serve(first, now, look)
            if first is self._line.first():
                break  # it waits, and all others with it
        for waiting in self._line.due():
            yield from self._serve(waiting, now, look)

    def _serve(
        self, waiting: Waiting, now: float, look: Callable[[int], object]
    ) -> Iterator[Action]:
        """Promise a place to an unserved lease if there is one; else refuse what will not wait."""
        first = waiting is self._line.first()
        if first and not self._unpromised:
            seconds = SETTLED_SECONDS if waiting.patient else 0
            if (victim := self._due(self._places.idle, now, look, seconds)) is not None:
                self.end(victim)
                yield Evict(victim)
        if first and self._unpromised:
            self._line.promise(waiting)
        elif (replace := self._replace(waiting)) is not None:
            yield replace
        else:
            yield from self._refuse_impatient(waiting)
            return
        yield from self._start(waiting)

    @property
    def _free(self) -> int:
        return self.limits.max_kernels - len(self._places)

    @property
    def _unpromised(self) -> int:
        """How many of the places that are free or ENDING are promised to no lease."""
        return self.limits.max_kernels - len(self._places.leased) - len(self._line.promised)

    def _start(self, waiting: Waiting) -> Iterator[Action]:
        """Start a promised lease's kernel, unless something that is still ENDING is in the way."""
        lease = waiting.lease
        of_user = len(self._places.of_user(lease.user))
        limits = waiting.limits
        in_the_way = of_user >= limits.max_per_user and of_user > self._places.leased_by(lease.user)
        if self._free and not in_the_way and not self._places.holds(lease):
            yield Start(self._places.take(lease, limits), lease, next(iter(waiting.tickets)))
            yield from self._give(waiting)
            self._line.has_kernel(lease)

    def _give(self, waiting: Waiting) -> Iterator[Action]:
        number = self._places.leased[waiting.lease]
        for ticket in self._line.take(waiting.lease):
            self._held[ticket] = number
            self._places.hold(number, ticket)
            yield HandOver(ticket, number)

    def _replace(self, waiting: Waiting) -> Action | None:
        """Promise a lease the place of a kernel that is given up for it, if there is one."""
        for ticket in waiting.tickets.values():
            number = None if ticket.replaces is None else self.place_of(ticket.replaces)
            if number is not None:
                self.end(number)
                self._line.promise(waiting, first=True)  # no lease has less by that
                return Replace(number)
        return None

    def _refuse_impatient(self, waiting: Waiting) -> Iterator[Action]:
        impatient = [number for number, ticket in waiting.tickets.items() if not ticket.wait]
        before = self._line.before(waiting) if impatient else 0
        for number in impatient:
            self._line.leave(number)
            yield RefuseFull(number, before)

    def _due(
        self, order: Order, now: float, look: Callable[[int], object], seconds: float = 0
    ) -> int | None:
        """Return the first kernel if its time is so many seconds ago, also after a closer look."""
        while (number := order.first()) is not None:
            time = order.time(number)
            if time + seconds > now:
                break
            look(number)
            if order.time(number) == time:
                return number
        return None
