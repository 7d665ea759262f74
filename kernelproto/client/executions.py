"""Executions: sends and interrupts the executions of one client, and finds lost replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import TypeVar

import anyio

from kernelproto.client.dispatcher import Dispatcher
from kernelproto.client.execution import Execution
from kernelproto.client.lost_replies import LostReplies
from kernelproto.client.page import Displays
from kernelproto.concurrency.task_groups import StartTask
from kernelproto.exceptions import KernelProtoError, LocalProtocolError
from kernelproto.timeouts import Timeouts
from kernelproto.wire import content
from kernelproto.wire.message import Message

T = TypeVar("T")

# The number of unanswered requests that may wait on shell to wake the kernel.
_MOST_WAKE_UPS = 8

# The seconds between the interrupt and the first of these requests, and between the requests.
_WAKE_UP_PAUSES = (0.02, 0.1, 0.3, 0.6)


class Executions:
    """Implements ExecutionSender for the executions of a client.

    Args:
        dispatcher: sends the requests.
        start_task: runs a task while the client is open.
        interrupt: interrupts the kernel.
        timeouts: the time limits for the kernel's reaction to an interrupt.
        displays: the kernel's displays, which all executions share.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        start_task: StartTask,
        interrupt: Callable[[], Awaitable[None]],
        timeouts: Timeouts,
        displays: Displays,
    ) -> None:
        self._dispatcher = dispatcher
        self._start_task = start_task
        self._interrupt = interrupt
        self._timeouts = timeouts
        self._lost_replies = LostReplies(dispatcher, start_task)
        self._displays = displays
        self._wake_ups = 0
        self._wake_up_pauses: Iterator[float] = iter(())
        self._waking = False
        self._asleep = False

    @property
    def timeouts(self) -> Timeouts:
        """The time limits for the kernel's reaction to an interrupt."""
        return self._timeouts

    async def send_execution(self, execution: Execution) -> None:
        """Send an execution's request."""
        message = self._dispatcher.factory.message(
            "execute_request", execution.request, subshell_id=execution.options.subshell_id
        )
        execution.msg_id = message.msg_id
        execution.share(self._displays)
        await self._dispatcher.send(message, "shell", execution)
        self._lost_replies.watch()

    def forget_execution(self, execution: Execution) -> None:
        """Stop passing messages to an execution."""
        if execution.msg_id is not None:
            self._dispatcher.forget(execution.msg_id)

    async def send_input(self, text: str, request: Message) -> None:
        """Answer an input_request."""
        reply = content.InputReply(value=text)
        await self._dispatcher.send(
            self._dispatcher.factory.message("input_reply", reply, parent=request), "stdin"
        )

    async def interrupt_kernel(self) -> None:
        """Interrupt the running code with the client's ``interrupter``."""
        await self.interrupt(self._interrupt)

    async def interrupt(self, send: Callable[[], Awaitable[T]]) -> T:
        """Interrupt the running code by calling *send*; return the value of *send*.

        If the first execution of this client was sent but does not run yet, the interrupt comes too
        early. That execution is interrupted again as soon as it runs, unless the kernel works for
        another client.
        """
        first = self._first()
        if first is not None and not first.turn.shows_code:
            first.turn.interrupt_when_running()
        self._lost_replies.note_interrupt()
        sent = await send()
        self._wake_up_pauses = iter(_WAKE_UP_PAUSES)
        self._asleep = True
        if not self._waking and self._dispatcher.failure is None:
            self._waking = True
            self._start_task(self._wake_kernel)
        return sent

    async def restart_kernel(self) -> None:
        """Raise LocalProtocolError: a client cannot restart its kernel."""
        raise LocalProtocolError("a KernelClient cannot restart its kernel: use a Kernel")

    @property
    def show_displays(self) -> bool:
        """Whether any execution shows a display, which a later message may update."""
        return bool(self._displays)

    async def catch_up(self) -> bool:
        """Wait until the received messages are read; return whether there were unread ones."""
        return await self._dispatcher.catch_up()

    def update_displays(self, message: Message) -> None:
        """Update a display in the outputs of all executions."""
        if self.show_displays:
            self._displays.update(message.content, message.size)

    def note_shell(self) -> None:
        """Take note of a message on shell, which shows that the kernel is awake."""
        self._wake_ups = 0
        self._asleep = False

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function while the client is open."""
        self._start_task(function, *args)

    async def _wake_kernel(self) -> None:
        """Send requests so that the kernel notices the interrupt.

        A Python kernel that sleeps in a top-level ``await`` handles a signal only when its event
        loop wakes up, and a request wakes the loop. No task waits for the reply. On a busy machine
        the request may overtake the signal, so more requests follow.
        """
        try:
            with suppress(KernelProtoError):  # the kernel has ended
                while self._asleep and (pause := next(self._wake_up_pauses, None)) is not None:
                    await anyio.sleep(pause)
                    if self._asleep:
                        await self._send_wake_up()
        finally:
            self._waking = False

    async def _send_wake_up(self) -> None:
        if self._dispatcher.conversation.kernel_busy and self._wake_ups < _MOST_WAKE_UPS:
            self._wake_ups += 1
            request = content.KernelInfoRequest()
            message = self._dispatcher.factory.message("kernel_info_request", request)
            await self._dispatcher.send(message, "shell")

    def _first(self) -> Execution | None:
        """Return the execution that the kernel runs, or is about to run, for this client."""
        conversation = self._dispatcher.conversation
        for request in conversation.open_requests():
            execution = self._dispatcher.pending_for(request.message.msg_id)
            if isinstance(execution, Execution) and execution.options.subshell_id is None:
                begun = execution.turn.begun
                return execution if begun or not conversation.serves_others else None
        return None
