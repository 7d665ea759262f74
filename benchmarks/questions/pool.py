"""How much longer does a pool take for its work with 5,000 kernels than with 10?

The kernels are FakeKernels in the measured process. Python's cyclic garbage collector is off,
because its work grows with all objects of the process. So only the pool's own bookkeeping can grow.
Each round measures each size in a new process, and all four questions have their figures from it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import anyio

from benchmarks.alone import run_alone
from benchmarks.lab import Lab, Sizes
from benchmarks.question import Contender, Goal, Question
from kernelproto import KernelFinder, KernelPool, Timeouts
from kernelproto.testing import FakeProvider

_MEMBERS = (10, 100, 1_000, 5_000)
_STARTED = 500  # at most; the kernels that are started last, all at once
_MOST_MEMBERS = Sizes(5_000, 1_000, 10)
_REPETITIONS = Sizes(1_000, 200, 10)


class Measured(NamedTuple):
    """The CPU time of a pool for its work, including the client and the fake kernels.

    Attributes:
        start: ms per kernel, if up to 500 are started at once in addition to the others.
        get: µs for a user's own running kernel.
        execute: µs for an execution on it.
        close: ms per kernel, when the pool ends.
    """

    start: float
    get: float
    execute: float
    close: float


def measure(members: int, repetitions: int) -> Measured:
    """Measure a pool of *size* kernels; called in a new process."""
    gc.disable()
    return anyio.run(_measure, members, repetitions)


async def _measure(members: int, repetitions: int) -> Measured:
    began = time.process_time
    started = min(members, _STARTED)
    async with _pool(members) as pool:
        await _start(pool, range(members - started))
        before = began()
        await _start(pool, range(members - started, members))
        start = (began() - before) / started * 1e3
        kernel = await pool.get("0")
        gets: list[float] = []
        executions: list[float] = []
        for _ in range(repetitions):
            before = began()
            await pool.get("0")
            gets.append(began() - before)
            before = began()
            await kernel.execute("1")
            executions.append(began() - before)
        before = began()
    close = (began() - before) / members * 1e3
    return Measured(
        start, statistics.median(gets) * 1e6, statistics.median(executions) * 1e6, close
    )


@asynccontextmanager
async def _pool(members: int) -> AsyncGenerator[KernelPool]:
    async with (
        FakeProvider() as fakes,
        KernelPool(
            finder=KernelFinder([fakes]),
            kernel_type="fake/kernel",
            max_kernels=members,
            restart=None,
            timeouts=Timeouts(startup=600),
        ) as pool,
    ):
        yield pool


async def _start(pool: KernelPool, users: Sequence[int]) -> None:
    async with anyio.create_task_group() as tasks:
        for user in users:
            tasks.start_soon(pool.get, str(user))


class _Processes:
    """Measures each size in one new process per round, for the figures of all questions."""

    def __init__(self) -> None:
        self._measured: defaultdict[tuple[int, int], list[Measured]] = defaultdict(list)
        self._rounds = Counter[tuple[str, int]]()

    def figure(self, members: int, name: str, lab: Lab) -> float:
        """Return a figure of the next round for a question and a contender."""
        size = min(members, lab.size(_MOST_MEMBERS)), lab.size(_REPETITIONS)
        measured = self._measured[size]
        if self._rounds[name, members] == len(measured):
            measured.append(Measured(*run_alone(f"{__name__}:measure", *size)))
        self._rounds[name, members] += 1
        return float(getattr(measured[self._rounds[name, members] - 1], name))


_processes = _Processes()
_TITLES = {
    "start": ("CPU time of the start of a kernel, when {} are started at once", "ms"),
    "get": ("CPU time of get() of one's own kernel", "µs"),
    "execute": ("CPU time of an execution in a pool", "µs"),
    "close": ("CPU time of the end of a kernel, when its pool ends", "ms"),
}

QUESTIONS = [
    Question(
        name=f"pool.{name}",
        title=title.format(_STARTED),
        unit=unit,
        contenders=[
            Contender(f"{members:,} kernels", partial(_processes.figure, members, name))
            for members in _MEMBERS
        ],
        goals=[
            Goal(
                subject=f"{_MEMBERS[-1]:,} kernels",
                baseline=f"{_MEMBERS[0]:,} kernels",
                limit=1.5,
            )
        ],
        rounds=Sizes(5, 2, 1),
    )
    for name, (title, unit) in _TITLES.items()
]
