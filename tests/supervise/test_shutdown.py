"""A kernel ends in order, whatever its manager does wrong."""

from __future__ import annotations

import signal

import anyio
import pytest

from kernelproto import (
    ClientClosed,
    Kernel,
    KernelDied,
)
from tests.supervise.opened import GUARD_SECONDS, IMPATIENT, Flawed, fail, hang, opened

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


flaws = pytest.mark.parametrize("flaw", [hang, fail])


@pytest.mark.parametrize("method", ["interrupt", "terminate", "kill", "cleanup"])
@flaws
async def test_flawed_manager(launch, flaw, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """A failing step does not stop the next ones, and the block's exception is raised."""

    async def work(kernel: Kernel) -> None:
        await anext(kernel.execute("say('begun', parent); pause()"))
        raise ValueError("mine")

    info, manager = await launch("no-shutdown no-sigterm")
    with pytest.raises(ValueError, match="mine"):
        async with opened(info, Flawed(manager, flaw, method), IMPATIENT) as kernel:
            await work(kernel)
    if method == "cleanup":
        await manager.cleanup()
    assert await manager.wait() == -signal.SIGKILL
    assert ("the manager is broken" in caplog.text) == (flaw is fail)


@flaws
async def test_shutdown_although_every_method_fails(launch, flaw) -> None:
    info, manager = await launch()
    methods = ["interrupt", "terminate", "kill", "cleanup"]
    with anyio.fail_after(GUARD_SECONDS):
        async with opened(info, Flawed(manager, flaw, *methods), IMPATIENT) as kernel:
            await kernel.manager.signal(signal.SIGSTOP)
            assert await kernel.shutdown() is None
            with pytest.raises(ClientClosed):
                await kernel.execute("pass")
    await manager.cleanup()


async def test_shutdown_although_wait_never_returns(launch) -> None:
    info, manager = await launch()
    with anyio.fail_after(GUARD_SECONDS):
        async with opened(info, Flawed(manager, hang, "wait"), IMPATIENT) as kernel:
            assert await kernel.shutdown() is None
    assert await manager.wait() == 0


async def test_shutdown_and_death_at_the_same_time(launch) -> None:
    """All pending calls raise the same exception, that of the shutdown or of the death."""
    told: list[type[Exception]] = []

    async def wait(kernel: Kernel) -> None:
        with pytest.raises((ClientClosed, KernelDied)) as caught:
            await kernel.execute("pass")
        told.append(caught.type)

    async with opened(*await launch(), IMPATIENT) as kernel:
        await kernel.manager.signal(signal.SIGSTOP)
        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(wait, kernel)
            await anyio.wait_all_tasks_blocked()
            await kernel.manager.kill()
            assert await kernel.shutdown() == -signal.SIGKILL
    assert len(told) == 10
    assert len(set(told)) == 1
