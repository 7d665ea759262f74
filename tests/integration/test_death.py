"""A kernel that dies: all who wait for it are told at once, and so is who comes later."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import anyio
import pytest

from kernelproto import Execution, Kernel, KernelDied, Stream, run_kernel, start_kernel
from kernelproto.wire.content import Output

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60

Ask = Callable[[Kernel], Awaitable[object]]


async def execute(kernel: Kernel) -> None:
    await kernel.execute("pass")


async def iterate(kernel: Kernel) -> None:
    async for _ in kernel.execute("pass"):
        pass


async def enter(kernel: Kernel) -> None:
    async with kernel.execute("pass") as execution:
        await execution


async def complete(kernel: Kernel) -> None:
    await kernel.complete("pri")


async def ask_on_control(kernel: Kernel) -> None:
    await kernel.request("kernel_info_request", {}, "control")


async def heartbeat(kernel: Kernel) -> None:
    await kernel.client.heartbeat()


WAYS_TO_WAIT = [execute, iterate, enter, complete, ask_on_control, heartbeat]


async def listen(execution: Execution, hear: Callable[[Output], object]) -> None:
    async for output in execution:
        hear(output)


async def is_told(ask: Ask, kernel: Kernel, returncode: int) -> None:
    with anyio.fail_after(GUARD_SECONDS), pytest.raises(KernelDied) as caught:
        await ask(kernel)
    assert caught.value.returncode == returncode


async def test_all_who_wait_are_told() -> None:
    async with run_kernel("spec/scripted") as kernel:
        await kernel.manager.signal(signal.SIGSTOP)  # so that nobody gets an answer
        async with anyio.create_task_group() as tasks:
            for ask in WAYS_TO_WAIT * 8:
                tasks.start_soon(is_told, ask, kernel, -signal.SIGKILL)
            await anyio.wait_all_tasks_blocked()
            await kernel.manager.kill()
        assert kernel.state == "dead"
        for ask in WAYS_TO_WAIT:
            await is_told(ask, kernel, -signal.SIGKILL)


@pytest.mark.parametrize(
    ("death", "returncode", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, r"signal 9 \(SIGKILL\)"),
        ("os._exit(3)", 3, "exit status 3"),
        ("os._exit(0)", 0, "exit status 0"),
    ],
)
async def test_what_it_has_said_is_read_before_its_death_is_told(death, returncode, words) -> None:
    code = f"import os, signal, time\nfor n in range(100): print(n)\ntime.sleep(0.3); {death}"
    async with run_kernel("pyimport/kernel") as kernel:
        heard: list[Stream] = []
        with pytest.raises(KernelDied, match=words) as caught:
            await listen(kernel.execute(code), heard.append)
        assert "".join(output.text for output in heard).split() == [str(n) for n in range(100)]
        assert caught.value.returncode == returncode
        assert await kernel.manager.wait() == returncode


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
async def test_kill_during_an_execute(transport) -> None:
    code = "print('running', flush=True)\nwhile True: pass"
    async with run_kernel("pyimport/kernel", transport=transport) as kernel:
        execution = kernel.execute(code)
        await anext(execution)
        await kernel.manager.kill()
        with anyio.fail_after(GUARD_SECONDS), pytest.raises(KernelDied):
            await execution


async def test_death_while_the_user_is_asked() -> None:
    async def answer(_: object) -> str:
        await kernel.manager.kill()
        await anyio.sleep_forever()
        raise AssertionError

    async with run_kernel("pyimport/kernel") as kernel:
        with anyio.fail_after(GUARD_SECONDS), pytest.raises(KernelDied):
            await kernel.execute("input('who? ')", on_input=answer)


async def test_death_does_not_disturb_who_does_not_ask() -> None:
    async with run_kernel("spec/scripted") as kernel:
        await kernel.manager.kill()
        with anyio.fail_after(GUARD_SECONDS):
            assert await kernel.manager.wait() == -signal.SIGKILL
        await anyio.wait_all_tasks_blocked()
    assert kernel.state == "dead"


async def test_death_of_a_started_kernel() -> None:
    kernel = await start_kernel("spec/scripted")
    await kernel.manager.kill()
    for ask in WAYS_TO_WAIT:
        await is_told(ask, kernel, -signal.SIGKILL)
    assert await kernel.shutdown() == -signal.SIGKILL
