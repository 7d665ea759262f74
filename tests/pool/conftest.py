"""A pool of kernels that are no processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio
import pytest

from kernelproto import Backoff, KernelFinder, KernelPool, RestartPolicy, Timeouts
from kernelproto.testing import Exchange, FakeKernel
from tests.supervise.fakes import Provider as SlowProvider

GUARD_SECONDS = 60
# Deaths in a test follow each other at once: no time for recovery, and none to be lost.
RESTART = RestartPolicy(
    limit=2, time_to_dead=None, stable_after=GUARD_SECONDS, backoff=Backoff(initial=0.001)
)


class Provider(SlowProvider):
    """Launches fakes, and counts those that run."""

    @property
    def alive(self) -> int:
        return sum(fake.returncode is None for fake in self.kernels)


def prepare(fake: FakeKernel) -> None:
    fake.on_execute("6 * 7", result="42")
    fake.on_execute("work", work)
    fake.on_execute(lambda code: code.startswith("say "), say)


async def work(exchange: Exchange) -> None:
    await anyio.sleep_forever()


async def say(exchange: Exchange) -> None:
    exchange.stream(exchange.code.removeprefix("say "))


Opened = Callable[..., AbstractAsyncContextManager[tuple[KernelPool, Provider]]]


@pytest.fixture
def pool_of() -> Opened:
    """Give a function that opens a pool with some options, and its provider."""

    @asynccontextmanager
    async def pool_of(**options) -> AsyncGenerator[tuple[KernelPool, Provider]]:
        defaults = {
            "kernel_type": "fake/kernel",
            "restart": RESTART,
            "timeouts": Timeouts(startup=60),
        }
        with anyio.fail_after(GUARD_SECONDS):
            async with (
                Provider(prepare) as provider,
                KernelPool(finder=KernelFinder([provider]), **{**defaults, **options}) as pool,
            ):
                yield pool, provider

    return pool_of
