"""The clock of a start, on a clock that jumps to the next deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
import trio
from trio.testing import MockClock

from kernelproto import Timeouts, waiting_in_queue
from kernelproto.startup_clock import StartupClock

LIMITS = Timeouts(startup=10, queue=100)


def timed(block: Callable[[], Awaitable[None]]) -> tuple[float, bool, bool]:
    """Return how long the block ran, whether it was cancelled, and whether in a queue."""

    async def measure() -> tuple[float, bool, bool]:
        clock, began = StartupClock(LIMITS), anyio.current_time()
        with clock.limit() as scope:
            await block()
        return anyio.current_time() - began, scope.cancelled_caught, clock.ran_out_in_queue

    return trio.run(measure, clock=MockClock(autojump_threshold=0))


async def start() -> None:
    await anyio.sleep(9)


async def wait_then_start() -> None:
    await anyio.sleep(4)
    with waiting_in_queue():
        await anyio.sleep(90)
    await anyio.sleep(5)


async def wait_then_start_too_slowly() -> None:
    await wait_then_start()
    await anyio.sleep_forever()


async def wait_twice_too_long() -> None:
    with waiting_in_queue():
        await anyio.sleep(60)
    with waiting_in_queue():
        await anyio.sleep_forever()


async def wait_in_two_tasks_at_once() -> None:
    async def wait(seconds: float) -> None:
        with waiting_in_queue():
            await anyio.sleep(seconds)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, 50)
        tasks.start_soon(wait, 80)
    await anyio.sleep_forever()


@pytest.mark.parametrize(
    ("block", "end"),
    [
        (start, (9, False, False)),
        (anyio.sleep_forever, (10, True, False)),
        (wait_then_start, (99, False, False)),
        (wait_then_start_too_slowly, (100, True, False)),
        (wait_twice_too_long, (100, True, True)),
        (wait_in_two_tasks_at_once, (90, True, False)),
    ],
)
def test_time_in_a_queue_is_no_startup_time(
    block: Callable[[], Awaitable[None]], end: tuple[float, bool, bool]
) -> None:
    assert timed(block) == pytest.approx(end)


def test_both_limits_count_across_blocks() -> None:
    async def measure() -> list[float]:
        clock, ends = StartupClock(LIMITS), []
        for _ in range(2):
            with clock.limit():
                await anyio.sleep(7)
            ends.append(anyio.current_time())
        return ends

    first, second = trio.run(measure, clock=MockClock(autojump_threshold=0))
    assert second - first == pytest.approx(3)


@pytest.mark.anyio
async def test_without_a_supervised_launch_nothing_is_limited() -> None:
    with waiting_in_queue():
        await anyio.lowlevel.checkpoint()
