from __future__ import annotations

import anyio
import pytest

from kernelproto import Reachability

pytestmark = pytest.mark.anyio


async def test_tasks_wait_for_each_change() -> None:
    seen: list[str | None] = []
    reachability = Reachability()

    async def watch() -> None:
        seen.append(await reachability.until_lost())
        await reachability.until_regained()
        seen.append(reachability.problem)

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.wait_all_tasks_blocked()
            reachability.lose("cut")
            await anyio.wait_all_tasks_blocked()
            assert seen == ["cut"]
            reachability.lose("still cut")
            await anyio.wait_all_tasks_blocked()
            assert (seen, reachability.problem) == (["cut"], "still cut")
            reachability.regain()
        assert seen == ["cut", None]
        reachability.lose("again")
        assert await reachability.until_lost() == "again"
