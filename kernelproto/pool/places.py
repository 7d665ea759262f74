"""Places: the kernels of a pool as its plan knows them, with their counts. Pure.

Every method takes the same time however many kernels there are, but for those that put idle kernels
in order, which take O(log n) amortized.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import msgspec

from kernelproto.pool.limits import LeaseLimits


class Lease(msgspec.Struct, frozen=True):
    """One kernel of one user.

    Args:
        user: the user.
        name: which of the user's kernels.
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
        lease: the lease that it was started for.
        limits: the limits of the ticket that it was started for.
        phase: how far it has come.
        started_at: when it was ready.
        busy: whether it works.
        connections: how many clients are connected to it.
        connected_at: when the first of them connected.
        idle_since: when it was last used, plus the time that clients were connected since then.
        tickets: the requests that it was handed over to and that have not left yet.
    """

    lease: Lease
    limits: LeaseLimits
    phase: Phase = Phase.STARTING
    started_at: float = -math.inf
    busy: bool = False
    connections: int = 0
    connected_at: float = -math.inf
    idle_since: float = -math.inf
    tickets: set[int] = field(default_factory=set[int])

    @property
    def unused(self) -> bool:
        """Whether it does not work, and no request needs it; clients may be connected."""
        return self.phase is Phase.RUNNING and not self.busy and not self.tickets

    @property
    def idle(self) -> bool:
        """Whether no client and no request uses it."""
        return self.unused and not self.connections

    @property
    def evict_from(self) -> float:
        """Since when its place can be had by another lease; infinity if it can't."""
        return self.idle_since if self.idle else math.inf

    @property
    def cull_at(self) -> float:
        """When it will have been idle for too long; infinity if it is in use or may be idle."""
        timeout = self.limits.idle_timeout
        if timeout is None or not (self.unused if self.limits.cull_connected else self.idle):
            return math.inf
        return self.idle_since + timeout

    @property
    def expire_at(self) -> float:
        """When it will have its maximum age; infinity where there is none, or it does not run."""
        if self.limits.max_age is None or self.phase is not Phase.RUNNING:
            return math.inf
        return self.started_at + self.limits.max_age


class Order:
    """Places in the order of a time that each of them has, or of their numbers if it is the same.

    The order is a heap that is put right when it is read. A place whose time is not infinity has
    one entry, which may be too early, because the time became later, but never too late.

    Args:
        places: every place by number.
        time: returns the time of a place; infinity means that the place has no part in the order.
    """

    def __init__(self, places: Mapping[int, Place], time: Callable[[Place], float]) -> None:
        self._places = places
        self._time = time
        self._heap: list[tuple[float, int]] = []
        self._queued: set[int] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def time(self, number: int) -> float:
        """Return the time of a place; infinity for an unknown one."""
        place = self._places.get(number)
        return math.inf if place is None else self._time(place)

    def first(self) -> int | None:
        """Return the first place; None without any."""
        while self._heap:
            before, number = self._heap[0]
            time = self.time(number)
            if time == math.inf:
                heapq.heappop(self._heap)
                self._queued.discard(number)
            elif time != before:
                heapq.heapreplace(self._heap, (time, number))
            else:
                return number
        return None

    def first_time(self) -> float:
        """Return the time of the first place; infinity without any."""
        number = self.first()
        return math.inf if number is None else self.time(number)

    def note(self, number: int, place: Place) -> None:
        """Add a place whose time may not be infinity any more."""
        if number in self._queued or (time := self._time(place)) == math.inf:
            return
        self._queued.add(number)
        heapq.heappush(self._heap, (time, number))
        if len(self._heap) > 2 * len(self._places):  # most of them are gone: forget these
            self._queued &= self._places.keys()
            self._heap = [entry for entry in self._heap if entry[1] in self._queued]
            heapq.heapify(self._heap)


class Places:
    """All places by number, lease and user; a fact about an unknown place is ignored.

    Attributes:
        leased: the places that are not ENDING, by their leases.
        idle: those that can be evicted, the one that has been idle longest first.
        culling: those that will have been idle for too long, by when.
        expiring: those that will have their maximum age, by when.
    """

    def __init__(self) -> None:
        self.leased: dict[Lease, int] = {}
        self._places: dict[int, Place] = {}
        self._leases: set[Lease] = set()
        self._of_user: dict[str, dict[int, Place]] = {}
        self._leased_by = Counter[str]()
        self.idle = Order(self._places, lambda place: place.evict_from)
        self.culling = Order(self._places, lambda place: place.cull_at)
        self.expiring = Order(self._places, lambda place: place.expire_at)
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Place:
        return self._places[number]

    @property
    def all(self) -> Mapping[int, Place]:
        """Every place, in the order in which they were taken; read-only."""
        return MappingProxyType(self._places)

    def of_user(self, user: str) -> Mapping[int, Place]:
        """Return a user's places, in the order in which they were taken; read-only."""
        return MappingProxyType(self._of_user.get(user, {}))

    def leased_by(self, user: str) -> int:
        """Return how many of a user's places are not ENDING."""
        return self._leased_by[user]

    def holds(self, lease: Lease) -> bool:
        """Return whether a lease has a place, which may be ENDING."""
        return lease in self._leases

    def take(self, lease: Lease, limits: LeaseLimits) -> int:
        """Give a new place to a lease that has none; return its number."""
        number = next(self._numbers)
        self._places[number] = place = Place(lease, limits)
        self._of_user.setdefault(lease.user, {})[number] = place
        self._leases.add(lease)
        self._leased_by[lease.user] += 1
        self.leased[lease] = number
        return number

    def started(self, number: int, now: float) -> None:
        """A kernel that was to be started is ready."""
        place = self._places.get(number)
        if place is not None and place.phase is Phase.STARTING:
            place.phase = Phase.RUNNING
            place.started_at = now
            self.expiring.note(number, place)
            self.used(number, now)

    def busy(self, number: int, busy: bool) -> None:
        """A kernel works, or does not work any more."""
        place = self._places.get(number)
        if place is not None:
            place.busy = busy
            self._note(number, place)

    def used(self, number: int, at: float) -> None:
        """A kernel was used at that time."""
        place = self._places.get(number)
        if place is not None:
            place.idle_since = max(place.idle_since, at)
            self._note(number, place)

    def connected(self, number: int, now: float) -> None:
        """One more client is connected to a kernel."""
        place = self._places.get(number)
        if place is not None:
            if not place.connections:
                place.connected_at = now
            place.connections += 1

    def disconnected(self, number: int, now: float) -> None:
        """One client less is connected to a kernel.

        The time with a client does not count as idle, unless connected kernels are culled as well.
        """
        place = self._places.get(number)
        if place is not None:
            place.connections -= 1
            if not place.connections and not place.limits.cull_connected:
                place.idle_since += max(0, now - max(place.connected_at, place.idle_since))
            self._note(number, place)

    def hold(self, number: int, ticket: int) -> None:
        """A ticket has a kernel."""
        self._places[number].tickets.add(ticket)

    def let_go(self, number: int, ticket: int) -> None:
        """A ticket does not need a kernel any more."""
        place = self._places.get(number)
        if place is not None:
            place.tickets.discard(ticket)
            self._note(number, place)

    def end(self, number: int) -> None:
        """A kernel is being ended."""
        place = self._places.get(number)
        if place is not None and place.phase is not Phase.ENDING:
            place.phase = Phase.ENDING
            del self.leased[place.lease]
            self._leased_by[place.lease.user] -= 1
            if not self._leased_by[place.lease.user]:
                del self._leased_by[place.lease.user]

    def ended(self, number: int) -> None:
        """Nothing is left of a kernel."""
        self.end(number)
        place = self._places.pop(number, None)
        if place is not None:
            self._leases.discard(place.lease)
            of_user = self._of_user[place.lease.user]
            del of_user[number]
            if not of_user:
                del self._of_user[place.lease.user]

    def _note(self, number: int, place: Place) -> None:
        """Put a place in order, which may be idle now."""
        self.idle.note(number, place)
        self.culling.note(number, place)
