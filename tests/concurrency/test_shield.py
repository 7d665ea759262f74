from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from kernelproto.concurrency.shield import to_the_end

pytestmark = pytest.mark.anyio

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])


class Work:
    """Work that takes some turns of the event loop."""

    done = False

    async def do(self) -> str:
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        self.done = True
        return "result"


async def test_result() -> None:
    assert await to_the_end(Work().do) == "result"


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt("mine"), SystemExit(3)])
async def test_exception_is_raised_unchanged(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        await to_the_end(fail)
    assert caught.value is error


async def test_exceeded_time_limit_returns_none() -> None:
    assert await to_the_end(anyio.sleep_forever, seconds=0.01) is None


async def test_a_cancelled_scope_does_not_reach_the_work() -> None:
    work = Work()
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await to_the_end(work.do) == "result"
    assert work.done


async def test_time_limit_in_a_cancelled_scope() -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        assert await to_the_end(anyio.sleep_forever, seconds=0.01) is None


@on_asyncio
@pytest.mark.parametrize("times", [1, 3])
async def test_a_cancelled_asyncio_task_leaves_after_the_work(times: int) -> None:
    work = Work()
    task = asyncio.create_task(to_the_end(work.do))
    for _ in range(times):
        await asyncio.sleep(0)
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert work.done


@on_asyncio
async def test_asyncio_timeout_is_raised_after_the_work() -> None:
    work = Work()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await to_the_end(work.do)
    assert work.done
