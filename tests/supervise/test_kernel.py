"""A Kernel over a real process."""

from __future__ import annotations

import anyio
import pytest

from kernelproto import (
    ClientClosed,
    KernelDied,
    UnsupportedRequest,
)
from tests.supervise.opened import GUARD_SECONDS, Flawed, fail, opened

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


async def test_states(launch) -> None:
    info, manager = await launch()
    async with opened(info, manager) as kernel:
        assert kernel.owned
        assert (kernel.kernel_id, kernel.manager) == (manager.kernel_id, manager)
        assert (kernel.connection_info, kernel.client.connection_info) == (info, info)
        assert await kernel.wait_for_ready() is kernel.info
        execution = kernel.execute("say('begun', parent); pause()")
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


async def test_broken_wait_ends_the_kernel(launch) -> None:
    """Without wait() the death of the kernel would go unnoticed."""
    info, manager = await launch()
    with pytest.raises(OSError, match="the manager is broken"):
        async with opened(info, Flawed(manager, fail, "wait")):
            await anyio.sleep_forever()
    assert not await manager.is_alive()


async def test_interrupt_by_message_if_signals_are_unsupported(launch) -> None:
    info, manager = await launch()

    async def refuse() -> None:
        raise UnsupportedRequest("no signals here")

    async with opened(info, Flawed(manager, refuse, "interrupt")) as kernel:
        with anyio.fail_after(GUARD_SECONDS):
            await kernel.interrupt()
        assert await manager.is_alive()
