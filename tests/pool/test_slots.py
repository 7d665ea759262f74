from __future__ import annotations

import pytest

from kernelproto.pool.limits import LeaseLimits
from kernelproto.pool.slots import Lease, ScheduledEnd, SlotTable


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


@pytest.mark.parametrize(
    ("idle_timeout", "max_age", "end"),
    [
        (None, None, None),
        (10, None, ScheduledEnd(15, "culled", 10)),
        (None, 20, ScheduledEnd(21, "expired", 20)),
        (10, 20, ScheduledEnd(15, "culled", 10)),
        (10, 9, ScheduledEnd(10, "expired", 9)),
    ],
)
def test_scheduled_end(
    idle_timeout: float | None, max_age: float | None, end: ScheduledEnd | None
) -> None:
    slots = SlotTable()
    limits = LeaseLimits(idle_timeout=idle_timeout, max_age=max_age)
    number = slots.take(Lease("ada", ""), limits)
    assert slots[number].scheduled_end is None
    slots.started(number, 1)
    slots.used(number, 5)
    assert slots[number].scheduled_end == end
    slots.busy(number, True)
    expires = None if max_age is None else ScheduledEnd(1 + max_age, "expired", max_age)
    assert slots[number].scheduled_end == expires
    slots.busy(number, False)
    slots.connected(number, 6)
    assert slots[number].scheduled_end == expires
    slots.end(number)
    assert slots[number].scheduled_end is None
