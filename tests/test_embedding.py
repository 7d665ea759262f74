"""kernelproto inside other people's programs: a service on plain asyncio, and a program on Trio."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from kernelproto import (
    ClientClosed,
    Kernel,
    KernelDied,
    WrongEventLoop,
    connect_kernel,
    run_kernel,
    start_kernel,
)

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60
FOR_EVER = "say('begun', parent); pause()"


@pytest.fixture(autouse=True)
def scripted_kernel(runtime_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install ``spec/scripted``; see tests/integration/share."""
    monkeypatch.setenv("JUPYTER_PATH", str(Path(__file__).parent / "integration" / "share"))


async def begin(kernel: Kernel) -> None:
    """Run code that does not end."""
    async for _ in kernel.execute(FOR_EVER):
        pass


@pytest.mark.asyncio
async def test_tasks_share_a_kernel() -> None:
    async with run_kernel("pyimport/kernel") as kernel:

        async def square(number: int) -> str | None:
            result = await kernel.execute(f"{number} ** 2")
            return result.text

        assert await asyncio.gather(*map(square, range(20))) == [str(n**2) for n in range(20)]
        async with asyncio.TaskGroup() as tasks:
            nine = tasks.create_task(square(3))
            completions = tasks.create_task(kernel.complete("impor"))
        assert nine.result() == "9"
        assert "import" in completions.result().matches


@pytest.mark.asyncio
async def test_execution_is_an_awaitable_for_asyncio() -> None:
    async with run_kernel("scripted") as kernel:
        results = await asyncio.gather(
            kernel.execute("say('one', parent)"), kernel.execute("say('two', parent)")
        )
        assert [result.stdout for result in results] == ["one", "two"]
        waited = await asyncio.wait_for(kernel.execute("say('three', parent)"), GUARD_SECONDS)
        assert waited.stdout == "three"


@pytest.mark.asyncio
async def test_timeout_leaves_the_kernel_usable() -> None:
    async with run_kernel("scripted") as kernel:
        async with kernel.execute(FOR_EVER) as execution:
            await anext(execution)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await execution
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(execution, 0.01)
            await kernel.interrupt()
            result = await execution
        assert result.error.ename == "KeyboardInterrupt"
        assert (await kernel.execute("say('hello', parent)")).stdout == "hello"


@pytest.mark.asyncio
async def test_cancelled_task_leaves_the_kernel_to_the_others() -> None:
    async def wait() -> None:
        await execution

    async with run_kernel("scripted") as kernel, kernel.execute(FOR_EVER) as execution:
        await anext(execution)
        first, second = asyncio.create_task(wait()), asyncio.create_task(kernel.kernel_info())
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await kernel.interrupt()
        assert (await second).status == "ok"


@pytest.mark.asyncio
async def test_failing_sibling_ends_the_block_and_is_the_only_one_told_of() -> None:
    async def serve() -> None:
        async with run_kernel("scripted") as kernel:
            begun.set_result(kernel)
            await begin(kernel)

    async def fail() -> None:
        await begun
        raise ValueError("mine")

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(serve())
            tasks.create_task(fail())

    begun = asyncio.get_running_loop().create_future()
    with pytest.raises(ExceptionGroup) as caught:
        await main()
    assert [str(error) for error in caught.value.exceptions] == ["mine"]
    assert not await begun.result().manager.is_alive()


@pytest.mark.asyncio
@pytest.mark.parametrize("times", [1, 2, 5])
async def test_task_that_is_cancelled_again_while_it_ends_the_kernel(times: int) -> None:
    """The kernel is ended in order all the same, and only then does the task end."""

    async def serve() -> None:
        async with run_kernel("scripted") as kernel:
            begun.set_result(kernel)
            await begin(kernel)

    begun = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve())
    kernel = await begun
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not await kernel.manager.is_alive()


@pytest.mark.asyncio
async def test_timeout_that_strikes_while_the_block_is_left() -> None:
    kernels: list[Kernel] = []

    async def main() -> None:
        async with asyncio.timeout(None) as timeout, run_kernel("scripted") as kernel:
            kernels.append(kernel)
            timeout.reschedule(asyncio.get_running_loop().time())

    with pytest.raises(TimeoutError):
        await main()
    assert await kernels[0].manager.wait() == 0


@pytest.mark.asyncio
async def test_kernel_that_is_started_and_shut_down_by_different_tasks() -> None:
    kernel = await asyncio.create_task(start_kernel("scripted"))
    assert (await kernel.execute("say('hello', parent)")).stdout == "hello"
    assert await asyncio.create_task(kernel.shutdown()) == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.asyncio
@pytest.mark.parametrize("kind", ["scripted", "connected"])
async def test_block_that_is_entered_and_left_by_different_tasks(kind: str) -> None:
    """As pytest-asyncio does with fixtures."""
    async with run_kernel("scripted") as other, AsyncExitStack() as stack:
        opened = run_kernel("scripted")
        if kind == "connected":
            opened = connect_kernel(other.connection_info)
        kernel = await asyncio.create_task(stack.enter_async_context(opened))
        assert (await kernel.execute("say('hello', parent)")).stdout == "hello"
        await asyncio.wait_for(asyncio.create_task(stack.aclose()), GUARD_SECONDS)
        with pytest.raises(ClientClosed):
            await kernel.execute("pass")
        assert (await other.execute("say('hello', parent)")).stdout == "hello"
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.asyncio
async def test_another_event_loop_cannot_use_a_kernel() -> None:
    """As a test with a loop of its own, and the fixture of a module."""

    def elsewhere(use: Callable[[], Awaitable[object]]) -> None:
        async def main() -> None:
            await use()

        asyncio.run(main())

    async with run_kernel("scripted") as kernel:
        for use in (lambda: kernel.execute("pass"), kernel.restart, kernel.client.heartbeat):
            with pytest.raises(WrongEventLoop, match="loop_scope"):
                await asyncio.to_thread(elsewhere, use)
        assert (await kernel.execute("say('hello', parent)")).stdout == "hello"


@pytest.mark.asyncio
async def test_shutdown_in_a_cancelled_task() -> None:
    async def serve() -> None:
        kernel = await start_kernel("scripted")
        try:
            begun.set_result(kernel)
            await begin(kernel)
        finally:
            await kernel.shutdown()

    begun = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve())
    kernel = await begun
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not await kernel.manager.is_alive()


@pytest.mark.asyncio
async def test_service_with_several_kernels() -> None:
    """What comes first in a stack of blocks goes last, and one kernel's death is its own."""
    async with AsyncExitStack() as stack:
        kernels = [await stack.enter_async_context(run_kernel("scripted")) for _ in range(3)]
        await kernels[0].manager.signal(signal.SIGKILL)
        with pytest.raises(KernelDied):
            await kernels[0].execute("pass")
        for kernel in kernels[1:]:
            assert (await kernel.execute("say('hello', parent)")).stdout == "hello"
    with pytest.raises(ClientClosed):
        await kernels[1].execute("pass")


@pytest.mark.asyncio
async def test_outputs_are_handed_on_through_a_queue() -> None:
    queue: asyncio.Queue[str | None] = asyncio.Queue(maxsize=1)

    async def produce() -> None:
        async for output in kernel.execute("for n in range(100): say(str(n), parent)"):
            await queue.put(output.text)
        await queue.put(None)

    async with run_kernel("scripted") as kernel, asyncio.TaskGroup() as tasks:
        tasks.create_task(produce())
        texts = [text async for text in aiter_queue(queue)]
    assert texts == [str(n) for n in range(100)]


async def aiter_queue(queue: asyncio.Queue[str | None]):
    while (item := await queue.get()) is not None:
        yield item


def test_trio_program() -> None:
    log: list[str | None] = []

    async def compute(kernel: Kernel, number: int) -> None:
        result = await kernel.execute(f"{number} ** 2")
        log.append(result.text)

    async def serve(task_status: trio.TaskStatus[Kernel]) -> None:
        async with run_kernel("pyimport/kernel") as kernel:
            task_status.started(kernel)
            await trio.sleep_forever()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            kernel = await nursery.start(serve)
            async with trio.open_nursery() as tasks:
                for number in range(5):
                    tasks.start_soon(compute, kernel, number)
            execution = kernel.execute("print('begun', flush=True)\nwhile True: pass")
            await anext(execution)
            with trio.move_on_after(0.01) as waiting:
                await execution
            assert waiting.cancelled_caught
            await kernel.interrupt()
            result = await execution
            log.append(result.error and result.error.ename)
            nursery.cancel_scope.cancel()
        assert not await kernel.manager.is_alive()

    trio.run(main, strict_exception_groups=True)
    assert sorted(log[:5], key=int) == ["0", "1", "4", "9", "16"]
    assert log[5:] == ["KeyboardInterrupt"]


def test_trio_program_that_fails() -> None:
    async def main() -> None:
        async with run_kernel("scripted") as kernel, trio.open_nursery() as nursery:
            nursery.start_soon(begin, kernel)
            raise ValueError("mine")

    with pytest.raises(ExceptionGroup) as caught:
        trio.run(main)
    assert [str(error) for error in caught.value.exceptions] == ["mine"]
