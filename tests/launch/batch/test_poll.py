from __future__ import annotations

from collections.abc import Mapping

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.launch.batch.poll import JobPoll
from kernelproto.launch.batch.slurm import SlurmSystem
from kernelproto.launch.batch.system import JobState

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 60


class Counted(SlurmSystem):
    """A batch system with one job, which counts the calls."""

    calls = 0

    async def jobs(self) -> Mapping[str, JobState]:
        await checkpoint()
        self.calls += 1
        return {"1": JobState(job_id="1", name="a", phase="running", word="RUNNING")}


async def test_tasks_share_a_call() -> None:
    system = Counted()
    poll = JobPoll(system, 1000)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(lambda: poll.look("1", after=0))
    assert system.calls == 1
    assert await poll.look("2", after=0) is None
    assert system.calls == 1


async def test_hurried_call_does_not_wait_for_its_time() -> None:
    system = Counted()
    poll = JobPoll(system, 1000)
    poll.hurry()
    await poll.look("1", after=0)

    async def hurry() -> None:
        while True:
            await checkpoint()
            poll.hurry()

    with anyio.fail_after(GUARD_SECONDS):
        async with background_tasks() as tasks:
            tasks.start_soon(hurry)
            state = await poll.look("1", after=anyio.current_time())
    assert state is not None
    assert system.calls == 2
