"""The table of a kernel's life, pair by pair."""

from __future__ import annotations

import itertools

import pytest

from kernelproto.supervise.states import LIFE, Life, LifeEvent, next_life

LEGAL = {
    ("starting", "ready"): "ready",
    ("ready", "unreachable"): "unreachable",
    ("ready", "died"): "dead",
    ("ready", "restart"): "restarting",
    ("ready", "end"): "over",
    ("unreachable", "reachable"): "ready",
    ("unreachable", "died"): "dead",
    ("unreachable", "restart"): "restarting",
    ("unreachable", "end"): "over",
    ("restarting", "ready"): "ready",
    ("restarting", "unreachable"): "restarting",
    ("restarting", "reachable"): "restarting",
    ("restarting", "died"): "restarting",
    ("restarting", "failed"): "dead",
    ("restarting", "end"): "over",
    ("dead", "restart"): "restarting",
    ("dead", "end"): "over",
    ("over", "ready"): "over",
    ("over", "unreachable"): "over",
    ("over", "reachable"): "over",
    ("over", "died"): "over",
    ("over", "failed"): "over",
    ("over", "end"): "over",
}

PAIRS = list(itertools.product(Life, LifeEvent))


@pytest.mark.parametrize(("life", "event"), PAIRS, ids=str)
def test_pair(life: Life, event: LifeEvent) -> None:
    if (life, event) in LEGAL:
        assert next_life(life, event) == LEGAL[life, event]
    else:
        with pytest.raises(RuntimeError, match=f"{event.name} cannot happen .* is {life}"):
            next_life(life, event)


def test_each_state_is_entered() -> None:
    entered = {new for events in LIFE.values() for new in events.values()}
    assert entered == set(Life) - {Life.STARTING}


def test_over_is_final() -> None:
    assert set(LIFE[Life.OVER].values()) == {Life.OVER}
