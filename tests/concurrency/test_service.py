# ruff: noqa: PT012 (what a whole block raises is the subject here)
"""A service is entered and left by one task, whichever tasks start and stop it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto import WrongEventLoop
from kernelproto.concurrency.service import Service

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60

variable: ContextVar[str] = ContextVar("variable", default="")


class Served:
    """Has a task group, and notes which task enters and leaves it."""

    def __init__(self) -> None:
        self.tasks: list[int] = []
        self.fail: Callable[[], object] = lambda: None

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[str]:
        self.tasks.append(anyio.get_current_task().id)
        try:
            async with anyio.create_task_group() as tasks:
                broken = anyio.Event()
                self.fail = broken.set
                tasks.start_soon(self._fail, broken)
                yield variable.get()
                tasks.cancel_scope.cancel()
        finally:
            self.tasks.append(anyio.get_current_task().id)

    async def _fail(self, broken: anyio.Event) -> None:
        await broken.wait()
        raise OSError("the service is broken")


async def in_a_task(function: Callable[[], object]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)


async def test_any_task_may_enter_and_leave() -> None:
    served = Served()
    stack = AsyncExitStack()

    async def enter() -> None:
        await stack.enter_async_context(Service(served.open(), "service"))

    with anyio.fail_after(GUARD_SECONDS):
        await in_a_task(enter)
        await in_a_task(stack.aclose)
    assert len(set(served.tasks)) == 1
    assert anyio.get_current_task().id not in served.tasks


async def test_the_service_has_the_context_of_the_caller() -> None:
    token = variable.set("the caller's")
    async with Service(Served().open(), "service") as value:
        assert value == "the caller's"
    variable.reset(token)


async def test_exception_from_the_block_is_unchanged() -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with Service(Served().open(), "service"):
            raise error
    assert caught.value is error


async def test_failure_to_enter_is_raised_unchanged() -> None:
    error = OSError("cannot be entered")

    @asynccontextmanager
    async def fail() -> AsyncGenerator[None]:
        raise error
        yield

    with pytest.raises(OSError, match="cannot be entered") as caught:
        async with Service(fail(), "service"):
            pytest.fail("it was entered")
    assert caught.value is error


async def test_failure_during_the_block_is_logged_and_raised_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = Served()
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(ExceptionGroup) as caught:
        async with Service(served.open(), "service"):
            served.fail()
            while not caplog.records:
                await checkpoint()
            assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert [str(error) for error in caught.value.exceptions] == ["the service is broken"]


async def test_failure_beside_an_exception_of_the_block_is_added_as_a_note(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = Served()
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(ValueError, match="mine") as caught:
        async with Service(served.open(), "service"):
            served.fail()
            while not caplog.records:
                await checkpoint()
            raise ValueError("mine")
    assert "the service is broken" in caught.value.__notes__[0]


async def test_cancellation_during_start_leaves_nothing() -> None:
    left = []

    @asynccontextmanager
    async def never() -> AsyncGenerator[None]:
        try:
            await anyio.sleep_forever()
            yield
        finally:
            left.append(1)

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Service(never(), "service").start)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
    assert left == [1]


async def test_cancellation_of_the_block_passes_through() -> None:
    served = Served()
    with anyio.CancelScope() as scope:
        async with Service(served.open(), "service"):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert len(served.tasks) == 2


async def test_several_tasks_may_stop_a_service() -> None:
    served = Served()
    service = Service(served.open(), "service")
    await service.start()
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(service.stop)
        await service.stop()
    assert len(served.tasks) == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_other_event_loop_gets_wrong_event_loop(anyio_backend: str) -> None:
    service = Service(Served().open(), "service")
    await service.start()

    def stop_elsewhere() -> None:
        asyncio.run(service.stop())

    with anyio.fail_after(GUARD_SECONDS):
        with pytest.raises(WrongEventLoop, match="loop_scope"):
            await anyio.to_thread.run_sync(stop_elsewhere)
        await service.stop()
