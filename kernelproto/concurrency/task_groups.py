"""Tasks in the background of a block, or of the event loop."""

from __future__ import annotations

import _thread
import logging
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from typing import Protocol, cast

from anyio import CancelScope, Event, create_task_group, get_cancelled_exc_class
from anyio.abc import TaskGroup
from anyio.lowlevel import current_token

logger = logging.getLogger(__name__)


class StartTask(Protocol):
    """Starts a task that ends with its owner; exceptions are logged."""

    def __call__(self, function: Callable[..., Awaitable[None]], *args: object) -> None: ...


@asynccontextmanager
async def background_tasks() -> AsyncGenerator[TaskGroup]:
    """Open a task group for tasks that serve the block and end with it.

    The tasks are cancelled when the block is left. An exception from the block is raised unchanged,
    not in an ExceptionGroup. An exception from a task cancels the block and is raised instead, with
    further exceptions as notes.
    """
    failures: list[BaseException] = []
    try:
        async with create_task_group() as tasks:
            try:
                yield tasks
            except BaseException as error:
                # Only cancellations may reach Trio, because Trio rebuilds exception groups.
                if _holds_cancellation(error):
                    raise
                failures.append(error)
            finally:
                tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # On Trio, a cancellation from outside is among them, and must not hide a failure.
        cancelled = get_cancelled_exc_class()
        failures += [error for error in group.exceptions if not isinstance(error, cancelled)]
    except get_cancelled_exc_class():
        if not failures:
            raise
    if failures:
        failure, *others = failures
        for other in others:
            failure.add_note(f"a background task failed as well: {other!r}")
        try:
            raise failure
        finally:  # a traceback that refers to itself would keep all its objects alive
            del failure, failures, others


def start_logged(tasks: TaskGroup, function: Callable[..., Awaitable[None]], *args: object) -> None:
    """Start a task; a failure is logged and does not affect the other tasks of the group."""
    tasks.start_soon(_log_failure, function, *args)


async def _log_failure(function: Callable[..., Awaitable[None]], *args: object) -> None:
    try:
        await function(*args)
    except Exception:
        logger.exception("%r failed", function)


def _holds_cancellation(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return any(map(_holds_cancellation, group.exceptions))
    return isinstance(error, get_cancelled_exc_class())


async def start_in_event_loop(serve: Callable[[], Awaitable[None]], name: str) -> None:
    """Start a task that belongs to the running event loop, and is cancelled when the loop ends.

    On return the task runs, with the context variables of the caller. anyio has no such tasks,
    except for calls from a foreign thread. So a separate thread makes the call, and waits for the
    task: this thread is the task's visible parent.

    One thread with a task group for all these tasks would not do. On Trio, a Ctrl-C raises
    KeyboardInterrupt in any running task, even in the parent's own code, which anyio cannot
    protect. That would cancel every kernel of the event loop.

    Args:
        serve: the task, which must not raise.
        name: of the thread.

    Raises:
        RuntimeError: no thread can be started.
    """
    from anyio import from_thread  # which loads concurrent.futures, for few programs

    token = current_token()
    running = Event()

    async def serve_until_cancelled() -> None:
        running.set()
        try:
            await serve()
        except get_cancelled_exc_class():
            pass  # the event loop ends

    def call() -> None:
        try:
            from_thread.run(serve_until_cancelled, token=token)
        except KeyboardInterrupt:
            # On Trio, a Ctrl-C raises it in any running task; the main task must get it.
            _thread.interrupt_main()

    threading.Thread(target=copy_context().run, args=[call], name=name, daemon=True).start()
    # The call would fail, with an error in the log, if the event loop ended before the call.
    with CancelScope(shield=True):
        await running.wait()
