"""Outcome: the result or the exception for the tasks that wait for an execution."""

from __future__ import annotations

from kernelproto.client.output_buffer import OutputBuffer
from kernelproto.client.result import ExecutionResult
from kernelproto.exceptions import (
    ExecutionTimeout,
    KernelUnresponsive,
    MalformedMessage,
    ReplyLost,
    fresh,
)
from kernelproto.wire.content import ExecuteReply
from kernelproto.wire.message import Message
from kernelproto.wire.request import Request


class Outcome:
    """The end of an execution: a reply or a failure, and possibly an exceeded timeout.

    Args:
        buffer: the outputs of the execution.

    Attributes:
        reply: the kernel's reply, once received.
        timed_out: raised in place of the result when the execution has ended.
    """

    __slots__ = ("_buffer", "_error", "reply", "timed_out")

    def __init__(self, buffer: OutputBuffer) -> None:
        self.reply: Message | None = None
        self.timed_out: ExecutionTimeout | None = None
        self._error: Exception | None = None
        self._buffer = buffer

    def fail(self, error: Exception) -> None:
        """Raise *error* in the waiting tasks; only the first error counts."""
        if self._error is None:
            self._error = error
            if isinstance(error, ExecutionTimeout):
                self.timed_out = error

    def result(self) -> ExecutionResult:
        """Return the result of an execution that has ended with a reply.

        Raises:
            ExecutionTimeout: the code exceeded its timeout.
            MalformedMessage: the reply cannot be read.
        """
        self.raise_timeout()
        return self._whole_result()

    def raise_timeout(self) -> None:
        """Raise ExecutionTimeout, with the result so far, if the code exceeded its timeout."""
        if self.timed_out is None:
            return
        error = fresh(self.timed_out)
        error.result = self._whole_result() if self._error is None else self._result_so_far()
        if error.result.error is not None:
            error.ename = error.result.error.ename
            error.evalue = error.result.error.evalue
            error.traceback = tuple(error.result.error.traceback)
        raise error

    def raise_failure(self) -> None:
        """Raise the error that prevents a result, if there is one."""
        overflow = self._buffer.overflow()
        if overflow is not None:
            raise overflow
        if self._error is None:
            return
        if isinstance(self._error, ReplyLost | ExecutionTimeout):
            self.raise_timeout()  # the interrupt may have cost the reply
        error = fresh(self._error)
        if isinstance(error, ReplyLost | KernelUnresponsive):
            error.result = self._result_so_far()
        raise error

    def _whole_result(self) -> ExecutionResult:
        assert self.reply is not None
        reply = self.reply.content
        if not isinstance(reply, ExecuteReply):
            raise MalformedMessage(f"the reply to an execute_request was a {self.reply.msg_type}")
        return ExecutionResult.of(
            reply, self._buffer.page.outputs(), outputs_complete=self._buffer.complete
        )

    def _result_so_far(self) -> ExecutionResult:
        return ExecutionResult.without_reply(
            self._buffer.page.outputs(), outputs_complete=self._buffer.complete
        )


def reply_lost(request: Request) -> ReplyLost:
    """Return the error for an execution to which the kernel will not reply."""
    if request.idle_at is not None:
        news = "executed the code and sent no reply"
    elif request.busy_at is not None:
        news = "began to execute the code, went on with other requests and sent no reply"
    else:
        news = "answered later requests and never reported that it executes the code"
    return ReplyLost(f"the kernel {news}: the outcome is unknown, the outputs were kept")
