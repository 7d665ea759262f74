# ruff: noqa: PT012 (what a whole block raises is the subject here)
from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator

import anyio
import pytest

from kernelproto.concurrency.task_groups import background_tasks, start_in_event_loop

GUARD_SECONDS = 60
THREAD_NAME = "a task's visible parent"


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(GUARD_SECONDS)
            assert not thread.is_alive()


async def fail_when_cancelled(error: BaseException) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        raise error


async def fail(error: BaseException) -> None:
    raise error


def notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


@pytest.mark.anyio
class TestBackgroundTasks:
    async def test_run_beside_the_block_and_end_with_it(self) -> None:
        ended = []

        async def serve(started: anyio.Event) -> None:
            started.set()
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(1)

        with anyio.fail_after(GUARD_SECONDS):
            async with background_tasks() as tasks:
                for _ in range(3):
                    started = anyio.Event()
                    tasks.start_soon(serve, started)
                    await started.wait()
                assert not ended
        assert len(ended) == 3

    async def test_a_task_that_returns_does_not_end_the_block(self) -> None:
        async with background_tasks() as tasks:
            tasks.start_soon(anyio.lowlevel.checkpoint)
            await anyio.wait_all_tasks_blocked()

    @pytest.mark.parametrize("with_task", [False, True], ids=["no task", "a task"])
    @pytest.mark.parametrize(
        "error",
        [
            ValueError("mine"),
            ExceptionGroup("mine", [ValueError("one"), TypeError("two")]),
            BaseExceptionGroup("mine", [KeyboardInterrupt()]),
            KeyboardInterrupt(),
            SystemExit(3),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_an_exception_from_the_block_is_unchanged(self, error, with_task) -> None:
        error.__traceback__ = error.__context__ = None
        with pytest.raises(type(error)) as raised:
            async with background_tasks() as tasks:
                if with_task:
                    tasks.start_soon(anyio.sleep_forever)
                raise error
        assert raised.value is error
        assert error.__context__ is None
        assert error.__cause__ is None
        assert notes(error) == []

    async def test_an_exception_group_keeps_its_own_type(self) -> None:
        class Mine(ExceptionGroup[ValueError]):
            pass

        error = Mine("mine", [ValueError("one")])
        with pytest.raises(ExceptionGroup) as raised:
            async with background_tasks():
                raise error
        assert raised.value is error

    async def test_a_failing_task_cancels_the_block_and_its_error_is_raised(self) -> None:
        error = ValueError("the task's")
        with anyio.fail_after(GUARD_SECONDS), pytest.raises(ValueError, match="task's") as raised:
            async with background_tasks() as tasks:
                tasks.start_soon(fail, error)
                await anyio.sleep_forever()
        assert raised.value is error
        assert notes(error) == []

    async def test_error_of_the_block_is_raised_with_that_of_the_task_as_a_note(self) -> None:
        error = ValueError("the block's")
        with pytest.raises(ValueError, match="block's") as raised:
            async with background_tasks() as tasks:
                tasks.start_soon(fail_when_cancelled, TypeError("the task's"))
                await anyio.wait_all_tasks_blocked()
                raise error
        assert raised.value is error
        assert notes(error) == [
            """a background task failed as well: TypeError("the task's")""",
        ]

    async def test_second_failing_task_is_added_as_a_note(self) -> None:
        with pytest.raises((KeyError, IndexError)) as raised:
            async with background_tasks() as tasks:
                tasks.start_soon(fail_when_cancelled, KeyError("one"))
                tasks.start_soon(fail_when_cancelled, IndexError("two"))
                await anyio.wait_all_tasks_blocked()
        other = "IndexError('two')" if isinstance(raised.value, KeyError) else "KeyError('one')"
        assert notes(raised.value) == [f"a background task failed as well: {other}"]

    async def test_a_task_that_fails_at_the_end_is_raised(self) -> None:
        with pytest.raises(ValueError, match="late"):
            async with background_tasks() as tasks:
                tasks.start_soon(fail_when_cancelled, ValueError("late"))
                await anyio.wait_all_tasks_blocked()

    async def test_cancellation_from_outside_passes_through(self) -> None:
        with anyio.CancelScope() as scope:
            async with background_tasks() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught

    async def test_cancellation_from_outside_hides_no_failure(self) -> None:
        error = ValueError("the task's")
        with pytest.raises(ValueError, match="task's") as raised, anyio.CancelScope() as scope:
            async with background_tasks() as tasks:
                tasks.start_soon(fail_when_cancelled, error)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.sleep_forever()
        assert raised.value is error
        assert notes(error) == []

    async def test_cancellation_from_outside_at_the_end_hides_no_failure(self) -> None:
        async def clean_up_for_long(cleaning: anyio.Event, proceed: anyio.Event) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                cleaning.set()
                with anyio.CancelScope(shield=True):
                    await proceed.wait()

        async def cancel(scope: anyio.CancelScope, cleaning: anyio.Event, proceed: anyio.Event):
            await cleaning.wait()
            scope.cancel()
            proceed.set()

        async with anyio.create_task_group() as beside:
            with pytest.raises(ValueError, match="block's"), anyio.CancelScope() as scope:
                async with background_tasks() as tasks:
                    events = anyio.Event(), anyio.Event()
                    tasks.start_soon(clean_up_for_long, *events)
                    beside.start_soon(cancel, scope, *events)
                    await anyio.wait_all_tasks_blocked()
                    raise ValueError("the block's")

    async def test_a_cancelled_task_group_in_the_block_leaves_no_cancellation(self) -> None:
        with pytest.raises((ValueError, ExceptionGroup)) as raised:
            async with background_tasks() as tasks:
                tasks.start_soon(fail, ValueError("the task's"))
                async with anyio.create_task_group() as own:
                    own.start_soon(fail_when_cancelled, TypeError("the block's"))
                    await anyio.sleep_forever()
        said = repr(raised.value) + "".join(notes(raised.value))
        assert "the task's" in said
        assert "the block's" in said
        assert "Cancelled" not in said

    @pytest.mark.parametrize("anyio_backend", ["asyncio"])
    async def test_cancellation_of_an_asyncio_task_passes_through(self, anyio_backend) -> None:
        async def use() -> None:
            async with background_tasks() as tasks:
                tasks.start_soon(anyio.sleep_forever)
                await anyio.sleep_forever()

        task = asyncio.create_task(use())
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    async def test_nested_blocks_raise_the_same_exception(self) -> None:
        error = ValueError("the innermost")
        with pytest.raises(ValueError, match="innermost") as raised:
            async with background_tasks() as outer, background_tasks() as inner:
                outer.start_soon(anyio.sleep_forever)
                inner.start_soon(anyio.sleep_forever)
                raise error
        assert raised.value is error

    async def test_a_raised_exception_keeps_nothing_alive(self) -> None:
        class Precious:
            pass

        async def use() -> weakref.ref[Precious]:
            precious = Precious()
            there = weakref.ref(precious)
            try:
                async with background_tasks():
                    raise ValueError(precious)
            except ValueError:
                return there

        gc.collect()
        gc.disable()
        try:
            assert (await use())() is None
        finally:
            gc.enable()


class TestStartInEventLoop:
    """Each test has an event loop of its own, because it is about its end."""

    @pytest.fixture
    def run(self, anyio_backend):
        name, options = anyio_backend
        return lambda main: anyio.run(main, backend=name, backend_options=options)

    def test_the_task_runs_until_it_returns(self, run) -> None:
        async def main() -> None:
            proceed, returned = anyio.Event(), anyio.Event()

            async def serve() -> None:
                await proceed.wait()
                returned.set()

            with anyio.fail_after(GUARD_SECONDS):
                await start_in_event_loop(serve, THREAD_NAME)
                assert THREAD_NAME in {thread.name for thread in threading.enumerate()}
                proceed.set()
                await returned.wait()

        run(main)

    def test_the_task_outlives_the_one_that_started_it(self, run) -> None:
        async def main() -> None:
            proceed, returned = anyio.Event(), anyio.Event()

            async def serve() -> None:
                await proceed.wait()
                returned.set()

            with anyio.fail_after(GUARD_SECONDS):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(start_in_event_loop, serve, THREAD_NAME)
                proceed.set()
                await returned.wait()

        run(main)

    def test_the_task_is_cancelled_with_the_event_loop_without_noise(self, run, capfd) -> None:
        ended = []

        async def serve() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                ended.append(1)

        async def main() -> None:
            await start_in_event_loop(serve, THREAD_NAME)
            await anyio.wait_all_tasks_blocked()

        run(main)
        assert ended == [1]
        assert capfd.readouterr() == ("", "")

    def test_the_event_loop_may_end_at_once(self, run, capfd) -> None:
        async def main() -> None:
            await start_in_event_loop(anyio.sleep_forever, THREAD_NAME)

        for _ in range(20):
            run(main)
        assert capfd.readouterr() == ("", "")

    def test_the_event_loop_may_end_with_an_exception(self, run, capfd) -> None:
        async def main() -> None:
            await start_in_event_loop(anyio.sleep_forever, THREAD_NAME)
            raise ValueError("the program's")

        with pytest.raises(ValueError, match="program's"):
            run(main)
        assert capfd.readouterr() == ("", "")

    def test_the_task_starts_even_if_its_starter_is_cancelled(self, run) -> None:
        async def main() -> None:
            served = anyio.Event()

            async def serve() -> None:
                served.set()

            with anyio.fail_after(GUARD_SECONDS):
                with anyio.CancelScope() as scope:
                    scope.cancel()
                    await start_in_event_loop(serve, THREAD_NAME)
                await served.wait()

        run(main)
