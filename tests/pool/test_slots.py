from __future__ import annotations

from kernelproto.pool.limits import LeaseLimits
from kernelproto.pool.slots import Lease, SlotTable


def take_idle(slots: SlotTable, user: str, since: float) -> int:
    number = slots.take(Lease(user, ""), LeaseLimits())
    slots.started(number, since)
    return number


def test_longest_idle() -> None:
    slots = SlotTable()
    assert slots.idle.first() is None
    first, second, third = (take_idle(slots, user, 1) for user in ("ada", "bob", "eve"))
    assert slots.idle.first() == first
    slots.used(first, 5)
    assert slots.idle.first() == second
    slots.busy(second, True)
    slots.connected(third, 1)
    assert slots.idle.first() == first
    slots.busy(second, False)
    assert slots.idle.first() == second
    slots.ended(second)
    slots.disconnected(third, 4)
    assert slots.idle.first() == third


def test_user_without_kernels_is_forgotten() -> None:
    slots = SlotTable()
    number = take_idle(slots, "ada", 1)
    assert (list(slots.of_user("ada")), slots.leased_by("ada")) == ([number], 1)
    assert slots.holds(Lease("ada", ""))
    slots.end(number)
    assert (list(slots.of_user("ada")), slots.leased_by("ada")) == ([number], 0)
    assert slots.holds(Lease("ada", ""))
    slots.ended(number)
    assert (list(slots.of_user("ada")), slots.leased_by("ada")) == ([], 0)
    assert not slots.holds(Lease("ada", ""))


def test_kernels_that_are_gone_take_no_memory() -> None:
    """Not even behind one that stays idle: it is the first in order, and the others behind it."""
    slots = SlotTable()
    take_idle(slots, "ada", 0)
    for number in range(1_000):
        slots.ended(take_idle(slots, "bob", number + 1))
    for order in (slots.idle, slots.culling, slots.expiring):
        assert len(order) <= 4
        assert len(order._queued) <= 4
