"""The growth of the pool's work with its kernels and its queue: counted, not timed."""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto import Kernel, PoolFull
from kernelproto.pool import executor as executor_module
from kernelproto.pool import plan as plan_module
from kernelproto.pool.limits import PoolLimits
from kernelproto.pool.plan import Plan
from kernelproto.pool.slots import Lease
from tests.steps import counted

POOL = plan_module.__file__.removesuffix("plan.py")


def full_plan(size: int, **limits: float) -> tuple[Plan, list[int]]:
    """Return a plan with so many idle kernels, each of a user, and no room for another."""
    plan = Plan(PoolLimits(max_kernels=size, idle_timeout=1e9, **limits))
    for user in range(size):
        ticket = plan.ask(Lease(str(user), ""), wait=False)
        plan.decide(0)
        plan.started(user + 1, user)
        plan.leave(ticket, user)
    return plan, list(plan.slots)


def get_own(size: int) -> int:
    plan, numbers = full_plan(size)
    with counted(POOL) as steps:
        for number in numbers[-50:]:
            plan.leave(plan.ask(plan.slots[number].lease, wait=False), size)
            plan.decide(size)
            assert plan.wake_at == 1e9
    return steps.count


def work(size: int) -> int:
    plan, numbers = full_plan(size)
    with counted(POOL) as steps:
        for number in numbers[:50]:
            plan.busy(number, True)
            plan.wake_at  # noqa: B018
            plan.busy(number, False)
            plan.used(number, size)
            plan.decide(size)
            plan.wake_at  # noqa: B018
    return steps.count


def evict(size: int) -> int:
    plan, _ = full_plan(size)
    with counted(POOL) as steps:
        for user in range(50):
            ticket = plan.ask(Lease(f"new {user}", ""), wait=False)
            (evicted,) = plan.decide(size)
            plan.ended(evicted.slot)
            start, _ = plan.decide(size)
            plan.started(start.slot, size)
            plan.leave(ticket, size)
    return steps.count


def refuse(size: int) -> int:
    plan, numbers = full_plan(size)
    for number in numbers:
        plan.busy(number, True)
    assert plan.crowded
    assert plan.wake_at == math.inf
    with counted(POOL) as steps:
        for user in range(50):
            ticket = plan.ask(Lease(f"new {user}", ""), wait=False)
            plan.decide(size)
            plan.leave(ticket, size)
    return steps.count


def wait_in_queue(size: int) -> int:
    """All kernels work, and as many users wait; kernels come and go, and some users give up."""
    plan, numbers = full_plan(size)
    for number in numbers:
        plan.busy(number, True)
    tickets = []
    for user in range(size):
        tickets.append(plan.ask(Lease(f"new {user}", ""), wait=True))
        plan.decide(size)
    with counted(POOL) as steps:
        for number, ticket in zip(numbers[:25], tickets[::-1], strict=False):
            plan.leave(ticket, size)
            plan.decide(size)
            plan.ended(number)
            start, *_ = plan.decide(size)
            plan.started(start.slot, size)
            plan.busy(start.slot, True)
            plan.decide(size)
    return steps.count


def restart_all(size: int) -> int:
    """All kernels end at once, and their users, who ask for new ones, wait for their ends."""
    plan, numbers = full_plan(size)
    for number in numbers:
        plan.end(number)
        plan.ask(plan.slots[number].lease, wait=True)
    plan.decide(size)
    plan.ended(numbers[-1])
    plan.decide(size)  # finds once that all others wait
    with counted(POOL) as steps:
        for number in numbers[-51:-1]:
            plan.ended(number)
            assert len(plan.decide(size)) == 2
    return steps.count


def ask_together(size: int) -> int:
    """Many requests wait for one kernel, and a few more come and go."""
    plan, numbers = full_plan(1)
    plan.busy(numbers[0], True)
    for _ in range(size):
        plan.ask(Lease("new", ""), wait=True)
        plan.decide(size)
    with counted(POOL) as steps:
        for wait in (True, False) * 25:
            ticket = plan.ask(Lease("new", ""), wait=wait)
            plan.decide(size)
            plan.leave(ticket, size)
    return steps.count


def cull(size: int) -> int:
    plan, _ = full_plan(size)
    with counted(POOL) as steps:
        assert len(plan.decide(1e9 + 49)) == 50
    return steps.count


def expire(size: int) -> int:
    plan, _ = full_plan(size, max_age=1e8)
    with counted(POOL) as steps:
        assert len(plan.decide(1e8 + 49)) == 50
    return steps.count


@pytest.mark.parametrize(
    "work", [get_own, work, evict, refuse, wait_in_queue, restart_all, ask_together, cull, expire]
)
def test_decisions_cost_the_same_however_many_there_are(work: Callable[[int], int]) -> None:
    assert work(1_600) <= 1.5 * work(100)


def test_order_of_the_idle_costs_little_for_each_fact() -> None:
    """A later decision puts right the order that many facts have changed."""

    def each(size: int) -> float:
        plan, numbers = full_plan(size)
        with counted(POOL) as steps:
            for number in numbers:
                plan.used(number, 1e6 - number)
            plan.decide(2e6)
            for number in numbers[:-1]:
                plan.busy(number, True)
            assert plan.wake_at == 1e9 + 1e6 - numbers[-1]
        return steps.count / size

    assert each(1_600) <= 2 * each(100)


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_kernel_costs_the_pool_the_same_however_many_there_are(pool_of) -> None:
    async def cost(size: int) -> tuple[float, int]:
        """Return the steps of a start, and of some requests and executions."""
        async with pool_of(max_kernels=size) as (pool, _):
            with counted(POOL) as starting:
                async with anyio.create_task_group() as tasks:
                    for user in range(size):
                        tasks.start_soon(pool.get, str(user))
            with counted(POOL) as steps:
                for user in range(5):
                    kernel = await pool.get(str(user))
                    await kernel.execute("6 * 7")
                    assert pool.find(kernel.kernel_id, user=str(user))
                    await checkpoint()
            return starting.count / size, steps.count

    for many, few in zip(await cost(80), await cost(5), strict=True):
        assert many <= 1.2 * few


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_refusal_examines_a_limited_number_of_busy_kernels(pool_of, monkeypatch) -> None:
    monkeypatch.setattr(executor_module, "_MOST_LOOKS", 2)
    # The pool looks at all busy kernels now and then; not while the steps are counted.
    monkeypatch.setattr(executor_module, "_LOOK_AGAIN_SECONDS", 1e9)

    async def execute(kernel: Kernel, code: str) -> None:
        await kernel.execute(code)

    async def cost(size: int) -> int:
        """Return the steps of some refused requests while so many kernels work."""
        async with pool_of(max_kernels=size) as (pool, _), anyio.create_task_group() as tasks:
            for user in range(size):
                tasks.start_soon(execute, await pool.get(str(user)), "work")
            while any(kernel.state != "busy" for kernel in pool.kernels()):
                await checkpoint()
            with pytest.raises(PoolFull):
                await pool.get("ada")  # puts the order of the idle kernels right
            with counted(POOL) as steps:
                for _ in range(5):
                    with pytest.raises(PoolFull):
                        await pool.get("ada")
            tasks.cancel_scope.cancel()
            return steps.count

    assert await cost(40) <= 1.2 * await cost(5)


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_kernel_is_found_by_its_id_without_a_search(pool_of) -> None:
    async def cost(size: int) -> int:
        """Return the steps of a search among so many kernels of one user."""
        async with pool_of(max_kernels=size, max_per_user=size) as (pool, _):
            for name in range(size):
                kernel = await pool.get("ada", name=str(name))
            with counted(POOL) as steps:
                assert pool.find(kernel.kernel_id, user="ada")
                assert pool.kernels(kernel_id=kernel.kernel_id)
            return steps.count

    assert await cost(40) == await cost(2)
