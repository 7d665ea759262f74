"""Kernels that outlive the program that has started them, and are taken over by another one."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto import (
    ClientClosed,
    DiscoveryError,
    KernelDied,
    KernelInUse,
    LaunchError,
    Timeouts,
    adopt_kernel,
    adopt_kernel_blocking,
    connect_kernel,
    connect_kernel_blocking,
    run_kernel,
    start_kernel,
    start_kernel_blocking,
)
from kernelproto.launch.leftovers.records import read_records

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60

START = """
import {loop}, kernelproto
async def main():
    kernel = await kernelproto.start_kernel("spec/scripted", detached=True)
    await kernel.execute("os.x = 42")
    print(kernel.manager.connection_file)
{loop}.run({main})
"""

START_BLOCKING = """
import kernelproto
kernel = kernelproto.start_kernel_blocking("spec/scripted", detached=True)
kernel.execute("os.x = 42")
print(kernel.connection_info and kernel.wrapped.manager.connection_file)
"""

PROGRAMS = {
    "asyncio": START.format(loop="asyncio", main="main()"),
    "trio": START.format(loop="trio", main="main"),
    "blocking": START_BLOCKING,
}


def run(program: str) -> str:
    """Run a program that starts a kernel and ends; return the path of the connection file."""
    command = [sys.executable, "-c", program]
    return subprocess.check_output(command, text=True, timeout=GUARD_SECONDS).strip()


@pytest.fixture(params=PROGRAMS)
def left_behind(request: pytest.FixtureRequest, runtime_dir: Path) -> str:
    """Give the connection file of a kernel that another program has started detached."""
    return run(PROGRAMS[request.param])


async def test_kernel_of_another_program_is_taken_over(left_behind: str) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with connect_kernel(left_behind) as client:
            result = await client.execute("say(str(os.x), parent)")
            assert result.stdout == "42"
        async with adopt_kernel(left_behind) as kernel:
            assert kernel.owned
            assert (await kernel.execute("say(str(os.x), parent)")).stdout == "42"
            await kernel.manager.interrupt()
            assert await kernel.manager.is_alive()
        assert not await anyio.Path(left_behind).exists()
        with pytest.raises(DiscoveryError):
            async with adopt_kernel(left_behind):
                pytest.fail("it is gone")


async def test_kernel_is_taken_over_by_its_handle() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel("spec/scripted", detached=True)
        kernel.kernel_id = "mine"
        handle = kernel.handle
        assert handle is not None
        with pytest.raises(KernelInUse):
            async with adopt_kernel(handle):
                pytest.fail("it has two owners")
        await kernel.shutdown()
        path = await anyio.to_thread.run_sync(run, PROGRAMS["asyncio"])
        async with adopt_kernel(path) as adopted:
            assert adopted.handle is not None
            assert adopted.handle.place["connection_file"] == path


async def test_kernel_keeps_the_id_that_others_know_it_by() -> None:
    path = await anyio.to_thread.run_sync(run, PROGRAMS["asyncio"])
    (record,) = read_records()
    msgspec.structs.replace(record, listed_as="mine").write()
    with anyio.fail_after(GUARD_SECONDS):
        async with adopt_kernel("mine") as kernel:
            assert kernel.manager.connection_file == path
            assert kernel.kernel_id == read_records()[0].listed_as == "mine"
            await kernel.restart()
            assert kernel.kernel_id == read_records()[0].listed_as == "mine"


async def test_life_after_being_taken_over() -> None:
    path = await anyio.to_thread.run_sync(run, PROGRAMS["asyncio"])
    with anyio.fail_after(GUARD_SECONDS):
        async with adopt_kernel(path) as kernel:
            await kernel.manager.signal(signal.SIGKILL)
            with pytest.raises(KernelDied):
                await kernel.execute("pass")
            assert kernel.state == "dead"
            await kernel.restart()
            assert (await kernel.execute("say('again', parent)")).stdout == "again"


async def test_kernel_that_somebody_else_owns_is_not_taken_over() -> None:
    async with run_kernel("spec/scripted") as kernel:
        with pytest.raises(DiscoveryError, match="not started detached"):
            async with adopt_kernel(kernel.connection_info):
                pytest.fail("it was taken over")
        await kernel.execute("pass")


async def test_shutdown_ends_a_detached_kernel() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel("spec/scripted", detached=True)
        manager = kernel.manager
        assert await kernel.shutdown() == 0
        assert not await manager.is_alive()
        with pytest.raises(ClientClosed):
            await kernel.execute("pass")


async def test_detached_kernel_that_dies_leaves_nothing() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        kernel = await start_kernel("spec/scripted", detached=True)
        await kernel.manager.kill()
        with pytest.raises(KernelDied):
            await kernel.execute("pass")
        await kernel.shutdown()


async def test_detached_kernel_that_does_not_start_is_ended() -> None:
    with pytest.raises(LaunchError):
        await start_kernel(
            "spec/scripted",
            detached=True,
            launch_params={"habits": "mute"},
            timeouts=Timeouts(startup=0.5),
        )


async def test_cancelled_start_leaves_no_detached_kernel() -> None:
    with anyio.move_on_after(0.02):
        kernel = await start_kernel("spec/scripted", detached=True)
        await kernel.shutdown()


def test_blocking() -> None:
    kernel = start_kernel_blocking("spec/scripted", detached=True)
    with connect_kernel_blocking(kernel.connection_info) as client:
        client.execute("pass")
    assert kernel.shutdown() == 0


def test_blocking_takeover() -> None:
    with adopt_kernel_blocking(run(PROGRAMS["blocking"])) as kernel:
        assert kernel.execute("say(str(os.x), parent)").stdout == "42"
        kernel.restart()
        kernel.execute("pass")
