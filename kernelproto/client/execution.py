"""Execution: one execute_request, from before it is sent until all its outputs are here."""

from __future__ import annotations

import inspect
import logging
import math
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import anyio
from anyio import get_cancelled_exc_class, to_thread
from anyio.lowlevel import checkpoint

from kernelproto.client.output_buffer import OutputBuffer
from kernelproto.client.page import Displays, LastingOutput
from kernelproto.client.refusals import RefusedOutput
from kernelproto.client.reply import CATCHING_UP_SECONDS
from kernelproto.client.result import ExecutionResult
from kernelproto.exceptions import (
    ClientClosed,
    KernelProtoError,
    LocalProtocolError,
    MalformedMessage,
    fresh,
)
from kernelproto.log_counts import LogCounts
from kernelproto.wire.content import (
    ExecuteReply,
    ExecuteRequest,
    InputRequest,
    Output,
)
from kernelproto.wire.conversation import Event, Request, Signal, State
from kernelproto.wire.message import Message

logger = logging.getLogger(__name__)

OnInput = Callable[[InputRequest], str | Awaitable[str]]

# How long the kernel may take to react to an interrupt; what comes of it later is seen anyway.
_INTERRUPT_SECONDS = 2.0

# Outputs that are here already are read without waiting, but not so many that nobody else gets a
# turn.
_READS_BETWEEN_CHECKPOINTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionOptions:
    """How an execution is waited for; the arguments of ``execute`` that the kernel never sees."""

    on_input: OnInput | None = None
    subshell_id: str | None = None
    interrupt_timeout: float | None = None
    idle_timeout: float | None = None
    interrupt_on_cancel: bool = False


class ExecutionSender(Protocol):
    """What an Execution needs of the client that it belongs to."""

    async def send_execution(self, execution: Execution) -> None:
        """Send the execute_request; what belongs to it comes to ``execution.receive``."""
        ...

    def forget_execution(self, execution: Execution) -> None:
        """Deliver nothing more to it."""
        ...

    async def send_input(self, text: str, request: Message) -> None:
        """Answer an input_request."""
        ...

    async def interrupt_kernel(self) -> None:
        """Interrupt the running code, in whichever way the kernel wants it."""
        ...


class Execution:
    """Code that is being run, or is about to be.

    The request is sent when the execution is first awaited, iterated or entered. Then

    - ``await execution`` waits for the end and returns the ExecutionResult; it may be repeated,
    - ``async for output in execution`` gives the outputs as they come, each once, and ends with the
      execution; awaiting it afterwards gives the result at once,
    - ``async with kernel.execute(...) as execution`` sends the request on entry. Leaving the block
      before the end gives up on what is still to come; the kernel is not interrupted.

    Cancelling the task that waits does nothing to the kernel; it can be waited for again.

    Outputs are kept, in order, until they are read, up to the client's ``output_limit`` in bytes.
    What exceeds it is discarded, and the reader gets OutputOverflow after what was kept.
    Outputs that were read by iteration are kept for the result up to the same limit; beyond it the
    oldest are dropped and ``ExecutionResult.outputs_complete`` is False. It is also False if an
    output cannot be read: a RefusedOutput takes its place.

    ``on_input`` is called in the task that waits, when the kernel asks for input; a plain function
    runs in a worker thread. What it raises, the waiting task raises. The other options are acted on
    while a task waits, too: see ``execute``. A kernel that asks although it was told not to gets an
    empty answer, and a warning is logged.

    It ends with the kernel's reply and "idle". Of the few kernels whose last outputs come later it
    ends a quarter of a second after the last one.

    Awaiting and iterating raise:
        KernelDied: the kernel's process has ended; iterating first gives what was received before.
        ClientClosed: the client was closed, or the execution's block was left before its end.
        OutputOverflow: outputs were not read in time.
        MalformedMessage: the kernel's reply cannot be read.

    Specification: "Execute".

    Attributes:
        request: what is asked of the kernel.
        msg_id: the request's msg_id once it was sent, before that None.
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
        self._used = False
        self._sent = False
        self._ended = False
        self._trailing = False
        self._reply: Message | None = None
        self._error: Exception | None = None
        self._question: Message | None = None
        self._answering: anyio.CancelScope | None = None
        self._news = anyio.Event()
        self._iterated = False
        self._log_counts = LogCounts()
        self._reads = 0
        self._interrupt_at = math.inf
        self._silence_until = math.inf

    def __del__(self) -> None:
        if not self._used:
            warnings.warn(
                f"the execution of {self.request.code!r} was never awaited",
                RuntimeWarning,
                stacklevel=2,
            )

    @property
    def outputs(self) -> Sequence[LastingOutput]:
        """The outputs so far, as ``ExecutionResult.outputs`` has them; also after a failure."""
        return self._buffer.kept()

    def __await__(self) -> Generator[Any, Any, ExecutionResult]:
        return self._result().__await__()

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        self._iterated = True
        if not self._sent:
            await self._send()
        while (output := self._buffer.read()) is None:
            self._raise_failure()
            if self._ended:
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
            self._sender.forget_execution(self)
            self.fail(ClientClosed("the execution's block was left before its end"))

    def receive(self, event: Event) -> None:
        """Take in what the kernel has sent for this execution; called by the client.

        Raises:
            MalformedMessage: an output whose content cannot be read.
        """
        if event.signal is Signal.OUTPUT:
            self._receive_output(event.message)
        elif event.signal is Signal.INPUT:
            self._question = event.message
            self._news.set()
        request = event.request
        if request is not None and request.reply is not None:
            self._receive_reply(request, request.reply)

    def _receive_output(self, message: Message) -> None:
        try:
            output = message.content
        except MalformedMessage as error:
            self._keep_output(RefusedOutput.of(message.msg_type, error), message)
            raise
        self._keep_output(output, message)

    def _keep_output(self, output: Output, message: Message) -> None:
        kept = self._buffer.append(output, sum(map(len, message.parts)))
        # Who awaits the result need not be woken for each of its parts.
        if self._iterated or not kept:
            self._news.set()

    def _receive_reply(self, request: Request, reply: Message) -> None:
        # Who has replied waits for no answer any more, whatever became of the question.
        self._withdraw_question()
        self._reply = reply
        self._ended = request.state is State.DONE
        self._trailing = request.state is State.TRAILING
        silence = request.trailing_seconds if self._trailing else self.options.idle_timeout
        if silence is not None:
            self._silence_until = anyio.current_time() + silence
        if self._ended or silence is not None:
            self._news.set()

    def share(self, displays: Displays) -> None:
        """Show the displays of the kernel that it is sent to; called by the client."""
        self._buffer.page.displays = displays

    def fail(self, error: Exception) -> None:
        """End the execution with *error*; called by the client."""
        self._error = error
        self._ended = True
        self._withdraw_question()
        self._news.set()

    async def _result(self) -> ExecutionResult:
        await self._send()
        while not self._ended and self._buffer.overflow() is None:
            await self._progress()
        self._raise_failure()
        assert self._reply is not None
        reply = self._reply.content
        if not isinstance(reply, ExecuteReply):
            raise MalformedMessage(f"an execute_request was answered by {self._reply.msg_type}")
        return ExecutionResult.of(
            reply, self._buffer.kept(), outputs_complete=self._buffer.complete
        )

    @property
    def _occupies_kernel(self) -> bool:
        return not (self._ended or self._trailing)

    async def _send(self) -> None:
        self._used = True
        if self._sent or self._ended:
            return
        self._sent = True
        try:
            await self._sender.send_execution(self)
            if self.options.interrupt_timeout is not None:
                self._interrupt_at = anyio.current_time() + self.options.interrupt_timeout
                self._news.set()  # whoever waits besides has to know this time as well
        except BaseException:
            self._sent = False
            self._news.set()
            raise

    async def _progress(self) -> None:
        """Wait until something may have changed, answering the kernel's question meanwhile."""
        deadline = min(self._interrupt_at, self._silence_until)
        try:
            if deadline == math.inf:
                await self._change()
            else:
                with anyio.CancelScope(deadline=deadline) as waiting:
                    await self._change()
                if waiting.cancelled_caught:
                    await self._act_on_deadline()
        except get_cancelled_exc_class():
            await self._interrupt_if_asked()
            raise

    async def _change(self) -> None:
        if not self._sent:  # the task that was about to send it has failed
            await self._send()
        elif self._question is not None and self._answering is None:
            await self._answer(self._question)
        else:
            await self._wait_for_news()

    async def _wait_for_news(self) -> None:
        if self._news.is_set():
            self._news = anyio.Event()
        await self._news.wait()

    async def _act_on_deadline(self) -> None:
        now = anyio.current_time()
        if now >= self._interrupt_at:
            self._interrupt_at = math.inf
            with anyio.move_on_after(_INTERRUPT_SECONDS):
                await self._interrupt()
        if now >= self._silence_until:
            with anyio.move_on_after(CATCHING_UP_SECONDS):
                await self._wait_for_news()
                return
            self._sender.forget_execution(self)
            self._buffer.complete &= self._trailing
            self._ended = True
            self._news.set()

    async def _interrupt_if_asked(self) -> None:
        if self.options.interrupt_on_cancel and self._occupies_kernel:
            with anyio.move_on_after(_INTERRUPT_SECONDS, shield=True):
                await self._interrupt()
                # Whatever is sent while the code still runs, the kernel would abort with it.
                while self._occupies_kernel:
                    await self._wait_for_news()

    async def _interrupt(self) -> None:
        # Once it has replied the interrupt would hit whatever runs next, or an idle kernel, which
        # some do not survive.
        if self._reply is None:
            with suppress(KernelProtoError):
                await self._sender.interrupt_kernel()

    async def _answer(self, question: Message) -> None:
        try:
            with anyio.CancelScope() as self._answering:
                text = await self._answer_to(question.content)
                if self._question is question:
                    await self._sender.send_input(text, question)
                if self._question is question:
                    self._question = None
        finally:
            self._answering = None
            self._news.set()  # if this task has failed, another one that waits may do better

    async def _answer_to(self, question: InputRequest) -> str:
        if self.options.on_input is not None and self.request.allow_stdin:
            return await _ask(self.options.on_input, question)
        # Without an answer the kernel would wait for ever, and so would everybody else.
        text = "the kernel asks %r and gets no text: allow_stdin is False"
        self._log_counts.log(logger, logging.WARNING, "asked", text, question.prompt[:200])
        return ""

    def _withdraw_question(self) -> None:
        self._question = None
        if self._answering is not None:
            self._answering.cancel()

    def _raise_failure(self) -> None:
        overflow = self._buffer.overflow()
        if overflow is not None:
            raise overflow
        if self._error is not None:
            raise fresh(self._error)


async def _ask(on_input: OnInput, question: InputRequest) -> str:
    if inspect.iscoroutinefunction(on_input):
        answer = await on_input(question)
    else:
        # It may well be input() or getpass(), which would hold up the event loop. What it returns
        # comes in a tuple, because Trio lets no awaitable out of a thread.
        (answer,) = await to_thread.run_sync(lambda: (on_input(question),), abandon_on_cancel=True)
        if inspect.isawaitable(answer):
            answer = await answer
    if not isinstance(answer, str):
        raise LocalProtocolError(f"on_input must return a str, not {type(answer).__name__}")
    return answer
