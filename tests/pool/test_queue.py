from __future__ import annotations

from kernelproto.pool.limits import LeaseLimits
from kernelproto.pool.queue import Queue, Ticket
from kernelproto.pool.slots import Lease

ADA, BOB, EVE = (Lease(user, "") for user in ("ada", "bob", "eve"))
WAITING = Ticket(wait=True, replaces=None, limits=LeaseLimits())
IMPATIENT = Ticket(wait=False, replaces=None, limits=LeaseLimits())


def leases(queued: object) -> list[Lease]:
    return [one.lease for one in queued]  # type: ignore[attr-defined]


def queue_of(*unserved: Lease) -> Queue:
    queue = Queue()
    for number, lease in enumerate(unserved, 1):
        queue.join(number, lease, WAITING)
    for queued in queue.take_new():
        queue.add_unserved(queued)
    list(queue.due())
    return queue


def test_tickets_of_a_lease_share_its_entry() -> None:
    queue = Queue()
    for number, lease in enumerate((ADA, BOB, ADA), 1):
        queue.join(number, lease, WAITING)
    assert len(queue) == 3
    assert leases(queue.take_new()) == [ADA, BOB]
    assert queue.take_new() == []
    assert queue.first_ticket(ADA) == 1
    assert queue.take(ADA) == [1, 3]
    assert queue.first_ticket(ADA) is None
    assert len(queue) == 1


def test_last_ticket_removes_the_lease() -> None:
    queue = queue_of(ADA, BOB)
    queue.join(3, ADA, WAITING)
    queue.leave(1)
    assert leases(queue.unserved.values()) == [ADA, BOB]
    queue.leave(3)
    assert leases(queue.unserved.values()) == [BOB]
    assert (queue.of_user("ada"), queue.of_user("bob")) == (0, 1)
    queue.leave(3)  # unknown by now
    assert len(queue) == 1


def test_reserved_leases_keep_their_order_and_the_first_may_be_chosen() -> None:
    queue = queue_of(ADA, BOB, EVE)
    for lease in (ADA, BOB):
        queue.reserve(queue.unserved[lease])
    queue.reserve(queue.unserved[EVE], first=True)
    assert set(queue.reserved) == {ADA, BOB, EVE}
    for lease in (EVE, ADA, BOB):
        startable = queue.startable()
        assert startable is not None
        assert startable.lease == lease
        queue.take(lease)
    assert queue.startable() is None
    assert queue.first() is None
    assert queue.of_user("eve") == 0


def test_blocked_lease_is_passed_over_until_its_user_is_unblocked() -> None:
    queue = queue_of(ADA, BOB)
    for lease in (ADA, BOB):
        queue.reserve(queue.unserved[lease])
    queue.block(queue.reserved[ADA])
    assert queue.startable() is queue.reserved[BOB]
    queue.unblock("ada")
    assert queue.startable() is queue.reserved[ADA]
    queue.block(queue.reserved[ADA])
    queue.join(3, ADA, WAITING)
    queue.leave(1)  # the limits of the other ticket apply from now on
    assert queue.startable() is queue.reserved[ADA]
    queue.block(queue.reserved[ADA])
    queue.leave(3)
    assert queue.startable() is queue.reserved[BOB]


def test_reserved_leases_that_leave_take_no_memory() -> None:
    queue = queue_of(BOB)
    queue.reserve(queue.unserved[BOB])
    for number in range(2, 200):
        queue.join(number, ADA, WAITING)
        for queued in queue.take_new():
            queue.reserve(queued)
        queue.leave(number)
    assert len(queue._startable) < 50
    assert queue.startable() is queue.reserved[BOB]


def test_one_impatient_ticket_makes_the_lease_impatient() -> None:
    queue = queue_of(ADA)
    queued = queue.unserved[ADA]
    assert queued.patient
    queue.join(2, ADA, IMPATIENT)
    assert not queued.patient
    assert queued.limits is WAITING.limits
    queue.leave(2)
    assert queued.patient


def test_lease_is_due_once_for_each_change() -> None:
    queue = queue_of(ADA, BOB)
    assert leases(queue.due()) == []
    queue.join(3, BOB, Ticket(wait=True, replaces=EVE, limits=LeaseLimits()))
    queue.join(4, ADA, WAITING)
    assert leases(queue.due()) == [ADA, BOB]
    assert leases(queue.due()) == []
    queue.kernel_started(EVE)
    assert leases(queue.due()) == [BOB]
    queue.leave(3)
    queue.kernel_started(EVE)
    assert leases(queue.due()) == []


def test_lease_with_a_reservation_is_not_due() -> None:
    queue = queue_of(ADA)
    queue.join(2, ADA, WAITING)
    queue.reserve(queue.unserved[ADA])
    assert leases(queue.due()) == []


def test_number_of_older_leases() -> None:
    queue = queue_of(ADA, BOB, EVE)
    assert [queue.before(queue.unserved[lease]) for lease in (ADA, BOB, EVE)] == [0, 1, 2]
