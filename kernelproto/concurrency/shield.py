"""Complete an operation although the caller is cancelled meanwhile."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def to_the_end(work: Callable[[], Awaitable[T]], *, seconds: float = math.inf) -> T | None:
    """Call *work* and wait for its end; a cancelled caller is cancelled afterwards.

    A shielded scope does not protect from the cancel() of an asyncio task, which
    ``asyncio.timeout`` and ``asyncio.TaskGroup`` use. That cancels only the caller's task, so the
    work has a task of its own.

    Args:
        work: the async function to call.
        seconds: the time limit.

    Returns:
        The result of *work*; None if the time limit was exceeded.

    Raises:
        BaseException: *work* raised this exception.
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
        finally:  # a traceback that refers to itself would keep all its objects alive
            del failure
    return result
