from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernelproto import Backoff, RestartPolicy
from kernelproto.supervise.restart_policy import GiveUp, Restart

STEADY = Backoff(initial=1, factor=2, maximum=5, jitter=0)


@pytest.mark.parametrize(
    ("uptimes", "decision"),
    [
        ([3], Restart(1, 0)),
        ([3, 2], Restart(2, 1)),
        ([3, 2, 0], Restart(3, 2)),
        ([3, 2, 0, 0], Restart(4, 4)),
        ([3, 2, 0, 0, 0], Restart(5, 5)),  # not 8: the longest wait
        ([3, 2, 0, 0, 0, 0], GiveUp(5)),
        ([100], Restart(1, 0)),
        ([3, 2, 0, 0, 100], Restart(1, 0)),  # it had recovered
        ([3, 2, 0, 0, 10], Restart(1, 0)),  # just so
        ([100, 9.99], Restart(2, 1)),
        ([100, 3, 3, 3, 3], Restart(5, 5)),
        ([100, 3, 3, 3, 3, 3], GiveUp(5)),
        ([100, 3, 100, 3], Restart(2, 1)),
    ],
)
def test_decisions(uptimes, decision) -> None:
    policy = RestartPolicy(limit=5, stable_after=10, backoff=STEADY)
    assert policy.decide(uptimes, 0.5) == decision


def test_no_restarts_at_all() -> None:
    assert RestartPolicy(limit=0).decide([100], 0.5) == GiveUp(0)


@pytest.mark.parametrize(("chance", "delay"), [(0, 4), (0.5, 3), (1, 2)])
def test_jitter_only_shortens(chance: float, delay: float) -> None:
    backoff = Backoff(initial=2, factor=2, maximum=60, jitter=0.5)
    assert backoff.delay(3, chance) == delay
    assert backoff.delay(1, chance) == 0


@given(
    uptimes=st.lists(st.floats(0, 20), max_size=30),
    limit=st.integers(0, 40),
    chance=st.floats(0, 1),
)
def test_every_decision(uptimes: list[float], limit: int, chance: float) -> None:
    policy = RestartPolicy(limit=limit, stable_after=10)
    decision = policy.decide(uptimes, chance)
    in_a_row = next((n for n, up in enumerate(reversed(uptimes)) if up >= 10), len(uptimes))
    if isinstance(decision, Restart):
        assert 1 <= decision.attempt <= limit
        assert decision.attempt in (in_a_row, in_a_row + 1)
        assert 0 <= decision.delay <= policy.backoff.maximum
        assert (decision.delay == 0) == (decision.attempt == 1)
    else:
        assert decision.attempts >= limit
        assert in_a_row + 1 >= limit


@given(attempt=st.integers(1, 10_000), chance=st.floats(0, 1))
def test_no_wait_is_too_long_for_a_float(attempt: int, chance: float) -> None:
    delay = Backoff(initial=1, factor=10, maximum=300).delay(attempt, chance)
    assert math.isfinite(delay)
    assert 0 <= delay <= 300


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (RestartPolicy, {"limit": -1}),
        (RestartPolicy, {"time_to_dead": 0}),
        (Backoff, {"initial": -1}),
        (Backoff, {"maximum": -1}),
        (Backoff, {"factor": 0.5}),
        (Backoff, {"factor": 11}),
        (Backoff, {"jitter": 1.5}),
    ],
)
def test_nonsense_is_refused(kind, arguments) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        kind(**arguments)
