"""Places: the kernels of a pool as its plan knows them, with their counts. Pure.

Every method takes the same time however many kernels there are, but for those that put idle kernels
in order, which take O(log n) amortized.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

import msgspec


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
        """Whether no client and no request uses it."""
        return (
            self.phase is Phase.RUNNING
            and not self.busy
            and not self.connections
            and not self.tickets
        )


class Places:
    """All places by number, lease and user; a fact about an unknown place is ignored.

    The order of the idle ones is a heap that is put right when it is read. An idle place has one
    entry in it, which may be too early, because the place was used meanwhile, but never too late.

    Attributes:
        leased: the places that are not ENDING, by their leases.
    """

    def __init__(self) -> None:
        self.leased: dict[Lease, int] = {}
        self._places: dict[int, Place] = {}
        self._leases: set[Lease] = set()
        self._of_user: dict[str, dict[int, Place]] = {}
        self._leased_by = Counter[str]()
        self._idle: list[tuple[float, int]] = []
        self._queued: set[int] = set()
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

    def take(self, lease: Lease) -> int:
        """Give a new place to a lease that has none; return its number."""
        number = next(self._numbers)
        self._places[number] = place = Place(lease)
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
            self.used(number, now)

    def busy(self, number: int, busy: bool) -> None:
        """A kernel works, or does not work any more."""
        place = self._places.get(number)
        if place is not None:
            place.busy = busy
            self._queue(number, place)

    def used(self, number: int, at: float) -> None:
        """A kernel was used at that time."""
        place = self._places.get(number)
        if place is not None:
            place.idle_since = max(place.idle_since, at)
            self._queue(number, place)

    def connected(self, number: int) -> None:
        """One more client is connected to a kernel."""
        if number in self._places:
            self._places[number].connections += 1

    def disconnected(self, number: int, now: float) -> None:
        """One client less is connected to a kernel."""
        if number in self._places:
            self._places[number].connections -= 1
            self.used(number, now)

    def hold(self, number: int, ticket: int) -> None:
        """A ticket has a kernel."""
        self._places[number].tickets.add(ticket)

    def let_go(self, number: int, ticket: int, now: float) -> None:
        """A ticket does not need a kernel any more."""
        if number in self._places:
            self._places[number].tickets.discard(ticket)
            self.used(number, now)

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

    def longest_idle(self) -> int | None:
        """Return the kernel that has been idle longest, the oldest of several; None without any."""
        while self._idle:
            since, number = self._idle[0]
            place = self._places.get(number)
            if place is None or not place.idle:
                heapq.heappop(self._idle)
                self._queued.discard(number)
            elif since != place.idle_since:
                heapq.heapreplace(self._idle, (place.idle_since, number))
            else:
                return number
        return None

    def _queue(self, number: int, place: Place) -> None:
        """Put a place among the idle ones, if it is idle and not there yet."""
        if not place.idle or number in self._queued:
            return
        self._queued.add(number)
        heapq.heappush(self._idle, (place.idle_since, number))
        if len(self._idle) > 2 * len(self._places):  # most of them are gone: forget these
            self._queued &= self._places.keys()
            self._idle = [entry for entry in self._idle if entry[1] in self._queued]
            heapq.heapify(self._idle)
