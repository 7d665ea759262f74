"""Service: one task enters and leaves a context manager for callers in any task.

The task that entered a cancel scope must also leave it, and a kernel has several scopes. But a
pytest-asyncio fixture, an AsyncExitStack or a REPL may enter a block in one task and leave it in
another task. So a task of the event loop enters and leaves the scopes, and the callers start and
stop this task.
"""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Generic, TypeVar

import anyio
from anyio import get_cancelled_exc_class

from kernelproto.concurrency.process_owner import LoopOwner
from kernelproto.concurrency.shield import to_the_end
from kernelproto.concurrency.task_groups import start_in_event_loop
from kernelproto.exceptions import ClientClosed

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Service(Generic[T]):
    """Enters and leaves an async context manager in a task of the event loop.

    One task may enter ``async with Service(manager, name) as value``, and another task may leave
    it. Exceptions from the block are not passed to the manager, and arrive unchanged. If the
    manager fails after the entry, the error is logged, and raised at the end of the block. The end
    of the event loop ends the service as well.

    Args:
        manager: the async context manager.
        name: the name of the service in the log, and of the thread.
    """

    def __init__(self, manager: AbstractAsyncContextManager[T], name: str) -> None:
        self._manager = manager
        self._name = name
        self._values: list[T] = []
        self._failure: BaseException | None = None
        self._owner: LoopOwner
        self._scope: anyio.CancelScope
        self._entered: anyio.Event
        self._leaving: anyio.Event
        self._ended: anyio.Event

    async def start(self) -> T:
        """Enter the manager; return the manager's value.

        Raises:
            BaseException: the manager could not be entered.
            RuntimeError: no thread can be started.
        """
        self._owner = LoopOwner()
        self._scope = anyio.CancelScope()
        self._entered, self._leaving, self._ended = anyio.Event(), anyio.Event(), anyio.Event()
        try:
            await start_in_event_loop(self._serve, name=f"kernelproto {self._name}")
            await self._entered.wait()
        except Exception:
            raise  # there is no service
        except BaseException:
            self._scope.cancel()
            await self.stop()
            raise
        self._raise_failure()
        if not self._values:
            raise ClientClosed(f"{self._name!r} was not opened: the event loop is ending")
        return self._values[0]

    async def stop(self) -> None:
        """Leave the manager, even when cancelled; any task may call this, more than once.

        In a forked child ``stop`` does nothing.

        Raises:
            WrongEventLoop: the service was started in another event loop.
        """
        if not self._owner.is_here or self._ended.is_set():
            return
        self._owner.check("kernel")
        self._leaving.set()
        await to_the_end(self._ended.wait)  # bounded, because the end of a kernel is
        self._values.clear()  # the thread behind the task may live a moment longer

    async def __aenter__(self) -> T:
        return await self.start()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()
        if exc_value is None or isinstance(exc_value, get_cancelled_exc_class()):
            self._raise_failure()
        elif self._failure is not None:
            exc_value.add_note(f"a background task failed as well: {self._failure!r}")

    async def _serve(self) -> None:
        try:
            with self._scope:
                async with self._manager as value:
                    self._values.append(value)
                    self._entered.set()
                    await self._leaving.wait()
        except Exception as error:
            self._failure = error
            if self._values:  # after start() there may be no task that could raise the error
                logger.error("the kernel %r that was started has failed", self._name, exc_info=True)
        except (KeyboardInterrupt, SystemExit) as error:
            self._failure = error
            if self._values:
                raise
        finally:
            self._entered.set()
            self._ended.set()

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:  # a traceback that refers to itself would keep all its objects alive
                del failure
