"""Stopping: interrupts one execution, after its timeout or on request.

An interrupt stops the code that runs at that moment. So the client sends an interrupt only while
the execution occupies the kernel: after the execution's "busy", and before its "idle" and its
reply.

Between "busy" and the first line of the code an interrupt is too early. The kernel ignores the
interrupt, or loses the reply because the interrupt stops the kernel's own code. So the client waits
for a sign of the code, and repeats the interrupt until the execution ends.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Literal, Protocol, TypeAlias

import anyio

from kernelproto.client.reply import CATCHING_UP_SECONDS
from kernelproto.concurrency.bell import Bell
from kernelproto.exceptions import ExecutionTimeout, KernelProtoError, KernelUnresponsive
from kernelproto.timeouts import Timeouts
from kernelproto.wire.transitions import Signal

logger = logging.getLogger(__name__)

# The time limits from "busy" to a sign of the code, and from that sign to the code.
_SIGN_SECONDS = 1.0
_HEAD_START_SECONDS = 0.05

# The first and the longest pause between interrupts. Each pause is twice as long as the one before,
# because code that handles an interrupt needs time.
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 16.0


OnTimeout: TypeAlias = Literal["raise", "restart"]

# Messages that the kernel sends only when the code runs or is about to run.
_SIGNS_OF_CODE = frozenset((Signal.OUTPUT, Signal.INPUT, Signal.OTHER))


class Stopper(Protocol):
    """Interrupts and restarts the kernel, and runs the tasks that do so."""

    @property
    def timeouts(self) -> Timeouts:
        """The time limits for the kernel's reaction to an interrupt."""
        ...

    async def interrupt_kernel(self) -> None:
        """Interrupt the running code."""
        ...

    async def restart_kernel(self) -> None:
        """Replace the kernel's process by a new one."""
        ...

    async def catch_up(self) -> bool:
        """Wait until the received messages are read; return whether there were unread ones."""
        ...

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function while the client is open."""
        ...


class Stopped(Protocol):
    """An execution that can be ended; implemented by Execution."""

    def time_is_up(self, error: ExecutionTimeout) -> None:
        """Raise *error* in the waiting tasks when the execution has ended."""
        ...

    def let_go(self) -> None:
        """Expect no more messages from the kernel."""
        ...

    def fail(self, error: Exception) -> None:
        """End the execution with *error*."""
        ...


class Turn:
    """The kernel's progress with one execution, and the tasks that interrupt the execution.

    Args:
        kernel: executes the code.

    Attributes:
        begun: whether the kernel has begun the execution.
        shows_code: whether a message has shown that the code runs.
        over: whether the kernel has finished: "idle" or the reply has arrived, or none will come.
        unwanted: whether to interrupt the code as soon as it runs.
    """

    __slots__ = ("_change", "_kernel", "begun", "over", "shows_code", "unwanted")

    def __init__(self, kernel: Stopper) -> None:
        self.begun = False
        self.shows_code = False
        self.over = False
        self.unwanted = False
        self._kernel = kernel
        self._change = Bell()

    @property
    def occupies_kernel(self) -> bool:
        """Whether an interrupt would stop this execution, as far as the client knows."""
        return self.begun and not self.over

    def note(self, signal: Signal) -> bool:
        """Note a message for the execution; return whether the message shows the beginning."""
        self.shows_code = signal in _SIGNS_OF_CODE
        begins = not self.begun and (self.shows_code or signal is Signal.BUSY)
        self.begun |= begins
        if begins and self.unwanted:
            self._start(interrupt_when_running)
        self._wake_tasks()
        return begins

    def end(self) -> None:
        """Take note that the kernel has finished the execution."""
        self.over = True
        self._wake_tasks()

    def interrupt_when_running(self) -> None:
        """Interrupt the code as soon as it runs, and again until it ends."""
        if self.over or self.unwanted:
            return
        self.unwanted = True
        if self.begun:
            self._start(interrupt_when_running)

    def limit(self, execution: Stopped, *, seconds: float, on_timeout: OnTimeout) -> None:
        """Limit the running time of the execution, which has just begun."""
        self._start(partial(limit_time, execution, seconds=seconds, on_timeout=on_timeout))

    async def change(self) -> None:
        """Wait until an attribute has changed."""
        await self._change.wait()

    def _start(self, function: Callable[[Turn, Stopper], Awaitable[None]]) -> None:
        self._kernel.start_task(function, self, self._kernel)

    def _wake_tasks(self) -> None:
        self._change.ring()


async def interrupt_when_running(turn: Turn, kernel: Stopper) -> None:
    """Interrupt the code of an execution as soon as it runs, and again until it ends."""
    await _wait_for_code(turn)
    await _interrupt_until_over(turn, kernel)


async def _wait_for_code(turn: Turn) -> None:
    with anyio.move_on_after(_SIGN_SECONDS):
        while turn.occupies_kernel and not turn.shows_code:
            await turn.change()
    await _wait_for_end(turn, _HEAD_START_SECONDS)


async def _interrupt_until_over(turn: Turn, kernel: Stopper) -> None:
    pause = _FIRST_PAUSE_SECONDS
    while turn.occupies_kernel:
        await kernel.catch_up()  # the end may be among the unread messages
        if not turn.occupies_kernel:
            return
        with anyio.move_on_after(pause):
            await _try_to_interrupt(kernel)
        await _wait_for_end(turn, pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


async def _try_to_interrupt(kernel: Stopper) -> None:
    try:
        await kernel.interrupt_kernel()
    except KernelProtoError:
        pass  # the kernel or the client has ended, or the kernel does not support interrupts
    except Exception:  # of an application's KernelManager, or another user's kernel
        logger.exception("cannot interrupt an execution")


async def limit_time(
    execution: Stopped, turn: Turn, kernel: Stopper, *, seconds: float, on_timeout: OnTimeout
) -> None:
    """Limit the running time of an execution that has just begun.

    Args:
        execution: the execution.
        turn: the kernel's progress with the execution.
        kernel: executes the code.
        seconds: the limit.
        on_timeout: the action if an interrupt does not end the code.
    """
    await _wait_for_end(turn, seconds)
    # The end may have arrived in time and be unread, because the application was busy.
    await _wait_for_end(turn, CATCHING_UP_SECONDS)
    await kernel.catch_up()
    if not turn.occupies_kernel:
        return
    execution.time_is_up(
        ExecutionTimeout(
            f"the code ran for more than {seconds:g} s and was interrupted", seconds=seconds
        )
    )
    await _wait_for_code(turn)
    grace = kernel.timeouts.interrupt
    with anyio.move_on_after(grace):
        await _interrupt_until_over(turn, kernel)
    await kernel.catch_up()
    if not turn.occupies_kernel:
        return
    execution.let_go()
    if on_timeout == "restart":
        await _restart(execution, kernel, seconds, grace)
    else:
        execution.fail(
            KernelUnresponsive(
                f"the code exceeded its timeout of {seconds:g} s and still runs {grace:g} s after "
                "the interrupt: restart the kernel",
                seconds=grace,
            )
        )


async def _restart(execution: Stopped, kernel: Stopper, seconds: float, grace: float) -> None:
    news = (
        f"the code ran for more than {seconds:g} s and did not end within {grace:g} s after an "
        "interrupt"
    )
    error = ExecutionTimeout(f"{news}: the kernel is being restarted", seconds=seconds)
    try:
        await kernel.restart_kernel()
        error = ExecutionTimeout(
            f"{news}: the kernel was restarted", seconds=seconds, restarted=True
        )
    except KernelProtoError as failure:
        error = ExecutionTimeout(
            f"{news}: the kernel could not be restarted: {failure}", seconds=seconds
        )
        error.__cause__ = failure
    finally:
        execution.fail(error)


async def _wait_for_end(turn: Turn, seconds: float) -> None:
    """Wait until the kernel has finished the execution, at most *seconds*."""
    with anyio.move_on_after(seconds):
        while turn.occupies_kernel:
            await turn.change()
