"""The simulation, for 100,000 steps; and checks that it replays, and that it finds faults."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kernelproto.fanout.replay_log import Entry
from kernelproto.fanout.subscriber import Subscriber
from kernelproto.pool.keeping import KeepingExecutor
from kernelproto.pool.kept_kernel import KeptKernel
from kernelproto.pool.launcher import PoolLauncher, StartOptions
from kernelproto.pool.pooled_kernel import ManagedKernel
from kernelproto.registry import SQLiteRegistry
from kernelproto.registry.statements import SQLITE
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


async def fail_early(self: Subscriber) -> Entry:
    """Do not send the last messages of a kernel that its program lets go of."""
    if self.broadcast.failure is not None:
        raise self.broadcast.failure
    return await next_message(self)


def begin_again(self: KeptKernel) -> None:
    """Count the idle time of an adopted kernel from its adoption."""
    ManagedKernel._note_start(self)


def never_busy(self: ManagedKernel) -> bool:
    changed = look(self)
    self.busy = False
    return changed


def without_env(self: PoolLauncher, start: StartOptions, env: Mapping[str, str]) -> dict[str, Any]:
    """Leave out the variables that name the user."""
    return {key: value for key, value in params_of(self, start, env).items() if key != "env"}


next_message, look, params_of = Subscriber.next, ManagedKernel.look, PoolLauncher._launch_params
same_fence = SQLITE.claim.replace("fence + 1", "fence")


@pytest.mark.parametrize(
    ("owner", "name", "mutant", "seed", "words"),
    [
        (SQLiteRegistry, "remove", forget, "1/", ""),
        (SQLiteRegistry, "set_handle", forget, "1/", ""),
        (KeepingExecutor, "_store_ends", forget_ends, "1/", ""),
        (SQLITE, "claim", same_fence, "1/1", "with fence 1 after fence 1"),
        (Subscriber, "next", fail_early, "1/1", "the last message"),
        (ManagedKernel, "look", never_busy, "1/0", "which has executed code"),
        (PoolLauncher, "_launch_params", without_env, "1/0", "belongs to"),
        (KeptKernel, "_note_start", begin_again, "21/18", "it culls kernels after"),
    ],
)
def test_fault_in_the_code_is_found(
    owner: object,
    name: str,
    mutant: object,
    seed: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, name, mutant)
    number, _, one = seed.partition("/")
    found = episode.run(seed) if one else list(episode.episodes(int(number), STEPS))[-1]
    assert found.violation is not None
    assert words in found.violation.text
