"""What does a host cost: a round trip and a flood of outputs, through it and without it?"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio

from benchmarks.exceptions import Skipped
from benchmarks.lab import Lab, Sizes
from benchmarks.question import Contender, Goal, Question
from kernelproto import Kernel, run_kernel, start_kernel

_TRIPS = Sizes(500, 100, 3)
_DISPLAYS = Sizes(20_000, 5_000, 20)

_DIRECT = "kernelproto, without a host"
_HOST = "kernelproto, through a host"

_FLOOD = """
from IPython.display import display
for number in range({}):
    display({{"text/plain": str(number)}}, raw=True)
"""


@asynccontextmanager
async def _direct() -> AsyncGenerator[Kernel]:
    async with run_kernel("pyimport/kernel", transport="ipc") as kernel:
        yield kernel


@asynccontextmanager
async def _hosted() -> AsyncGenerator[Kernel]:
    if os.name != "posix":
        raise Skipped("there is no host on this system")
    kernel = await start_kernel("pyimport/kernel", detached=True, host=True, linger=60)
    try:
        yield kernel
    finally:
        await kernel.shutdown()


_KERNELS = {_DIRECT: _direct, _HOST: _hosted}


async def trip_milliseconds(kernel: Kernel, lab: Lab) -> float:
    """Return the median time of a short execution, in ms."""
    taken: list[float] = []
    count = lab.size(_TRIPS)
    for _ in range(count + count // 10):
        began = time.perf_counter()
        result = await kernel.execute("6 * 7")
        taken.append(time.perf_counter() - began)
        assert result.text == "42"
    return statistics.median(taken[count // 10 :]) * 1e3


async def displays_per_second(kernel: Kernel, lab: Lab) -> float:
    """Return how many displays of a flood arrive per second."""
    count, received = lab.size(_DISPLAYS), 0
    began = time.perf_counter()
    async for _ in kernel.execute(_FLOOD.format(count)):
        received += 1
    if received != count:
        raise RuntimeError(f"{count - received} of {count} outputs were lost")
    return count / (time.perf_counter() - began)


def _ask(name: str, work: Callable[[Kernel, Lab], Coroutine[Any, Any, float]], lab: Lab) -> float:
    async def program() -> float:
        async with _KERNELS[name]() as kernel:
            await kernel.execute("pass")
            return await work(kernel, lab)

    return anyio.run(program)


QUESTIONS = [
    Question(
        name="host.round_trip",
        title="A short execution through a host",
        unit="ms",
        contenders=[Contender(name, partial(_ask, name, trip_milliseconds)) for name in _KERNELS],
        rounds=Sizes(10, 3, 1),
    ),
    Question(
        name="host.flood",
        title="A flood of displays through a host",
        unit="messages/s",
        better="more",
        contenders=[Contender(name, partial(_ask, name, displays_per_second)) for name in _KERNELS],
        goals=[Goal(subject=_HOST, baseline=_DIRECT, limit=0.8)],
        rounds=Sizes(10, 3, 1),
    ),
]
