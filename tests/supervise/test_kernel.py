from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import msgspec
import pytest

from kernelproto import (
    ClientClosed,
    Kernel,
    KernelDied,
    KernelExitedEarly,
    KernelManager,
    KernelNotReady,
    LocalProtocolError,
    Timeouts,
    UnsupportedRequest,
)
from kernelproto.client import open_client
from kernelproto.supervise.kernel import open_kernel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
PATIENT = Timeouts()
IMPATIENT = Timeouts(shutdown=0.2, terminate=0.2, kill=0.2)


@asynccontextmanager
async def opened(info, manager, timeouts: Timeouts = PATIENT) -> AsyncIterator[Kernel]:
    launched = [(info, manager)]

    async def launch(**changes):
        await anyio.lowlevel.checkpoint()
        return launched.pop()

    async with open_kernel(launch, timeouts=timeouts) as kernel:
        yield kernel


class Flawed:
    """Somebody else's manager: *flaw* is what one of its methods does, or all of them do."""

    def __init__(self, manager: KernelManager, flaw, *methods: str) -> None:
        self._manager = manager
        for method in methods:
            setattr(self, method, flaw)

    def __getattr__(self, name: str):
        return getattr(self._manager, name)


async def hang(*arguments: object) -> None:
    await anyio.sleep_forever()


async def fail(*arguments: object) -> None:
    await anyio.lowlevel.checkpoint()
    raise OSError("the manager is broken")


flaws = pytest.mark.parametrize("flaw", [hang, fail])


async def test_states(launch) -> None:
    info, manager = await launch()
    async with opened(info, manager) as kernel:
        assert kernel.owned
        assert (kernel.kernel_id, kernel.manager) == (manager.kernel_id, manager)
        assert (kernel.connection_info, kernel.client.connection_info) == (info, info)
        assert await kernel.wait_for_ready() is kernel.info
        execution = kernel.execute("say('begun', parent); import time; time.sleep(1000)")
        await anext(execution)
        assert kernel.state == "busy"
        await kernel.interrupt()
        await execution
        assert kernel.state == "idle"
        assert await kernel.shutdown() == 0
        assert kernel.state == "dead"
        with pytest.raises(ClientClosed):
            await kernel.wait_for_ready()


async def test_state_after_death(launch) -> None:
    async with opened(*await launch()) as kernel:
        await kernel.manager.kill()
        with pytest.raises(KernelDied):
            await kernel.execute("pass")
        assert kernel.state == "dead"


async def test_kernel_that_ends_while_it_starts(launch) -> None:
    info, manager = await launch("mute")
    async with anyio.create_task_group() as tasks:

        @tasks.start_soon
        async def kill_when_it_is_waited_for() -> None:
            await anyio.wait_all_tasks_blocked()
            await manager.kill()

        with pytest.raises(KernelExitedEarly, match="SIGKILL") as caught:
            async with opened(info, manager):
                pytest.fail("it has started")
    assert caught.value.returncode == -signal.SIGKILL
    assert caught.value.command == manager.command


async def test_kernel_without_outputs(launch) -> None:
    info, manager = await launch("no-iopub talks")
    async with open_client(info) as client:  # comes back when the kernel is there
        await client.kernel_info()
    with pytest.raises(KernelNotReady) as caught:
        async with opened(info, manager, Timeouts(startup=1)):
            pytest.fail("it has started")
    assert (caught.value.phase, caught.value.stderr) == ("iopub messages", "hello\n")


async def test_kernel_that_cannot_be_connected_to_is_ended_as_well(launch) -> None:
    info, manager = await launch()
    info = msgspec.structs.replace(info, signature_scheme="hmac-unknown")
    with pytest.raises(LocalProtocolError, match="hmac-unknown"):
        async with opened(info, manager):
            pytest.fail("it has started")
    assert not await manager.is_alive()


@pytest.mark.parametrize("method", ["interrupt", "terminate", "kill", "cleanup"])
@flaws
async def test_flawed_manager(launch, flaw, method: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever fails on the way, the other steps are taken, and the block's exception is raised."""

    async def work(kernel: Kernel) -> None:
        await anext(kernel.execute("say('begun', parent); import time; time.sleep(1000)"))
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
async def test_manager_that_does_nothing_right(launch, flaw) -> None:
    info, manager = await launch()
    methods = ["interrupt", "terminate", "kill", "cleanup"]
    with anyio.fail_after(GUARD_SECONDS):
        async with opened(info, Flawed(manager, flaw, *methods), IMPATIENT) as kernel:
            await kernel.manager.signal(signal.SIGSTOP)
            assert await kernel.shutdown() is None
            with pytest.raises(ClientClosed):
                await kernel.execute("pass")
    await manager.cleanup()


async def test_end_of_the_process_that_nobody_is_told_of(launch) -> None:
    info, manager = await launch()
    with anyio.fail_after(GUARD_SECONDS):
        async with opened(info, Flawed(manager, hang, "wait"), IMPATIENT) as kernel:
            assert await kernel.shutdown() is None
    assert await manager.wait() == 0


async def test_process_that_cannot_be_waited_for(launch) -> None:
    """The kernel would never be known to have died: better not to use it."""
    info, manager = await launch()
    with pytest.raises(OSError, match="the manager is broken"):
        async with opened(info, Flawed(manager, fail, "wait")):
            await anyio.sleep_forever()
    assert not await manager.is_alive()


async def test_interrupt_by_message_where_signals_are_not_taken(launch) -> None:
    info, manager = await launch()

    async def refuse() -> None:
        raise UnsupportedRequest("no signals here")

    async with opened(info, Flawed(manager, refuse, "interrupt")) as kernel:
        with anyio.fail_after(GUARD_SECONDS):
            await kernel.interrupt()
        assert await manager.is_alive()


async def test_shutdown_and_death_at_once(launch) -> None:
    """Whoever is first, everybody who waits is told of one or the other."""
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
