from __future__ import annotations

from kernelproto.pool.limits import LeaseLimits
from kernelproto.pool.places import Lease, Places


def take_idle(places: Places, user: str, since: float) -> int:
    number = places.take(Lease(user, ""), LeaseLimits())
    places.started(number, since)
    return number


def test_longest_idle() -> None:
    places = Places()
    assert places.idle.first() is None
    first, second, third = (take_idle(places, user, 1) for user in ("ada", "bob", "eve"))
    assert places.idle.first() == first
    places.used(first, 5)
    assert places.idle.first() == second
    places.busy(second, True)
    places.connected(third, 1)
    assert places.idle.first() == first
    places.busy(second, False)
    assert places.idle.first() == second
    places.ended(second)
    places.disconnected(third, 4)
    assert places.idle.first() == third


def test_user_without_kernels_is_forgotten() -> None:
    places = Places()
    number = take_idle(places, "ada", 1)
    assert (list(places.of_user("ada")), places.leased_by("ada")) == ([number], 1)
    assert places.holds(Lease("ada", ""))
    places.end(number)
    assert (list(places.of_user("ada")), places.leased_by("ada")) == ([number], 0)
    assert places.holds(Lease("ada", ""))
    places.ended(number)
    assert (list(places.of_user("ada")), places.leased_by("ada")) == ([], 0)
    assert not places.holds(Lease("ada", ""))


def test_kernels_that_are_gone_take_no_memory() -> None:
    """Not even behind one that stays idle: it is the first in order, and the others behind it."""
    places = Places()
    take_idle(places, "ada", 0)
    for number in range(1_000):
        places.ended(take_idle(places, "bob", number + 1))
    for order in (places.idle, places.culling, places.expiring):
        assert len(order) <= 4
        assert len(order._queued) <= 4
