"""Execution: one execute_request, from the preparation to the arrival of the last output."""

from __future__ import annotations

import math
import warnings
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from types import TracebackType
from typing import Any, Literal, Protocol, TypeAlias

import anyio
import msgspec
from anyio import get_cancelled_exc_class
from anyio.lowlevel import checkpoint

from kernelproto.client.outcome import Outcome, reply_lost
from kernelproto.client.output_buffer import OutputBuffer
from kernelproto.client.page import Displays, LastingOutput
from kernelproto.client.questions import OnInput, Questions
from kernelproto.client.reply import CATCHING_UP_SECONDS
from kernelproto.client.result import ExecutionResult
from kernelproto.client.stopping import OnTimeout, Stopper, Turn
from kernelproto.concurrency.bell import Bell
from kernelproto.exceptions import ClientClosed, ExecutionTimeout, MalformedMessage
from kernelproto.wire.content import ExecuteRequest, Output
from kernelproto.wire.conversation import Event
from kernelproto.wire.message import Message
from kernelproto.wire.refusals import RefusedOutput
from kernelproto.wire.request import Request
from kernelproto.wire.transitions import Signal, State

ExecutionState: TypeAlias = Literal["prepared", "queued", "running", "done"]

# For each output: a name of the module is read faster than a member of an enumeration.
_OUTPUT = Signal.OUTPUT
_LOST = State.LOST

# How long a cancelled task waits for the end of the code that it interrupted.
_INTERRUPT_SECONDS = 2.0

# Up to this number, outputs that have arrived are read without a checkpoint.
_READS_BETWEEN_CHECKPOINTS = 256


class ExecutionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of ``execute`` that are not sent to the kernel.

    Args:
        on_output: called with each output, which is then neither decoded nor kept; must not raise.
    """

    on_input: OnInput | None = None
    subshell_id: str | None = None
    timeout: float | None = None
    on_timeout: OnTimeout = "raise"
    idle_timeout: float | None = None
    interrupt_on_cancel: bool = False
    on_output: Callable[[Message], None] | None = None


class ExecutionSender(Stopper, Protocol):
    """Sends the messages of an Execution; implemented by the client."""

    async def send_execution(self, execution: Execution) -> None:
        """Send the execute_request and pass its messages to ``execution.receive``."""
        ...

    def forget_execution(self, execution: Execution) -> None:
        """Stop passing messages to the execution."""
        ...

    async def send_input(self, text: str, request: Message) -> None:
        """Answer an input_request."""
        ...


class Execution:
    """Code that the kernel runs or will run.

    ``execute`` only prepares the request. The client sends the request when you await, iterate or
    enter the execution:

    - ``await execution`` waits for the end and returns the ExecutionResult. You may await again.
    - ``async for output in execution`` gives each output once, as it arrives, and stops at the end
      of the execution. A later ``await`` returns the result at once.
    - ``async with kernel.execute(...) as execution`` sends the request on entry. Leaving the block
      before the end discards later outputs and the reply; the kernel is not interrupted.

    Cancelling a waiting task does not affect the kernel; another task may wait for the execution.
    With ``interrupt_on_cancel``, cancellation interrupts the code: running code immediately, other
    code when it starts. Interrupting one execution never interrupts another.

    Unread outputs are kept in order, up to the client's ``output_limit`` in bytes. Outputs beyond
    the limit are discarded, and the reader gets OutputOverflow after the kept outputs. Outputs that
    were read by iteration are kept for the result up to the same limit; beyond the limit the oldest
    are dropped and ``ExecutionResult.outputs_complete`` is False. ``outputs_complete`` is also
    False if a RefusedOutput takes the place of an output that cannot be read.

    ``on_input`` is called in a waiting task when the kernel asks for input; a plain function runs
    in a worker thread. Exceptions are raised in the waiting task. If the kernel asks although the
    request does not allow input, the answer is empty, and a warning is logged.

    The ``timeout`` begins when the kernel begins the execution, whether or not a task waits.

    An execution ends with the kernel's reply and "idle". A few kernels send their last outputs
    later; the execution then ends a quarter of a second after the last output.

    Awaiting and iterating raise:
        KernelDied: the kernel's process has ended; iterating first gives the outputs so far.
        ClientClosed: the client was closed, or the block of the execution was left early.
        OutputOverflow: outputs were not read in time.
        MalformedMessage: the kernel's reply cannot be read.
        ReplyLost: the kernel went on without a reply. The exception's ``result`` has the outputs.
        ExecutionTimeout: the code ran longer than its ``timeout``. The exception's ``result`` is
            the result so far; iterating first gives the outputs.
        KernelUnresponsive: the code ran longer than its ``timeout``, and ignored the interrupt.

    Specification: "Execute".

    Attributes:
        request: the content of the execute_request.
        msg_id: the msg_id of the sent request; None before.
    """

    def __init__(
        self,
        sender: ExecutionSender,
        request: ExecuteRequest,
        *,
        options: ExecutionOptions,
        output_limit: int,
    ) -> None:
        self.request = request
        self.options = options
        self.msg_id: str | None = None
        self._sender = sender
        self._buffer = OutputBuffer(output_limit)
        self._outcome = Outcome(self._buffer)
        on_input = options.on_input if request.allow_stdin else None
        self._questions = Questions(on_input, sender.send_input)
        self._turn = Turn(sender)
        self._used = False
        self._sent = False
        self._ended = False
        self._trailing = False
        self._news = Bell()
        self._iterated = False
        self._reads = 0
        self._silence_until = math.inf

    def __del__(self) -> None:
        if not self._used:
            warnings.warn(
                f"the execution of {self.request.code!r} was never awaited",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def state(self) -> ExecutionState:
        """The progress of the execution.

        "prepared" before the request is sent; "queued" until the kernel begins the execution;
        "running" until the reply and the last outputs have arrived; then "done".
        """
        if self._ended:
            return "done"
        if self._turn.begun:
            return "running"
        return "queued" if self._sent else "prepared"

    @property
    def outputs(self) -> Sequence[LastingOutput]:
        """The outputs so far, in the form of ``ExecutionResult.outputs``; also after a failure."""
        return self._buffer.page.outputs()

    def __await__(self) -> Generator[Any, Any, ExecutionResult]:
        return self._result().__await__()

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        self._iterated = True
        if not self._sent:
            await self._send()
        while (output := self._buffer.read()) is None:
            self._outcome.raise_failure()
            if self._ended:
                self._outcome.raise_timeout()
                raise StopAsyncIteration
            await self._progress()
        self._reads += 1
        if self._reads % _READS_BETWEEN_CHECKPOINTS == 0:
            await checkpoint()
        return output

    async def __aenter__(self) -> Execution:
        await self._send()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None and issubclass(exc_type, get_cancelled_exc_class()):
            await self._interrupt_if_asked()
        if not self._ended:
            error = ClientClosed("the execution's block was left before its end")
            if self._turn.unwanted:  # an interrupt is still to be sent
                self._close(error)
            else:
                self.let_go()
                self.fail(error)

    async def interrupt(self) -> None:
        """Interrupt this execution, and no other one.

        Running code is interrupted at once. For a prepared or queued execution the call returns at
        once; the client interrupts the code as soon as the code runs, and again until it ends. The
        call has no effect after the end of the execution.

        Raises:
            UnsupportedRequest: the kernel does not support interrupts.
            KernelDied, ClientClosed: the kernel has ended, or the client was closed.
        """
        await self._sender.catch_up()
        if self._turn.occupies_kernel and self._turn.shows_code:
            await self._sender.interrupt_kernel()
        else:
            self._turn.interrupt_when_running()
            await checkpoint()

    @property
    def turn(self) -> Turn:
        """The kernel's progress with this execution; for the client."""
        return self._turn

    def time_is_up(self, error: ExecutionTimeout) -> None:
        """Raise *error* in the tasks that wait, once the execution has ended."""
        self._outcome.timed_out = error

    def let_go(self) -> None:
        """Expect no more messages from the kernel."""
        self._sender.forget_execution(self)
        self.note_loss()

    def note_loss(self) -> None:
        """Take note that an output is missing."""
        self._buffer.complete = False

    def receive(self, event: Event) -> None:
        """Take in a message for this execution; called by the client.

        Raises:
            MalformedMessage: the content of an output cannot be read.
        """
        signal, request = event.signal, event.request
        if not self._turn.shows_code:
            self._note_progress(signal)
        if signal is _OUTPUT:
            self._receive_output(event.message)
        elif signal is Signal.INPUT:
            self._questions.ask(event.message)
            self._news.ring()
        elif signal is Signal.IDLE:
            self._turn.end()
        if request is None:
            return
        if request.state is _LOST:
            self._buffer.complete &= request.idle_at is not None
            self.fail(reply_lost(request))
        elif request.reply is not None:
            # Without "idle" outputs may be missing.
            self._buffer.complete &= signal is not Signal.LATER_REPLY
            self._receive_reply(request, request.reply)

    def _note_progress(self, signal: Signal) -> None:
        begins = self._turn.note(signal)
        options = self.options
        if begins and options.timeout is not None:
            self._turn.limit(self, seconds=options.timeout, on_timeout=options.on_timeout)

    def _receive_output(self, message: Message) -> None:
        if self.options.on_output is not None:
            if not self._ended:
                self.options.on_output(message)
            return
        refusal = None
        try:
            output = message.content
        except MalformedMessage as error:
            output, refusal = RefusedOutput.of(message.msg_type, error), error
        if self._ended:
            return  # the block was left
        kept = self._buffer.append(output, message.size)
        # Outputs do not wake a task that only awaits the result.
        if self._iterated or not kept:
            self._news.ring()
        if refusal is not None:
            raise refusal

    def _receive_reply(self, request: Request, reply: Message) -> None:
        # After its reply the kernel no longer needs input.
        self._questions.withdraw()
        self._outcome.reply = reply
        self._turn.end()
        if self._ended:
            return  # the block was left
        self._ended = request.state is State.DONE
        self._trailing = request.state is State.TRAILING
        silence = request.trailing_seconds if self._trailing else self.options.idle_timeout
        if silence is not None:
            self._silence_until = anyio.current_time() + silence
        if self._ended or silence is not None:
            self._news.ring()

    def share(self, displays: Displays) -> None:
        """Use the displays of the kernel; called by the client before it sends the request."""
        self._buffer.page.displays = displays

    def fail(self, error: Exception) -> None:
        """End the execution with *error*; called by the client."""
        self._turn.end()
        self._close(error)

    def _close(self, error: Exception) -> None:
        """End the waiting with *error*."""
        self._outcome.fail(error)
        self._ended = True
        self._questions.withdraw()
        self._news.ring()

    async def _result(self) -> ExecutionResult:
        await self._send()
        while not self._ended and self._buffer.overflow() is None:
            await self._progress()
        self._outcome.raise_failure()
        return self._outcome.result()

    async def _send(self) -> None:
        self._used = True
        if self._sent or self._ended:
            return
        self._sent = True
        try:
            await self._sender.send_execution(self)
        except BaseException:
            self._sent = False
            self._news.ring()
            raise

    async def _progress(self) -> None:
        """Wait for a change, and answer the kernel's question meanwhile."""
        try:
            if self._silence_until == math.inf:
                await self._change()
            else:
                with anyio.CancelScope(deadline=self._silence_until) as waiting:
                    await self._change()
                if waiting.cancelled_caught:
                    await self._end_after_silence()
        except get_cancelled_exc_class():
            await self._interrupt_if_asked()
            raise

    async def _change(self) -> None:
        if not self._sent:  # the sending task has failed
            await self._send()
        elif self._questions.needs_answer:
            try:
                await self._questions.answer()
            finally:
                self._news.ring()  # if this task has failed, another task answers
        else:
            await self._news.wait()

    async def _end_after_silence(self) -> None:
        if await self._sender.catch_up():
            return
        with anyio.move_on_after(CATCHING_UP_SECONDS):
            await self._news.wait()
            return
        self._sender.forget_execution(self)
        self._buffer.complete &= self._trailing
        self._ended = True
        self._news.ring()

    async def _interrupt_if_asked(self) -> None:
        if not self.options.interrupt_on_cancel or not self._sent or self._ended:
            return
        self._turn.interrupt_when_running()
        if self._turn.begun or self._turn.over:
            with anyio.move_on_after(_INTERRUPT_SECONDS, shield=True):
                # The kernel would abort requests that it receives while the code still runs.
                while not (self._ended or self._trailing):
                    await self._news.wait()
