"""Line: the requests for which a pool has no kernel yet, in order. Pure.

Every method takes the same time however long the line is, unless its docstring says otherwise.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kernelproto.pool.limits import LeaseLimits
from kernelproto.pool.places import Lease


class Ticket(NamedTuple):
    """A request for a lease's kernel.

    Args:
        wait: whether it waits for room rather than to be refused.
        replaces: a lease whose kernel ends for it if there is no room for both.
        limits: the limits of its kernel and its user.
    """

    wait: bool
    replaces: Lease | None
    limits: LeaseLimits


@dataclass(slots=True)
class Waiting:
    """A lease in line.

    Attributes:
        lease: the lease.
        since: the number of the ticket with which it came.
        tickets: its tickets by number, in the order in which they came.
    """

    lease: Lease
    since: int
    tickets: dict[int, Ticket] = field(default_factory=dict[int, Ticket])

    @property
    def patient(self) -> bool:
        """Whether all of its tickets wait for room."""
        return all(ticket.wait for ticket in self.tickets.values())

    @property
    def limits(self) -> LeaseLimits:
        """The limits of its first ticket."""
        return next(iter(self.tickets.values())).limits


class Line:
    """The leases that have no kernel yet, with their tickets.

    A lease comes in as *new*, and becomes *promised* (a place will be its own) or *unserved*. An
    unserved one becomes promised later. ``take`` and ``leave`` end its stay.

    Attributes:
        promised: the leases to which a place is promised, in the order in which they get one.
        unserved: the other ones, in the order in which they came.
    """

    def __init__(self) -> None:
        self.promised: OrderedDict[Lease, Waiting] = OrderedDict()
        self.unserved: dict[Lease, Waiting] = {}
        self._new: dict[Lease, Waiting] = {}
        self._waiting: dict[Lease, Waiting] = {}
        self._by_ticket: dict[int, Waiting] = {}
        self._of_user = Counter[str]()
        self._replacing: dict[Lease, set[int]] = {}
        self._due: list[tuple[int, Lease]] = []

    def __len__(self) -> int:
        """Return how many tickets are in line."""
        return len(self._by_ticket)

    def of_user(self, user: str) -> int:
        """Return how many of a user's leases are promised or unserved."""
        return self._of_user[user]

    def first_ticket(self, lease: Lease) -> int | None:
        """Return the first ticket of a lease; None for one that is not in line."""
        waiting = self._waiting.get(lease)
        return None if waiting is None else next(iter(waiting.tickets))

    def first(self) -> Waiting | None:
        """Return the unserved lease that came first."""
        return next(iter(self.unserved.values()), None)

    def join(self, number: int, lease: Lease, ticket: Ticket) -> None:
        """Add a ticket; its lease is new unless it is in line already."""
        waiting = self._waiting.get(lease)
        if waiting is None:
            waiting = self._waiting[lease] = self._new[lease] = Waiting(lease, number)
        waiting.tickets[number] = ticket
        self._by_ticket[number] = waiting
        if ticket.replaces is not None:
            self._replacing.setdefault(ticket.replaces, set()).add(number)
        self._look_at(waiting)

    def leave(self, number: int) -> None:
        """Remove a ticket, and its lease with the last one; an unknown ticket is ignored."""
        waiting = self._by_ticket.pop(number, None)
        if waiting is None:
            return
        ticket = waiting.tickets.pop(number)
        if ticket.replaces is not None:
            self._replacing[ticket.replaces].discard(number)
            if not self._replacing[ticket.replaces]:
                del self._replacing[ticket.replaces]
        if not waiting.tickets:
            self._remove(waiting.lease)

    def take(self, lease: Lease) -> list[int]:
        """Remove a lease; return its tickets. It takes as long as there are tickets."""
        tickets = list(self._waiting[lease].tickets)
        for number in tickets:
            self.leave(number)
        return tickets

    def take_new(self) -> list[Waiting]:
        """Return the new leases in the order in which they came; each has to become another."""
        new, self._new = list(self._new.values()), {}
        return new

    def promise(self, waiting: Waiting, *, first: bool = False) -> None:
        """Make a lease promised, as the last or the first one."""
        if self.unserved.pop(waiting.lease, None) is None:
            self._of_user[waiting.lease.user] += 1
        self.promised[waiting.lease] = waiting
        self.promised.move_to_end(waiting.lease, last=not first)

    def keep(self, waiting: Waiting) -> None:
        """Make a new lease unserved, as the last one."""
        self._of_user[waiting.lease.user] += 1
        self.unserved[waiting.lease] = waiting
        self._look_at(waiting)

    def has_kernel(self, lease: Lease) -> None:
        """Make the leases due that would replace this one's kernel. It takes as long as these."""
        for number in self._replacing.get(lease, ()):
            self._look_at(self._by_ticket[number])

    def due(self) -> Iterator[Waiting]:
        """Iterate over the unserved leases with news since the last time, in their order.

        Each is due once, until the next ticket or the next kernel that it would replace. Leases
        that become due during the iteration are part of it.
        """
        while self._due:
            _, lease = heapq.heappop(self._due)
            if lease in self.unserved:
                yield self.unserved[lease]

    def before(self, waiting: Waiting) -> int:
        """Return how many leases are unserved before this one, in O(n) unless it is the last."""
        if next(reversed(self.unserved)) == waiting.lease:
            return len(self.unserved) - 1
        return list(self.unserved).index(waiting.lease)

    def _look_at(self, waiting: Waiting) -> None:
        if waiting.lease in self.unserved:
            heapq.heappush(self._due, (waiting.since, waiting.lease))

    def _remove(self, lease: Lease) -> None:
        del self._waiting[lease]
        if self._new.pop(lease, None) is not None:
            return
        if self.promised.pop(lease, None) or self.unserved.pop(lease, None):
            self._of_user[lease.user] -= 1
            if not self._of_user[lease.user]:
                del self._of_user[lease.user]
