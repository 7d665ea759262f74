"""Many users side by side, each with an ipykernel of their own."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter

import anyio
import pytest

from kernelproto import KernelDied, KernelPool, KernelRestarted, PoolFull, Restarted

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

USERS = [f"user{number}" for number in range(12)]
LINES = 50
GUARD_SECONDS = 100

CODE = f"""
import os
for line in range({LINES}):
    print(tag, os.getpid(), line, flush=True)
"""


async def test_outputs_reach_their_own_user_and_nobody_else() -> None:
    """Every output is tagged; each user looks at all that comes, and at the result of their own."""
    strays: Counter[str] = Counter()
    processes: dict[str, set[str]] = {}

    async def use(pool: KernelPool, user: str) -> None:
        async with pool.connection(user, msg_types=("stream",)) as connection:
            await connection.kernel.execute(f"tag = {user!r}")
            result = await connection.kernel.execute(CODE)
            watched = ""
            while watched.count("\n") < LINES:
                message, _ = await anext(connection.messages)
                watched += message.content.text
        for text in (result.stdout, watched):
            lines = [line.split() for line in text.splitlines()]
            strays[user] += sum(tag != user for tag, _, _ in lines)
            assert [int(number) for _, _, number in lines] == list(range(LINES))
            processes.setdefault(user, set()).update(pid for _, pid, _ in lines)

    with anyio.fail_after(GUARD_SECONDS):
        async with KernelPool(max_kernels=len(USERS)) as pool:
            async with anyio.create_task_group() as tasks:
                for user in USERS:
                    tasks.start_soon(use, pool, user)
            assert strays.total() == 0
            assert len(set.union(*processes.values())) == len(USERS)
            assert {kernel.state for kernel in pool.kernels()} == {"idle"}
            assert {kernel.user for kernel in pool.kernels()} == set(USERS)


ALLOCATE = """
import os
blocks = []
try:
    while True:
        blocks.append(b"x" * 2**24)
except MemoryError:
    os.abort()
"""


@pytest.mark.parametrize(
    ("code", "cause", "words"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal", "(SIGKILL)"),
        ("import os; os._exit(3)", "exit_status", "exit status 3"),
        (ALLOCATE, "memory_limit", "probably reached its limit of memory"),
    ],
)
@pytest.mark.usefixtures("no_servers_left")
async def test_cause_of_a_death(code: str, cause: str, words: str, caplog) -> None:
    limits = {"limits": {"memory": 400 * 2**20}}
    # A kernel that is not forked inherits the peak of memory of this process.
    forked = "fork/kernel"
    with anyio.fail_after(GUARD_SECONDS):
        async with KernelPool(kernel_type=forked, launch_params=limits, restart=None) as pool:
            kernel = await pool.get("ada")
            with pytest.raises(KernelDied, match=re.escape(words)):
                await kernel.execute(code)
            assert pool.deaths == {cause: 1}
            (record,) = [r for r in caplog.records if " died: " in r.getMessage()]
            assert record.levelno == logging.WARNING
            assert f"of 'ada' ({kernel.kernel_id}) died: " in record.getMessage()
            assert words in record.getMessage()


async def test_crash_of_one_and_want_of_room() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with KernelPool(max_kernels=2) as pool, pool.connection("ada") as ada:
            bob = await pool.get("bob")
            events = bob.events()
            with pytest.raises(KernelRestarted):
                await bob.execute("import os; os._exit(1)")
            while not isinstance(await anext(events), Restarted):
                pass
            async with bob.execute("print(1); import time; time.sleep(1000)") as execution:
                await anext(execution)
                with pytest.raises(PoolFull):
                    await pool.get("eve")
                await pool.interrupt("bob")
                assert (await execution).error.ename == "KeyboardInterrupt"
            eve = await pool.get("eve")
            assert (await eve.execute("6 * 7")).text == "42"
            assert (await ada.kernel.execute("6 * 7")).text == "42"
            assert [kernel.user for kernel in pool.kernels()] == ["ada", "eve"]


async def test_warm_kernels() -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with KernelPool(warm=1, env={"POOLED": "yes"}) as pool:
            kernel = await pool.get("ada")
            result = await kernel.execute("import os; os.environ['POOLED'], os.getppid()")
            assert result.text == str(("yes", os.getpid()))
