"""Nothing grows: not with executions, nor with clients, nor with kernels that come and go.

The counts are small here. For the long run, which tells its figures in the log:

    KERNELPROTO_SOAK=50 pytest -o log_cli=true -o faulthandler_timeout=3600 -k leave_nothing
"""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from kernelproto import connect_kernel, run_kernel

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.anyio

SCALE = int(os.environ.get("KERNELPROTO_SOAK", "1"))
EXECUTIONS = 200 * SCALE
CLIENTS = 20 * SCALE
CYCLES = {"spec/scripted": 20 * SCALE, "pyimport/kernel": SCALE}


def objects() -> Counter[str]:
    """Count what is alive of the package's own objects, and of what it holds on to."""
    gc.collect()
    counts = Counter(
        type(thing).__name__
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith("kernelproto.")
    )
    counts["descriptors"] = len(os.listdir("/proc/self/fd"))
    counts["tasks"] = len(anyio.get_running_tasks())
    return counts


async def growth_since(
    before: Counter[str], again: Callable[[int], Awaitable[None]]
) -> Counter[str]:
    """Return what there is more of than before.

    A thread that is about to end may hold on to the last object for a moment. So the test goes on
    for up to three rounds: a leak grows with each of them.
    """
    for _ in range(3):
        if not objects() - before:
            break
        await again(1)
    return objects() - before


def resident_kib() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


async def test_executions_leave_nothing(no_leaks: None) -> None:
    async with run_kernel("pyimport/kernel") as kernel:
        for _ in range(EXECUTIONS):  # also fills what is bounded, such as the replay window
            await kernel.execute("print(1); 2")
        before, kib = objects(), resident_kib()
        for _ in range(EXECUTIONS):
            await kernel.execute("print(1); 2")
        growth = objects() - before

        logger.warning("%d executions: %d KiB", EXECUTIONS, resident_kib() - kib)
        assert not growth


async def test_clients_leave_nothing(no_leaks: None) -> None:
    async with run_kernel("pyimport/kernel") as kernel:

        async def come_and_go(clients: int) -> None:
            for _ in range(clients):
                async with connect_kernel(kernel.connection_info) as client:
                    await client.execute("1", silent=True)

        await come_and_go(5)
        before, kib = objects(), resident_kib()
        await come_and_go(CLIENTS)
        growth = await growth_since(before, come_and_go)

        logger.warning("%d clients: %d KiB", CLIENTS, resident_kib() - kib)
        assert not growth


@pytest.mark.parametrize("name", CYCLES)
async def test_kernels_leave_nothing(name: str, no_leaks: None) -> None:
    async def come_and_go(kernels: int) -> None:
        for _ in range(kernels):
            async with run_kernel(name) as kernel:
                await kernel.execute("pass")

    await come_and_go(3)
    before, kib = objects(), resident_kib()
    await come_and_go(CYCLES[name])
    growth = await growth_since(before, come_and_go)

    logger.warning("%d times %s: %d KiB", CYCLES[name], name, resident_kib() - kib)
    assert not growth
