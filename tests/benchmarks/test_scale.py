"""A small day of the simulation of scale keeps the limits, and no user is left without a kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scale
from kernelproto.registry import SQLiteRegistry


def test_a_day_keeps_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, users = 2, 60
    monkeypatch.setattr(scale, "KERNELS_PER_NODE", 20)
    day = scale.Day(users, nodes, seed=1)
    day.run()
    most = max(kernels for _, kernels, _ in day.load)
    assert most == nodes * scale.KERNELS_PER_NODE  # the pool is full at some time
    assert day.counts["lost with a node"] > 0
    # Every kernel has ended or is in the plan, and belongs to one user.
    assert day.counts["started"] == day.counts["ended"] + len(day.plan.slots)
    assert len({slot.lease for slot in day.plan.slots.values()}) == len(day.plan.slots)


def test_the_same_seed_is_the_same_day() -> None:
    first, second = (scale.Day(20, 2, seed=2) for _ in range(2))
    first.run()
    second.run()
    assert (first.counts, first.load) == (second.counts, second.load)


@pytest.mark.anyio
async def test_each_statement_is_measured(tmp_path: Path) -> None:
    found = await scale.time_registry(SQLiteRegistry(tmp_path / "a"), 20, 2)
    assert set(found) == {"add", "set_handle", "set_notes", "renew", "remove", "read all"}
