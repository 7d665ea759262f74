"""How kernels end: when asked, else by SIGTERM, else by SIGKILL, and with all that they started."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from kernelproto import ClientClosed, Kernel, Timeouts, run_kernel, start_kernel

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
IMPATIENT = Timeouts(shutdown=0.2, terminate=0.2)


def scripted(habits: str = "", **options):
    return run_kernel("spec/scripted", launch_params={"habits": habits}, **options)


@pytest.mark.parametrize(
    ("habits", "status"),
    [
        ("no-shutdown", -signal.SIGTERM),
        ("shell-only", -signal.SIGTERM),
        ("no-shutdown no-sigterm", -signal.SIGKILL),
    ],
)
async def test_disobedient_kernel(habits: str, status: int) -> None:
    async with scripted(habits, timeouts=IMPATIENT) as kernel:
        assert await kernel.shutdown() == status


@pytest.mark.parametrize("name", ["spec/scripted", "pyimport/kernel"])
@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_obedient_kernel(name: str, transport: str) -> None:
    async with run_kernel(name, transport=transport) as kernel:
        pass
    assert await kernel.manager.wait() == 0


BUSY = {
    "in Python": ("BEGUN\nwhile True: pass", 0),
    "asleep": ("import time\nBEGUN\ntime.sleep(1000)", 0),
    "where no interrupt is seen": (
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "BEGUN\n"
        "time.sleep(0.2)\n"  # lets go what was said
        "sum(range(10**15))",
        -signal.SIGTERM,
    ),
    "deaf to all but SIGKILL": (
        "import signal, time\n"
        "for signum in (signal.SIGINT, signal.SIGTERM): signal.signal(signum, signal.SIG_IGN)\n"
        "BEGUN\n"
        "time.sleep(1000)",
        -signal.SIGKILL,
    ),
}


@pytest.mark.parametrize(("code", "status"), BUSY.values(), ids=BUSY)
@pytest.mark.parametrize(
    ("name", "begun"),
    [("spec/scripted", "say('begun', parent)"), ("pyimport/kernel", "print('begun', flush=True)")],
    ids=["scripted", "ipykernel"],
)
async def test_busy_kernel(name: str, begun: str, code: str, status: int) -> None:
    timeouts = Timeouts() if status == 0 else IMPATIENT
    async with run_kernel(name, timeouts=timeouts) as kernel:
        async for _ in kernel.execute(code.replace("BEGUN", begun)):
            break
    assert await kernel.manager.wait() == status


@pytest.mark.parametrize("name", ["spec/scripted", "pyimport/kernel"])
async def test_code_that_has_hardly_been_sent(name: str) -> None:
    """An interrupt may come before the code does, and is then lost."""
    async with run_kernel(name) as kernel, kernel.execute("while True: pass"):
        pass
    assert await kernel.manager.wait() == 0


async def test_code_that_waits_behind_other_code() -> None:
    async with scripted() as kernel:
        first = kernel.execute("say('begun', parent)\nwhile True: pass")
        await anext(first)
        async with kernel.execute("while True: pass"):
            pass
    assert await kernel.manager.wait() == 0


@pytest.mark.parametrize("end", ["leave", "shutdown", "kill", "exit"])
async def test_children_end_with_the_kernel(end: str) -> None:
    """Also those that ignore SIGTERM."""
    code = """
import os, subprocess, sys
code = "from signal import *; signal(SIGTERM, SIG_IGN); print(flush=True); pause()"
child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
child.stdout.readline()
say(str(child.pid), parent)
"""
    async with scripted() as kernel:
        result = await kernel.execute(code)
        child = os.pidfd_open(int(result.stdout))
        if end == "shutdown":
            await kernel.shutdown()
        elif end == "kill":
            await kernel.manager.kill()
        elif end == "exit":
            async with kernel.execute("os._exit(0)"):
                await kernel.manager.wait()
    with anyio.fail_after(GUARD_SECONDS):
        await anyio.wait_readable(child)
    os.close(child)


async def test_stopped_kernel() -> None:
    async with scripted(timeouts=IMPATIENT) as kernel:
        await kernel.manager.signal(signal.SIGSTOP)
    assert await kernel.manager.wait() == -signal.SIGKILL


async def test_shutdown_inside_the_block() -> None:
    async with scripted() as kernel:
        assert await kernel.shutdown() == 0
        assert kernel.state == "dead"
        assert not await kernel.manager.is_alive()
        for request in [kernel.kernel_info, kernel.client.heartbeat, kernel.client.interrupt]:
            with pytest.raises(ClientClosed):
                await request()
        with pytest.raises(ClientClosed):
            await kernel.execute("pass")
        await kernel.interrupt()
        assert await kernel.shutdown() == 0
    assert await kernel.shutdown() == 0


async def test_shutdown_by_many_tasks() -> None:
    statuses: list[int | None] = []

    async def shutdown(kernel: Kernel) -> None:
        statuses.append(await kernel.shutdown())

    async with scripted() as kernel, anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(shutdown, kernel)
    assert statuses == [0] * 5


async def test_shutdown_of_a_dead_kernel() -> None:
    async with scripted() as kernel:
        await kernel.manager.kill()
        assert await kernel.shutdown() == -signal.SIGKILL


async def test_who_waits_is_told_of_a_shutdown() -> None:
    async def wait(kernel: Kernel) -> None:
        with pytest.raises(ClientClosed, match="shut down"):
            await kernel.execute("pass")

    async with scripted(timeouts=IMPATIENT) as kernel:
        await kernel.manager.signal(signal.SIGSTOP)  # so that nobody gets an answer
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(wait, kernel)
            await anyio.wait_all_tasks_blocked()
            await kernel.shutdown()


async def test_started_kernel_lives_until_its_shutdown() -> None:
    kernel = await start_kernel("spec/scripted")
    result = await kernel.execute("say('hello', parent)")
    assert result.stdout == "hello"
    assert await kernel.shutdown() == 0
    assert await kernel.shutdown() == 0
    assert kernel.state == "dead"


async def test_started_kernel_that_nobody_waits_for_any_more() -> None:
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start_kernel, "spec/scripted")
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
