"""A bell wakes the tasks that wait, and no later ones."""

from __future__ import annotations

import anyio
import pytest

from kernelproto.concurrency.bell import Bell

pytestmark = pytest.mark.anyio


async def test_ring_wakes_all_tasks_that_wait() -> None:
    bell, woken = Bell(), []

    async def wait(number: int) -> None:
        await bell.wait()
        woken.append(number)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(wait, number)
            await anyio.wait_all_tasks_blocked()
            assert woken == []
            bell.ring()
    assert sorted(woken) == [0, 1, 2]


async def test_earlier_ring_does_not_count() -> None:
    bell, rounds = Bell(), []

    async def wait() -> None:
        for number in range(2):
            await bell.wait()
            rounds.append(number)

    bell.ring()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            assert rounds == []
            bell.ring()
            bell.ring()  # the task has not run yet, so this is the same wake-up
            await anyio.wait_all_tasks_blocked()
            assert rounds == [0]
            bell.ring()
    assert rounds == [0, 1]


async def test_cancelled_task_leaves_the_others_waiting() -> None:
    bell = Bell()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                scope.cancel()
                await bell.wait()
            tasks.start_soon(bell.wait)
            await anyio.wait_all_tasks_blocked()
            bell.ring()
