"""Ending a kernel in order: asking it, then SIGTERM, then SIGKILL."""

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

# A kernel that is to end and is still there after this time is reminded: an interrupt that comes
# before its code is lost, other code may have been waiting behind, and a request may be overheard.
_REMINDER_SECONDS = 0.5


async def end_process(
    client: KernelClient, manager: KernelManager, timeouts: Timeouts, *, restart: bool = False
) -> int | None:
    """End a kernel's process; each step follows when its predecessor's phase has passed in vain.

    Args:
        client: talks to it, and knows whether it has ever been ready.
        manager: the handle on it.
        timeouts: the phases.
        restart: whether the kernel is told that it will be started again.

    Returns:
        The exit status; None where it can't be known, or where nothing has helped.
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
    """Return how long ``end_process`` and the manager's cleanup take at the most, in seconds."""
    return timeouts.shutdown + timeouts.terminate + 2 * timeouts.kill


async def attempt(step: Callable[[], Awaitable[T]]) -> T | None:
    """Take a step towards the kernel's end; a manager that fails must not stop the next one."""
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
            # Old kernels know this request on shell alone, and one that has only just begun may
            # reply to the first and go on.
            tasks.start_soon(attempt, partial(ask, channel="shell"))
