"""Users see no difference between a stock ipykernel and one with hooks."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import anyio
import pytest

from kernelproto import Execution, Kernel, KernelDied, run_kernel
from kernelproto.wire.content import Output
from tests.launch.programs.behaviours import (
    BEHAVIOURS,
    GUARD_SECONDS,
    Behaviour,
    entries,
    run,
)

pytestmark = pytest.mark.anyio

# How many interrupts each flood gets.
ROUNDS = int(os.environ.get("KERNELPROTO_TEST_INTERRUPTS", "8"))

VARIABLE = "KERNELPROTO_STOCK_IPYKERNEL"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Run on one event loop, because the kernel does not depend on it."""
    return "asyncio"


def environment(off: str) -> dict[str, str]:
    """Switch hooks off, and give the kernel a history of its own."""
    return {VARIABLE: off, "IPYTHONDIR": os.path.join(os.environ["IPYTHONDIR"], off or "fast")}


@pytest.fixture
async def stock(anyio_backend: str, runtime_dir) -> AsyncIterator[Kernel]:
    async with run_kernel("fork/kernel", launch_params={"env": environment("all")}) as kernel:
        yield kernel


@pytest.fixture
async def fast(anyio_backend: str, runtime_dir) -> AsyncIterator[Kernel]:
    async with run_kernel("fork/kernel", launch_params={"env": environment("")}) as kernel:
        yield kernel


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=lambda behaviour: behaviour.__name__)
async def test_behaves_as_stock(stock: Kernel, fast: Kernel, behaviour: Behaviour) -> None:
    assert await behaviour(fast) == await behaviour(stock)


async def test_forks_of_a_printing_kernel_do_not_hang(fast: Kernel) -> None:
    """Another thread may hold a lock when a child is forked."""
    outputs = await run(
        fast,
        """
        import os, signal, sys, threading, time
        going = True
        def chatter():
            while going:
                sys.stdout.write("chatter\\n")
                sys.stdout.flush()
        threads = [threading.Thread(target=chatter) for _ in range(3)]
        for thread in threads: thread.start()
        hung = 0
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                print("child", flush=True)
                os._exit(0)
            until = time.monotonic() + 20
            while os.waitpid(pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > until:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    hung += 1
                    break
                time.sleep(0.001)
        going = False
        for thread in threads: thread.join()
        hung
        """,
    )
    assert ("execute_result", {"text/plain": "0"}) in outputs  # text of the children may follow


FLOODS = {
    "text": "print(n, flush=True)",
    "lines": "print(n)",
    "displays": "display({'text/plain': str(n)}, raw=True)",
    "both": "print(n) if n % 2 else display({'text/plain': str(n)}, raw=True)",
}


def numbers_of(outputs: list[tuple[str, object]]) -> list[int]:
    """Return the numbers that a flood has sent; an interrupt may have cut the last one off."""
    numbers: list[int] = []
    for kind, value in outputs:
        if kind == "stdout":
            numbers += map(int, str(value).splitlines())
        elif kind == "display_data":
            assert isinstance(value, dict)
            numbers.append(int(value["text/plain"]))
    return numbers


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("flood", FLOODS)
async def test_interrupts_in_a_flood_lose_no_output(fast: Kernel, flood: str) -> None:
    code = f"n = 0\nwhile True:\n    {FLOODS[flood]}\n    n += 1"
    chance = random.Random(flood)
    for _ in range(ROUNDS):
        execution = fast.execute(code)

        async def interrupt(execution: Execution = execution) -> None:
            await anyio.sleep(chance.random() * 0.05)
            await execution.interrupt()

        with anyio.fail_after(GUARD_SECONDS):
            received = [await anext(execution)]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(interrupt)
                received += [output async for output in execution]
        outputs = entries(received)
        assert outputs.pop() == ("error", "KeyboardInterrupt")
        numbers = numbers_of(outputs)
        assert numbers == list(range(len(numbers)))
        count = (await fast.execute("n")).text
        assert count is not None
        assert len(numbers) - int(count) in (0, 1)
    assert (await fast.execute("6 * 7")).text == "42"


async def test_exit_loses_no_output(fast: Kernel) -> None:
    await fast.execute("import os")
    code = "for n in range(1000): print(n)\ndisplay(7)\nprint('last', flush=True)\nos._exit(0)"
    received: list[Output] = []
    with anyio.fail_after(GUARD_SECONDS), suppress(KernelDied):
        async for output in fast.execute(code):
            received.append(output)
    (_, lines), (kind, _), last = entries(received)
    assert str(lines).splitlines() == list(map(str, range(1000)))
    assert (kind, last) == ("display_data", ("stdout", "last\n"))


async def test_fork_that_exits_writes_nothing_of_its_parent(fast: Kernel) -> None:
    code = """
    import os
    display({"text/plain": "parent"}, raw=True)
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    """
    assert await run(fast, code) == [
        ("display_data", {"text/plain": "parent"}),
        ("execute_result", {"text/plain": "7"}),
    ]


async def test_no_other_thread_sends_outputs(fast: Kernel) -> None:
    """An interrupt in Thread.is_alive of Python 3.11 makes a running thread look dead."""
    code = """
    import threading
    thread = get_ipython().kernel.iopub_thread
    send, threads = thread._really_send, set()
    def record(*args, **kwargs):
        threads.add(threading.current_thread().name)
        send(*args, **kwargs)
    thread._really_send = record
    thread.thread.is_alive = lambda: False
    for n in range(100):
        print(n, flush=True)
        display({"text/plain": str(n)}, raw=True)
    """
    assert len(await run(fast, code)) == 200
    assert await run(fast, "threads") == [("execute_result", {"text/plain": "{'IOPub'}"})]


async def test_displays_between_flushes_stay_in_order(fast: Kernel) -> None:
    """Urgent events end the IOPub thread's wait at its lock; displays are not urgent."""
    code = """
    import threading
    def flood():
        for n in range(300):
            print("t\\n", end="", flush=True)
    thread = threading.Thread(target=flood)
    thread.start()
    for n in range(300):
        print(f"{n}\\n", end="", flush=True)
        if n % 3 == 0:
            display({"text/plain": f"{n}\\n"}, raw=True)
    thread.join()
    """
    outputs = await run(fast, code)
    texts = [value["text/plain"] if isinstance(value, dict) else value for _, value in outputs]
    seen = "".join(map(str, texts)).split("\n")
    assert seen.count("t") == 300
    numbers = [int(line) for line in seen if line not in ("t", "")]
    assert numbers == sorted([*range(300), *range(0, 300, 3)])
