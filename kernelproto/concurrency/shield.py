"""Work that is done to its end, whatever is cancelled meanwhile."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def to_the_end(work: Callable[[], Awaitable[T]], *, seconds: float = math.inf) -> T | None:
    """Do *work* to its end; the caller may be cancelled meanwhile, but only leaves afterwards.

    A shielded scope keeps out the cancellation of other scopes. It does not keep out the cancel()
    of an asyncio task, as ``asyncio.timeout`` and ``asyncio.TaskGroup`` use it; but that strikes no
    other task than the caller's. So the work is done in a task of its own.

    Args:
        work: what is to be done.
        seconds: how long it may take.

    Returns:
        What *work* returns, None when it took too long.

    Raises:
        BaseException: what *work* raises.
    """
    result: T | None = None
    failure: BaseException | None = None

    async def do() -> None:
        nonlocal result, failure
        with anyio.move_on_after(seconds, shield=True):
            try:
                result = await work()
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                failure = error  # and not in an ExceptionGroup

    with anyio.CancelScope(shield=True):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(do)
    if failure is not None:
        try:
            raise failure
        finally:  # a traceback that refers to itself would keep everything in it alive
            del failure
    return result
