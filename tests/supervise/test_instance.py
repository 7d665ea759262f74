"""A kernel's process and its client until the kernel is ready."""

from __future__ import annotations

import signal

import anyio
import msgspec
import pytest

from kernelproto import (
    KernelExitedEarly,
    KernelNotReady,
    LocalProtocolError,
    Timeouts,
)
from kernelproto.client import open_client
from tests.supervise.opened import opened

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


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


async def test_kernel_with_an_unknown_signature_scheme_is_ended(launch) -> None:
    info, manager = await launch()
    info = msgspec.structs.replace(info, signature_scheme="hmac-unknown")
    with pytest.raises(LocalProtocolError, match="hmac-unknown"):
        async with opened(info, manager):
            pytest.fail("it has started")
    assert not await manager.is_alive()
