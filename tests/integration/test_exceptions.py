"""What is raised inside a block arrives outside as itself."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from kernelproto import Kernel, connect_kernel, run_kernel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    async with run_kernel("spec/scripted") as kernel, connect_kernel(kernel.connection_info):
        yield


doors = pytest.mark.parametrize(
    "door", [lambda: run_kernel("spec/scripted"), connected], ids=["run_kernel", "connect_kernel"]
)


@doors
@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        TimeoutError("mine"),
        ExceptionGroup("mine", [ValueError("one"), OSError("two")]),
        BaseExceptionGroup("mine", [KeyboardInterrupt()]),
        KeyboardInterrupt("mine"),
        SystemExit(3),
        StopAsyncIteration("mine"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_exception(door, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with door():
            raise error
    assert caught.value is error
    assert caught.value.__cause__ is None
    assert not hasattr(error, "__notes__")


@doors
async def test_exception_with_a_cause_and_a_context(door) -> None:
    async def fail() -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("mine") from error

    with pytest.raises(ValueError, match="mine") as caught:
        async with door():
            await fail()
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.__cause__.__context__ is None


async def test_exception_while_code_runs() -> None:
    async def fail(kernel: Kernel) -> None:
        async for _ in kernel.execute("say('running', parent); pause()"):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        async with run_kernel("spec/scripted") as kernel:
            await fail(kernel)


@doors
async def test_cancellation_is_caught_by_its_own_scope_alone(door) -> None:
    with anyio.CancelScope() as outer:
        with anyio.CancelScope() as scope:
            async with door():
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
    assert not outer.cancelled_caught


@doors
async def test_cancellation_in_the_very_last_moment_changes_nothing(door) -> None:
    with anyio.CancelScope() as scope:
        async with door():
            scope.cancel()
    assert scope.cancel_called
