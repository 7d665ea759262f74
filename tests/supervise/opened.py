"""A Kernel over a process that was launched before, and a manager with faults."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

from kernelproto import Kernel, KernelManager, Timeouts
from kernelproto.supervise.kernel import open_kernel

GUARD_SECONDS = 60
PATIENT = Timeouts()
IMPATIENT = Timeouts(shutdown=0.2, terminate=0.2, kill=0.2)


@asynccontextmanager
async def opened(info, manager, timeouts: Timeouts = PATIENT) -> AsyncIterator[Kernel]:
    launched = [(info, manager)]

    async def launch(**changes):
        await anyio.lowlevel.checkpoint()
        return launched.pop()

    async with open_kernel(launch, timeouts=timeouts) as kernel:
        yield kernel


class Flawed:
    """A manager with *flaw* in place of some of its methods."""

    def __init__(self, manager: KernelManager, flaw, *methods: str) -> None:
        self._manager = manager
        for method in methods:
            setattr(self, method, flaw)

    def __getattr__(self, name: str):
        return getattr(self._manager, name)


async def hang(*arguments: object) -> None:
    await anyio.sleep_forever()


async def fail(*arguments: object) -> None:
    await anyio.lowlevel.checkpoint()
    raise OSError("the manager is broken")
