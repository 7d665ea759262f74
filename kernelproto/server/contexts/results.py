"""The last event of an execution. Pure."""

from __future__ import annotations

from kernelproto.client.result import ExecutionResult
from kernelproto.exceptions import KernelProtoError
from kernelproto.remote.events import EndOfExecution, Error
from kernelproto.remote.failures import failure_of
from kernelproto.server.user_messages import user_message
from kernelproto.wire.content import ErrorOutput

# The part of the text of an exception that the event has; the outputs have the whole text.
_MOST_ERROR_CHARACTERS = 100_000


def result_event(
    result: ExecutionResult, *, failure: KernelProtoError | None = None
) -> EndOfExecution:
    """Return the event for a result, and for the exception that has the result."""
    status = "failed" if failure is not None or result.status == "unknown" else result.status
    return EndOfExecution(
        status,
        result.execution_count,
        result.outputs_complete,
        None if result.error is None else _bounded(result.error),
        None if failure is None else failure_of(failure, user_message(failure)),
    )


def failure_event(error: KernelProtoError) -> EndOfExecution:
    """Return the event for an execution that has ended without a result."""
    return EndOfExecution("failed", failure=failure_of(error, user_message(error)))


def _bounded(error: ErrorOutput) -> Error:
    traceback: list[str] = []
    room = _MOST_ERROR_CHARACTERS
    for frame in reversed(error.traceback):  # the innermost frames are the most useful
        room -= len(frame)
        if room < 0:
            break
        traceback.append(frame)
    most = _MOST_ERROR_CHARACTERS
    return Error(error.ename[:most], error.evalue[:most], traceback[::-1])
