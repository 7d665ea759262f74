"""A Kernel over fake kernels, which a test can kill."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from anyio.lowlevel import checkpoint

from kernelproto import (
    Backoff,
    Died,
    Kernel,
    KernelFinder,
    RestartPolicy,
    Timeouts,
    run_kernel,
)
from kernelproto.testing import FakeKernel, FakeProvider

GUARD_SECONDS = 60
# Deaths in a test follow each other at once: no time for recovery, and none to be lost.
POLICY = RestartPolicy(
    limit=3, time_to_dead=None, stable_after=GUARD_SECONDS, backoff=Backoff(initial=0.001)
)


class Provider(FakeProvider):
    """Launches fake kernels; *launching* is awaited before each launch."""

    async def launching(self) -> None:
        await checkpoint()

    async def launch(self, name, **options):
        await self.launching()
        return await super().launch(name, **options)


def answering(fake: FakeKernel) -> None:
    fake.on_execute("6 * 7", result="42")
    fake.on_execute("wait", sleep)


async def sleep(exchange) -> None:
    await anyio.sleep_forever()


@asynccontextmanager
async def running(
    policy: RestartPolicy | None = POLICY,
    prepare: Callable[[FakeKernel], None] = answering,
    **options,
) -> AsyncIterator[tuple[Kernel, Provider]]:
    options = {"timeouts": Timeouts(startup=GUARD_SECONDS), **options}
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            Provider(prepare) as provider,
            run_kernel(
                "fake/kernel", finder=KernelFinder([provider]), restart=policy, **options
            ) as kernel,
        ):
            yield kernel, provider


async def kill(kernel: Kernel, provider: Provider) -> None:
    """Let the kernel die, and wait for the event."""
    events = kernel.events()
    provider.kernels[-1].die()
    assert await anext(events) == Died(-9)
