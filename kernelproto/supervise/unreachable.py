"""Callers that give up on an unreachable kernel."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import KernelUnreachable
from kernelproto.supervise.events import EventHub, KernelEvents
from kernelproto.supervise.states import Life


class Living(Protocol):
    """The state and the events of a kernel; implemented by Lifecycle."""

    life: Life
    events: EventHub

    @property
    def problem(self) -> str:
        """The reason why the kernel cannot be reached."""
        ...


@asynccontextmanager
async def fail_if_unreachable(kernel: Living, seconds: float) -> AsyncGenerator[None]:
    """Cancel the block if the kernel cannot be reached; see ``Kernel.fail_if_unreachable``."""
    events = kernel.events.listen()
    problem = ""

    async def watch() -> None:
        nonlocal problem
        while True:
            if kernel.life is not Life.UNREACHABLE:
                await _next(events)
                continue
            with anyio.move_on_after(seconds):
                await _next(events)
                continue
            if kernel.life is Life.UNREACHABLE:
                problem = kernel.problem
                scope.cancel()
                return

    with anyio.CancelScope() as scope:
        async with background_tasks() as tasks:
            tasks.start_soon(watch)
            yield
    if scope.cancelled_caught:
        raise KernelUnreachable(
            f"the kernel could not be reached for {seconds:g} s: {problem}; it may still run, and "
            "can be used when the connection is back"
        )


async def _next(events: KernelEvents) -> None:
    """Wait for the next event; indefinitely after the last one."""
    async for _ in events:
        return
    await anyio.sleep_forever()
