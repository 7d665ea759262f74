"""SlotTable: the kernels of a pool as known to the plan, with counts and orders. Pure.

Every method takes constant time for any number of kernels, except for the methods that keep slots
in order. These take O(log n), amortized.
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
from typing import Literal, NamedTuple

import msgspec

from kernelproto.pool.limits import LeaseLimits


class Lease(msgspec.Struct, frozen=True):
    """One kernel of one user.

    Args:
        user: the user.
        name: the name of the kernel among the user's kernels.
    """

    user: str
    name: str


class Phase(StrEnum):
    """The phase of a kernel's life."""

    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"


class ScheduledEnd(NamedTuple):
    """The coming end of a kernel, by a limit.

    Attributes:
        at: the time.
        reason: "culled" for ``idle_timeout``, "expired" for ``max_age``.
        limit: this limit, in seconds.
    """

    at: float
    reason: Literal["culled", "expired"]
    limit: float


@dataclass(slots=True)
class Slot:
    """The facts about one kernel.

    Attributes:
        lease: the lease that the kernel was started for.
        limits: the limits of the ticket that the kernel was started for.
        phase: the phase of the kernel's life.
        started_at: when the kernel was ready.
        busy: whether the kernel works.
        connections: the number of connected clients.
        connected_at: when the first of these clients connected.
        idle_since: the last use of the kernel, plus the time with connected clients since then.
        tickets: the requests that have received the kernel and have not left yet.
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
        """Whether the kernel neither works nor has a ticket; clients may be connected."""
        return self.phase is Phase.RUNNING and not self.busy and not self.tickets

    @property
    def idle(self) -> bool:
        """Whether no work, no ticket and no client uses the kernel."""
        return self.unused and not self.connections

    @property
    def evict_from(self) -> float:
        """Since when the kernel may be evicted; infinity during use."""
        return self.idle_since if self.idle else math.inf

    @property
    def cull_at(self) -> float:
        """When the kernel exceeds the idle time; infinity during use or without a limit."""
        timeout = self.limits.idle_timeout
        if timeout is None or not (self.unused if self.limits.cull_connected else self.idle):
            return math.inf
        return self.idle_since + timeout

    @property
    def expire_at(self) -> float:
        """When the kernel reaches the maximum age; infinity unless RUNNING and limited."""
        if self.limits.max_age is None or self.phase is not Phase.RUNNING:
            return math.inf
        return self.started_at + self.limits.max_age

    @property
    def scheduled_end(self) -> ScheduledEnd | None:
        """The first end if the kernel's state does not change; None if no limit applies."""
        ends: list[ScheduledEnd] = []
        if self.limits.max_age is not None:
            ends.append(ScheduledEnd(self.expire_at, "expired", self.limits.max_age))
        if self.limits.idle_timeout is not None:
            ends.append(ScheduledEnd(self.cull_at, "culled", self.limits.idle_timeout))
        first = min(ends, default=None)
        return None if first is None or first.at == math.inf else first


class SlotHeap:
    """Slots ordered by a time of theirs; slots with equal times are ordered by number.

    Reading the heap corrects the order. A slot with a finite time has one entry. The entry may be
    too early, because the slot's time has since become later, but never too late.

    Args:
        slots: every slot by number.
        time: returns the time of a slot; infinity excludes the slot from the order.
    """

    def __init__(self, slots: Mapping[int, Slot], time: Callable[[Slot], float]) -> None:
        self._slots = slots
        self._time = time
        self._heap: list[tuple[float, int]] = []
        self._queued: set[int] = set()

    def __len__(self) -> int:
        return len(self._heap)

    def time(self, number: int) -> float:
        """Return the time of a slot; infinity for an unknown number."""
        slot = self._slots.get(number)
        return math.inf if slot is None else self._time(slot)

    def first(self) -> int | None:
        """Return the first slot; None if no slot has a finite time."""
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
        """Return the time of the first slot; infinity if there is none."""
        number = self.first()
        return math.inf if number is None else self.time(number)

    def note(self, number: int, slot: Slot) -> None:
        """Add a slot with a finite time."""
        if number in self._queued or (time := self._time(slot)) == math.inf:
            return
        self._queued.add(number)
        heapq.heappush(self._heap, (time, number))
        if len(self._heap) > 2 * len(self._slots):  # most entries are of slots that are gone
            self._queued &= self._slots.keys()
            self._heap = [entry for entry in self._heap if entry[1] in self._queued]
            heapq.heapify(self._heap)


class SlotTable:
    """All slots by number, lease and user; facts about an unknown slot are ignored.

    Attributes:
        leased: the slots that are not ENDING, by lease.
        idle: the slots that may be evicted, longest idle first.
        culling: the slots with an idle timeout, by the time of the timeout.
        expiring: the slots with a maximum age, by the time when they reach it.
    """

    def __init__(self) -> None:
        self.leased: dict[Lease, int] = {}
        self._slots: dict[int, Slot] = {}
        self._leases: set[Lease] = set()
        self._of_user: dict[str, dict[int, Slot]] = {}
        self._leased_by = Counter[str]()
        self.idle = SlotHeap(self._slots, lambda slot: slot.evict_from)
        self.culling = SlotHeap(self._slots, lambda slot: slot.cull_at)
        self.expiring = SlotHeap(self._slots, lambda slot: slot.expire_at)
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, number: int) -> Slot:
        return self._slots[number]

    @property
    def all(self) -> Mapping[int, Slot]:
        """Every slot, oldest first; read-only."""
        return MappingProxyType(self._slots)

    def of_user(self, user: str) -> Mapping[int, Slot]:
        """Return a user's slots, oldest first; read-only."""
        return MappingProxyType(self._of_user.get(user, {}))

    def leased_by(self, user: str) -> int:
        """Return how many of a user's slots are not ENDING."""
        return self._leased_by[user]

    def holds(self, lease: Lease) -> bool:
        """Return whether a lease has a slot, which may be ENDING."""
        return lease in self._leases

    def take(self, lease: Lease, limits: LeaseLimits) -> int:
        """Give a lease a new slot; return the number of the slot."""
        number = next(self._numbers)
        self._slots[number] = slot = Slot(lease, limits)
        self._of_user.setdefault(lease.user, {})[number] = slot
        self._leases.add(lease)
        self._leased_by[lease.user] += 1
        self.leased[lease] = number
        return number

    def started(self, number: int, now: float) -> None:
        """Record that a kernel is ready."""
        slot = self._slots.get(number)
        if slot is not None and slot.phase is Phase.STARTING:
            slot.phase = Phase.RUNNING
            slot.started_at = now
            self.expiring.note(number, slot)
            self.used(number, now)

    def busy(self, number: int, busy: bool) -> None:
        """Record whether a kernel works."""
        slot = self._slots.get(number)
        if slot is not None:
            slot.busy = busy
            self._note(number, slot)

    def used(self, number: int, at: float) -> None:
        """Record the time of a use of a kernel."""
        slot = self._slots.get(number)
        if slot is not None:
            slot.idle_since = max(slot.idle_since, at)
            self._note(number, slot)

    def connected(self, number: int, now: float) -> None:
        """Record that a client has connected to a kernel."""
        slot = self._slots.get(number)
        if slot is not None:
            if not slot.connections:
                slot.connected_at = now
            slot.connections += 1

    def disconnected(self, number: int, now: float) -> None:
        """Record that a client has disconnected from a kernel.

        Time with a connected client does not count as idle, unless ``cull_connected`` is set.
        """
        slot = self._slots.get(number)
        if slot is not None:
            slot.connections -= 1
            if not slot.connections and not slot.limits.cull_connected:
                slot.idle_since += max(0, now - max(slot.connected_at, slot.idle_since))
            self._note(number, slot)

    def add_ticket(self, number: int, ticket: int) -> None:
        """Record that a request holds a kernel."""
        self._slots[number].tickets.add(ticket)

    def drop_ticket(self, number: int, ticket: int) -> None:
        """Record that a request no longer holds a kernel."""
        slot = self._slots.get(number)
        if slot is not None:
            slot.tickets.discard(ticket)
            self._note(number, slot)

    def end(self, number: int) -> None:
        """Record that a kernel is being ended."""
        slot = self._slots.get(number)
        if slot is not None and slot.phase is not Phase.ENDING:
            slot.phase = Phase.ENDING
            del self.leased[slot.lease]
            self._leased_by[slot.lease.user] -= 1
            if not self._leased_by[slot.lease.user]:
                del self._leased_by[slot.lease.user]

    def ended(self, number: int) -> None:
        """Record that a kernel has ended: free the slot."""
        self.end(number)
        slot = self._slots.pop(number, None)
        if slot is not None:
            self._leases.discard(slot.lease)
            of_user = self._of_user[slot.lease.user]
            del of_user[number]
            if not of_user:
                del self._of_user[slot.lease.user]

    def _note(self, number: int, slot: Slot) -> None:
        self.idle.note(number, slot)
        self.culling.note(number, slot)
