"""Queue: the requests that have no kernel of the pool yet, in order. Pure.

Every method takes constant time for any length of the queue, unless the docstring says otherwise.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kernelproto.pool.limits import LeaseLimits
from kernelproto.pool.slots import Lease

# A short heap is not worth the search for old entries.
_SHORT = 16


class Ticket(NamedTuple):
    """A request for a lease's kernel.

    Args:
        wait: whether the request waits for a slot instead of being refused.
        replaces: a lease whose kernel is ended for this request if the pool cannot hold both.
        limits: the limits of the kernel and of the user.
    """

    wait: bool
    replaces: Lease | None
    limits: LeaseLimits


@dataclass(slots=True)
class QueuedLease:
    """A lease in the queue.

    Attributes:
        lease: the lease.
        since: the number of the first ticket.
        tickets: the tickets by number, oldest first.
        impatient: those that do not wait for a slot.
        replacing: those that replace another lease.
        turn: the place among the reserved leases.
    """

    lease: Lease
    since: int
    tickets: OrderedDict[int, Ticket] = field(default_factory=OrderedDict[int, Ticket])
    impatient: dict[int, Ticket] = field(default_factory=dict[int, Ticket])
    replacing: dict[int, Ticket] = field(default_factory=dict[int, Ticket])
    turn: int = 0

    @property
    def patient(self) -> bool:
        """Whether all tickets wait for a slot."""
        return not self.impatient

    @property
    def limits(self) -> LeaseLimits:
        """The limits of the oldest ticket."""
        return next(iter(self.tickets.values())).limits


class Queue:
    """The leases that have no kernel yet, with their tickets.

    A lease joins the queue as *new*, then becomes *reserved* (it gets the next suitable slot) or
    *unserved*. An unserved lease becomes reserved later. ``take`` and ``leave`` remove a lease. A
    reserved lease that waits for the end of a kernel of its own user is *blocked*.

    Attributes:
        reserved: the leases with a reserved slot.
        unserved: the leases without one, oldest first.
    """

    def __init__(self) -> None:
        self.reserved: dict[Lease, QueuedLease] = {}
        # The search for the first entry of a dict visits all removed entries before it.
        self.unserved: OrderedDict[Lease, QueuedLease] = OrderedDict()
        self._new: dict[Lease, QueuedLease] = {}
        self._queued: dict[Lease, QueuedLease] = {}
        self._by_ticket: dict[int, QueuedLease] = {}
        self._of_user = Counter[str]()
        self._replacing: dict[Lease, set[int]] = {}
        self._due: list[tuple[int, Lease]] = []
        # The reserved leases by turn: those that may start, and the blocked ones of each user.
        # Entries of removed leases are skipped when they are read.
        self._turns = itertools.count(1)
        self._startable: list[tuple[int, Lease]] = []
        self._blocked: dict[str, list[tuple[int, Lease]]] = {}

    def __len__(self) -> int:
        """Return the number of tickets in the queue."""
        return len(self._by_ticket)

    def of_user(self, user: str) -> int:
        """Return how many leases of a user are reserved or unserved."""
        return self._of_user[user]

    def first_ticket(self, lease: Lease) -> int | None:
        """Return the oldest ticket of a lease; None if the lease is not in the queue."""
        queued = self._queued.get(lease)
        return None if queued is None else next(iter(queued.tickets))

    def first(self) -> QueuedLease | None:
        """Return the oldest unserved lease."""
        return next(iter(self.unserved.values()), None)

    def join(self, number: int, lease: Lease, ticket: Ticket) -> None:
        """Add a ticket; a lease that is not in the queue becomes new."""
        queued = self._queued.get(lease)
        if queued is None:
            queued = self._queued[lease] = self._new[lease] = QueuedLease(lease, number)
        queued.tickets[number] = ticket
        self._by_ticket[number] = queued
        if not ticket.wait:
            queued.impatient[number] = ticket
        if ticket.replaces is not None:
            queued.replacing[number] = ticket
            self._replacing.setdefault(ticket.replaces, set()).add(number)
        self._mark_due(queued)

    def leave(self, number: int) -> None:
        """Remove a ticket, and with the last ticket the lease; ignore an unknown ticket."""
        queued = self._by_ticket.pop(number, None)
        if queued is None:
            return
        ticket = queued.tickets.pop(number)
        queued.impatient.pop(number, None)
        queued.replacing.pop(number, None)
        self.unblock(queued.lease.user)  # the next ticket of the lease may have other limits
        if ticket.replaces is not None:
            self._replacing[ticket.replaces].discard(number)
            if not self._replacing[ticket.replaces]:
                del self._replacing[ticket.replaces]
        if not queued.tickets:
            self._remove(queued.lease)

    def take(self, lease: Lease) -> list[int]:
        """Remove a lease and return its tickets, in O(tickets)."""
        tickets = list(self._queued[lease].tickets)
        for number in tickets:
            self.leave(number)
        return tickets

    def take_new(self) -> list[QueuedLease]:
        """Return the new leases, oldest first; the caller takes, reserves or adds each of them."""
        new, self._new = list(self._new.values()), {}
        return new

    def reserve(self, queued: QueuedLease, *, first: bool = False) -> None:
        """Make a lease reserved, as the last one or as the first one."""
        if self.unserved.pop(queued.lease, None) is None:
            self._of_user[queued.lease.user] += 1
        self.reserved[queued.lease] = queued
        queued.turn = next(self._turns) * (-1 if first else 1)
        heapq.heappush(self._startable, (queued.turn, queued.lease))
        if len(self._startable) > 2 * len(self.reserved) + _SHORT:
            self._startable = [entry for entry in self._startable if self._is_reserved(*entry)]
            heapq.heapify(self._startable)

    def startable(self) -> QueuedLease | None:
        """Return the reserved lease that gets a slot next, unless all are blocked."""
        while self._startable:
            turn, lease = self._startable[0]
            if self._is_reserved(turn, lease):
                return self.reserved[lease]
            heapq.heappop(self._startable)
        return None

    def block(self, queued: QueuedLease) -> None:
        """Pass over the lease that ``startable`` has returned, until ``unblock``."""
        entry = heapq.heappop(self._startable)
        self._blocked.setdefault(queued.lease.user, []).append(entry)

    def unblock(self, user: str) -> None:
        """Have ``startable`` return the blocked leases of a user again, in O(their number)."""
        for entry in self._blocked.pop(user, ()):
            heapq.heappush(self._startable, entry)

    def _is_reserved(self, turn: int, lease: Lease) -> bool:
        queued = self.reserved.get(lease)
        return queued is not None and queued.turn == turn

    def add_unserved(self, queued: QueuedLease) -> None:
        """Make a new lease unserved, as the last one."""
        self._of_user[queued.lease.user] += 1
        self.unserved[queued.lease] = queued
        self._mark_due(queued)

    def kernel_started(self, lease: Lease) -> None:
        """Make the leases due that would replace this kernel, in O(their number)."""
        for number in self._replacing.get(lease, ()):
            self._mark_due(self._by_ticket[number])

    def due(self) -> Iterator[QueuedLease]:
        """Iterate over the unserved leases that have changed since the last call, oldest first.

        A lease is due once after each new ticket, and once after the start of each kernel that the
        lease would replace. The iteration includes leases that become due meanwhile.
        """
        while self._due:
            _, lease = heapq.heappop(self._due)
            if lease in self.unserved:
                yield self.unserved[lease]

    def before(self, queued: QueuedLease) -> int:
        """Return how many unserved leases are older, in O(n) unless this one is the last."""
        if next(reversed(self.unserved)) == queued.lease:
            return len(self.unserved) - 1
        return list(self.unserved).index(queued.lease)

    def _mark_due(self, queued: QueuedLease) -> None:
        if queued.lease in self.unserved:
            heapq.heappush(self._due, (queued.since, queued.lease))

    def _remove(self, lease: Lease) -> None:
        del self._queued[lease]
        if self._new.pop(lease, None) is not None:
            return
        if self.reserved.pop(lease, None) or self.unserved.pop(lease, None):
            self._of_user[lease.user] -= 1
            if not self._of_user[lease.user]:
                del self._of_user[lease.user]
