"""The rate limit of each user."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto.server.rate_limit import RateLimit


def test_give_back_undoes_take() -> None:
    limit = RateLimit(per_minute=1, burst=2)
    assert [limit.take("ada", 0), limit.take("ada", 0)] == [0, 0]
    limit.give_back("ada", 0)
    assert limit.take("ada", 0) == 0
    assert limit.take("ada", 0) == 60
    limit.give_back("ada", 0)
    limit.give_back("ada", 0)
    limit.give_back("ada", 0)  # no more than was taken
    limit.give_back("bob", 0)
    assert len(limit) == 0


def test_number_of_buckets_is_bounded() -> None:
    limit = RateLimit(per_minute=1, burst=1, most=2)
    for user in ("ada", "bob", "eve"):
        assert limit.take(user, 0) == 0
    assert len(limit) == 2
    assert limit.take("eve", 0) == 60
    assert limit.take("ada", 0) == 0  # forgotten


def test_burst_and_then_the_rate() -> None:
    limit = RateLimit(per_minute=6, burst=3)
    assert [limit.take("ada", 100.0) for _ in range(4)] == [0, 0, 0, 10]
    assert limit.take("ada", 104.0) == 6  # the refused action does not count
    assert limit.take("ada", 110.0) == 0
    assert limit.take("ada", 110.0) == 10


def test_users_are_independent() -> None:
    limit = RateLimit(per_minute=1, burst=1)
    assert [limit.take(user, 0.0) for user in ("ada", "bob", "ada")] == [0, 0, 60]


def test_no_limit() -> None:
    limit = RateLimit(per_minute=0, burst=1)
    assert {limit.take("ada", 0.0) for _ in range(1000)} == {0.0}
    assert len(limit) == 0


def test_full_buckets_are_dropped() -> None:
    limit = RateLimit(per_minute=60, burst=2)
    for number in range(1000):
        assert limit.take(f"user {number}", float(number)) == 0
    assert len(limit) == 1


@pytest.mark.parametrize("burst", [1, 5])
@given(gaps=st.lists(st.integers(0, 40), max_size=60))
def test_never_more_than_allowed(burst: int, gaps: list[int]) -> None:
    """No period allows more actions than the burst plus the rate times its length."""
    limit = RateLimit(per_minute=6, burst=burst)
    done = [now for now in accumulate(gaps) if limit.take("ada", float(now)) == 0]
    for first, began in enumerate(done):
        for last, ended in enumerate(done[first:], first):
            assert last - first + 1 <= burst + (ended - began) / 10


@given(gaps=st.lists(st.integers(0, 40), min_size=1, max_size=60))
def test_action_is_allowed_after_the_returned_wait(gaps: list[int]) -> None:
    limit = RateLimit(per_minute=6, burst=2)
    now = 0.0
    for gap in gaps:
        now += gap
        wait = limit.take("ada", now)
        if wait:
            now += wait
            assert limit.take("ada", now) == 0


@given(
    now=st.floats(0, 1e7),
    per_minute=st.sampled_from([7.0, 13.0, 59.0, 60.0]),
    burst=st.integers(1, 100),
)
def test_rounding_errors_refuse_nothing(now: float, per_minute: float, burst: int) -> None:
    limit = RateLimit(per_minute=per_minute, burst=burst)
    assert not any(limit.take("ada", now) for _ in range(burst))
    assert limit.take("ada", now)
