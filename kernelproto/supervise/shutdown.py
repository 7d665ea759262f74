"""End a kernel gracefully: shutdown_request, then SIGTERM, then SIGKILL."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio

from kernelproto.client.client import KernelClient
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import KernelProtoError
from kernelproto.interfaces import KernelManager
from kernelproto.timeouts import Timeouts

logger = logging.getLogger(__name__)

T = TypeVar("T")

# A kernel that has not ended after this time is asked again. An interrupt that arrives before the
# code is lost, queued code may run next, and a kernel may miss a request.
_REMINDER_SECONDS = 0.5


async def end_process(
    client: KernelClient, manager: KernelManager, timeouts: Timeouts, *, restart: bool = False
) -> int | None:
    """End a kernel's process; each step follows when the time of the step before is over.

    Args:
        client: the client of the kernel.
        manager: the handle on the process.
        timeouts: the time of each step.
        restart: whether the shutdown_request announces a restart.

    Returns:
        The exit status; None if unknown, or if the process has not ended.
    """
    ladder = [(manager.terminate, timeouts.terminate), (manager.kill, timeouts.kill)]
    if client.info is not None:
        ladder.insert(0, (partial(_ask_to_end, client, restart), timeouts.shutdown))
    for step, seconds in ladder:
        with anyio.move_on_after(seconds):
            async with background_tasks() as tasks:
                tasks.start_soon(attempt, step)
                return await manager.wait()
    return None


def longest(timeouts: Timeouts) -> float:
    """Return the maximum time of ``end_process`` and the manager's cleanup, in seconds."""
    return timeouts.shutdown + timeouts.terminate + 2 * timeouts.kill


async def attempt(step: Callable[[], Awaitable[T]]) -> T | None:
    """Call a step of the shutdown; log a failure, so that the next step follows."""
    try:
        return await step()
    except KernelProtoError:
        return None  # the kernel has ended meanwhile, or cannot do this
    except Exception:
        logger.warning("ending a kernel: %r failed", step, exc_info=True)
        return None


async def _ask_to_end(client: KernelClient, restart: bool) -> None:
    ask = partial(client.shutdown, restart)
    async with background_tasks() as tasks:
        if client.busy:
            await attempt(client.interrupt_kernel)
        tasks.start_soon(attempt, ask)
        while True:
            await anyio.sleep(_REMINDER_SECONDS)
            if client.busy:
                await attempt(client.interrupt_kernel)
            # Old kernels know this request on shell only. A kernel that has just started may reply
            # to the first request and go on.
            tasks.start_soon(attempt, partial(ask, channel="shell"))
