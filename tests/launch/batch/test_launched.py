"""Kernels in batch jobs that are found by the ids of their launches."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import pytest

from kernelproto import KernelFinder
from kernelproto.exceptions import KernelInUse
from kernelproto.launch import SlurmProvider
from kernelproto.launch.launched import find_launched
from tests.integration.engine_kills import kill_at
from tests.launch.batch.cluster import Cluster
from tests.launch.found_kernels import check_kernel_of_a_launch, check_kernels_of_a_pool

pytestmark = pytest.mark.anyio

GUARD_SECONDS = 120


async def test_pool_with_a_registry_keeps_kernels(cluster: Cluster, tmp_path: Path) -> None:
    provider = cluster.provider(python=cluster.kernel())
    with anyio.fail_after(GUARD_SECONDS):
        await check_kernels_of_a_pool(provider, "slurm/python", tmp_path)


async def test_kernel_is_found_by_its_id(cluster: Cluster) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        await check_kernel_of_a_launch(cluster.provider(), "slurm/python")


@pytest.mark.parametrize("by", ["id", "leftovers"])
@pytest.mark.parametrize("step", ["made", "known"])
async def test_job_of_a_killed_program_is_cancelled(cluster: Cluster, step: str, by: str) -> None:
    """The program was killed before the kernel listened, so no program knows the address."""
    config = {
        "folder": cluster.shared,
        "config": cluster.config,
        "poll_seconds": 0.2,
        "kernels": {"short": msgspec.to_builtins(cluster.kernel())},
    }
    provider = SlurmProvider()
    provider.load_config(config)
    with anyio.fail_after(GUARD_SECONDS):
        params = {"listed_as": "mine", "detached": True}
        await anyio.to_thread.run_sync(kill_at, step, "slurm", config, params)
        assert len(os.listdir(cluster.shared)) == 1
        if by == "id":
            assert await find_launched(KernelFinder([provider]), "slurm/short", "mine") is None
        else:
            assert await provider.remove_leftovers() == 1
        while cluster.jobs():  # noqa: ASYNC110 - no event tells of the end
            await anyio.sleep(0.05)
    assert not cluster.has_folder()


async def test_job_of_this_program_is_in_use_while_the_launch_waits(cluster: Cluster) -> None:
    provider = cluster.provider(python=cluster.kernel("/bin/sleep", "1000", "{connection_file}"))

    async def launch() -> None:
        await provider.launch("python", launch_params={"listed_as": "mine"})

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(launch)
            while not cluster.jobs():  # noqa: ASYNC110 - no event tells of the submission
                await anyio.sleep(0.05)
            with pytest.raises(KernelInUse, match="which is this program"):
                await provider.find_launched("python", "mine")
            tasks.cancel_scope.cancel()
