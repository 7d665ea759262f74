"""Signals: Ctrl-C interrupts running code first; other signals end the command gracefully."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.abc import TaskGroup, TaskStatus

from kernelproto.concurrency.task_groups import background_tasks, start_logged

_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]

Interrupt = Callable[[], Awaitable[object]]


class Signals:
    """Handles SIGINT, SIGTERM and SIGHUP.

    Args:
        tasks: runs the interrupts of the kernel, which may take long.
        interrupts: the number of times that Ctrl-C interrupts code before it ends the program.

    Attributes:
        idle_ends: whether Ctrl-C ends the program while no code runs, instead of being ignored.
        interrupts: how often the current or last code was interrupted.
        ended_by: the signal that ended the program; None for none.
        scope: cancelled by a signal that ends the program.
    """

    def __init__(self, tasks: TaskGroup, *, interrupts: int) -> None:
        self.idle_ends = True
        self.interrupts = 0
        self.ended_by: int | None = None
        self.scope = anyio.CancelScope()
        self._tasks = tasks
        self._allowed = interrupts
        self._interrupt: Interrupt | None = None

    @contextmanager
    def interrupting(self, interrupt: Interrupt) -> Generator[None]:
        """Call *interrupt* on Ctrl-C during the block, in which code runs."""
        self._interrupt = interrupt
        self.interrupts = 0
        try:
            yield
        finally:
            self._interrupt = None

    async def listen(self, *, task_status: TaskStatus[None]) -> None:
        """Handle signals until cancelled."""
        with anyio.open_signal_receiver(*_ENDING) as signals:
            task_status.started()
            async for signum in signals:
                self._receive(signum)

    def _receive(self, signum: int) -> None:
        if signum == signal.SIGINT and self._interrupt is not None:
            if self.interrupts < self._allowed:
                self.interrupts += 1
                start_logged(self._tasks, _call, self._interrupt)
                return
        elif signum == signal.SIGINT and not self.idle_ends:
            return
        self.ended_by = signum
        self.scope.cancel()


@asynccontextmanager
async def receive_signals(*, interrupts: int = 1) -> AsyncGenerator[Signals]:
    """Handle signals in the block; a signal that ends the program cancels it; see Signals."""
    async with background_tasks() as tasks:
        signals = Signals(tasks, interrupts=interrupts)
        await tasks.start(signals.listen)
        with signals.scope:
            yield signals


async def _call(interrupt: Interrupt) -> None:
    await interrupt()
