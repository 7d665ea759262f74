"""The simulation, for 100,000 steps; and checks that it replays, and that it finds faults."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kernelproto.pool.keeping import KeepingExecutor
from kernelproto.registry import SQLiteRegistry
from tests.simulation import episode, schedule

ROOT = Path(__file__).parents[2]

# Enough for each of the faults below.
STEPS = 20_000


# In a program of its own, so that measuring the coverage does not slow it down.
def test_every_invariant_holds() -> None:
    done = simulate("--seed", "1", "--steps", "100000")
    assert done.returncode == 0, done.stdout + done.stderr


def simulate(*arguments: str, hash_seed: str = "random") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
    )


def test_seed_replays_an_episode() -> None:
    assert schedule.can_order(), "this version of Trio has changed: see schedule.py"
    first, second = (
        simulate("--episode", "2/0", hash_seed=hash_seed).stdout for hash_seed in ("1", "2")
    )
    assert "every invariant holds" in first
    assert without_time(first) == without_time(second)


def without_time(text: str) -> list[str]:
    summary, *counts = text.splitlines()
    return [summary.partition(",")[0], *counts]


async def forget(self: SQLiteRegistry, *arguments: object) -> bool:
    return True


async def forget_ends(self: KeepingExecutor) -> None:
    pass


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [
        (SQLiteRegistry, "remove", forget),
        (SQLiteRegistry, "set_handle", forget),
        (KeepingExecutor, "_store_ends", forget_ends),
    ],
)
def test_fault_in_the_code_is_found(
    owner: type[object],
    name: str,
    mutant: Callable[..., object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    outcomes = list(episode.episodes(1, STEPS))
    assert outcomes[-1].violation is not None
