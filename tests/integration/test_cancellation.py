"""Cancelled at whatever moment, nothing is left: a kernel's life is cancelled step after step.

A step is what any task does between two checkpoints. A life has some seventy, of which every
STRIDEth is tried; ``SWEEP_STRIDE=1 pytest tests/integration/test_cancellation.py`` tries them all.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import anyio
import pytest
import trio

from kernelproto import (
    Kernel,
    KernelFinder,
    KernelPool,
    KernelRestarted,
    RestartPolicy,
    connect_kernel,
    run_kernel,
    start_kernel,
)
from kernelproto.testing import Exchange, FakeKernel, FakeProvider

pytestmark = pytest.mark.anyio

STRIDE = int(os.environ.get("SWEEP_STRIDE", "29"))
GUARD_SECONDS = 60
NEVER = 0

Program = Callable[[], Coroutine[Any, Any, None]]
Cancelled = Callable[[Program, int], Awaitable[bool]]
LeakCheck = Callable[[], AbstractContextManager[None]]

on_asyncio = pytest.mark.parametrize(
    "anyio_backend",
    [
        pytest.param(("asyncio", {}), id="asyncio"),
        pytest.param(
            ("asyncio", {"use_uvloop": True}),
            id="uvloop",
            marks=pytest.mark.skipif(not find_spec("uvloop"), reason="uvloop is not installed"),
        ),
    ],
)


class Steps(trio.abc.Instrument):
    """Counts the steps that all tasks take, and does something at some of them."""

    def __init__(self, action: Callable[[], object], *when: int) -> None:
        self.count = 0
        self._action = action
        self._when = when

    def tick(self) -> None:
        self.count += 1
        if self.count in self._when:
            self._action()

    def before_task_step(self, task: object) -> None:
        self.tick()

    def task_factory(
        self, loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        async def ticking() -> Any:
            return await step_by_step(coro, self.tick)

        return asyncio.Task(ticking(), loop=loop, **options)

    @contextmanager
    def counted(self) -> Iterator[None]:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            trio.lowlevel.add_instrument(self)
            yield
            trio.lowlevel.remove_instrument(self)
        else:
            loop.set_task_factory(self.task_factory)
            yield
            loop.set_task_factory(None)


@types.coroutine
def step_by_step(
    coro: Coroutine[Any, Any, Any], tick: Callable[[], None]
) -> Generator[Any, Any, Any]:
    """Do what ``await coro`` does, with a tick before each step."""
    step = partial(coro.send, None)
    while True:
        tick()
        try:
            trap = step()
        except StopIteration as stop:
            return stop.value
        try:
            step = partial(coro.send, (yield trap))
        except BaseException as error:
            step = partial(coro.throw, error)


async def by_its_scope(program: Program, step: int) -> bool:
    """Run *program* in a scope that is cancelled at *step*; return whether it came to that."""
    scope = anyio.CancelScope()
    with Steps(scope.cancel, step).counted(), scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(program)
    return scope.cancel_called


async def as_a_task(program: Program, *steps: int) -> bool:
    """Run *program* in an asyncio task that is cancelled at these steps; likewise."""
    counter = Steps(lambda: task.cancel(), *steps)
    with counter.counted():
        task = asyncio.get_running_loop().create_task(program())
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return NEVER < min(steps) <= counter.count


async def as_a_task_and_again(program: Program, step: int) -> bool:
    return await as_a_task(program, *range(step, step + 30, 6))


async def sweep(
    program: Program, cancelled: Cancelled, leak_check: LeakCheck, *, stride: int = STRIDE
) -> None:
    assert not await cancelled(program, NEVER)
    tasks = set(anyio.get_running_tasks())
    for step in itertools.count(1, stride):
        with leak_check(), anyio.fail_after(GUARD_SECONDS):
            reached = await cancelled(program, step)
        assert set(anyio.get_running_tasks()) == tasks
        if not reached:
            return


async def use(kernel: Kernel) -> None:
    """Do a bit of everything."""
    await kernel.execute("say('awaited', parent)")
    async for output in kernel.execute("say('iterated', parent)"):
        assert output.text == "iterated"
    async with kernel.execute("say('scoped', parent)"):
        await kernel.complete("pri")
    await kernel.client.heartbeat()


async def run() -> None:
    async with run_kernel("spec/scripted", transport="ipc") as kernel:
        await use(kernel)


async def start() -> None:
    kernel = await start_kernel("spec/scripted", transport="tcp")
    try:
        await use(kernel)
    finally:
        await kernel.shutdown()


async def restart() -> None:
    policy = RestartPolicy(time_to_dead=None)
    async with run_kernel("spec/scripted", transport="ipc", restart=policy) as kernel:
        await kernel.execute("say('first', parent)")
        await kernel.restart()
        async with kernel.execute("say('second', parent); os._exit(1)") as execution:
            with pytest.raises(KernelRestarted):
                await execution
        await kernel.execute("say('third', parent)")


programs = pytest.mark.parametrize("program", [run, start, restart])


@programs
async def test_scope(program: Program, leak_check: LeakCheck) -> None:
    await sweep(program, by_its_scope, leak_check)


@on_asyncio
@pytest.mark.parametrize("cancelled", [as_a_task, as_a_task_and_again])
@programs
async def test_asyncio_task(program: Program, cancelled: Cancelled, leak_check: LeakCheck) -> None:
    await sweep(program, cancelled, leak_check)


async def test_connection(leak_check: LeakCheck) -> None:
    async def connect() -> None:
        async with connect_kernel(kernel.connection_info) as client:
            await client.execute("say('hello', parent)")
            await client.kernel_info()

    async with run_kernel("spec/scripted") as kernel:
        await sweep(connect, by_its_scope, leak_check)
        result = await kernel.execute("say('still here', parent)")
        assert result.stdout == "still here"


async def test_pool(leak_check: LeakCheck) -> None:
    """With kernels that are no processes: theirs are cancelled above."""

    async def say(exchange: Exchange) -> None:
        exchange.stream("said")

    def prepare(fake: FakeKernel) -> None:
        fake.on_execute("say", say)

    async def share() -> None:
        async with (
            FakeProvider(prepare) as provider,
            KernelPool(
                finder=KernelFinder([provider]), kernel_type="fake/kernel", max_kernels=2, warm=1
            ) as pool,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(pool.get, "ada")
            await pool.get("ada")
            async with pool.connection("bob", msg_types=("stream",)) as bob:
                await bob.kernel.execute("say")
                await anext(bob.messages)
                await (await pool.get("eve")).execute("say")  # in the place of ada
            await pool.restart("eve")
            tasks.start_soon(pool.release, "bob")
            await pool.release("eve")
            await pool.get("ada")

    await sweep(share, by_its_scope, leak_check)


async def test_ipykernel(leak_check: LeakCheck) -> None:
    async def run() -> None:
        async with run_kernel("pyimport/kernel") as kernel:
            async for output in kernel.execute("print(1)"):
                assert output.text in "1\n"  # it may come in two pieces
            await kernel.execute("2")

    await sweep(run, by_its_scope, leak_check, stride=2 * STRIDE)
