"""ExecutionResult: the reply and the outputs of an execution. Pure: no event loop, no kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from kernelproto.client.page import LastingOutput
from kernelproto.exceptions import ExecutionError
from kernelproto.wire.content import (
    ErrorOutput,
    ExecuteReply,
    ExecuteResult,
    Stream,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecutionResult:
    """The status and the outputs of an execution that has ended.

    Attributes:
        status: "ok"; "error", also for interrupted code; or "aborted" if the kernel did not run the
            code because an earlier execution failed. The result that an exception carries may be
            "unknown": the kernel has not reported how the execution ended.
        outputs: the outputs in order, with update_display_data and clear_output applied; each has
            ``to_dict()``, for JSON.
        outputs_complete: whether ``outputs`` has all outputs. False if the outputs were read by
            iteration and exceeded the limit, or if a RefusedOutput replaces an output that the
            client could not read.
        execution_count: the kernel's number for this execution.
        user_expressions: name to the evaluated expression, as in section "Execution results".
        payload: the kernel's requests to the frontend.
        error: the exception that the code raised, or None. Some kernels report interrupted code
            without an exception: ``ename`` is then "Interrupted". If the kernel reports the error
            only in the outputs, ``ename`` is empty.
    """

    status: Literal["ok", "error", "aborted", "unknown"]
    outputs: Sequence[LastingOutput] = ()
    outputs_complete: bool = True
    execution_count: int | None = None
    user_expressions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    payload: Sequence[Mapping[str, Any]] = ()
    error: ErrorOutput | None = None

    @classmethod
    def of(
        cls,
        reply: ExecuteReply,
        outputs: Sequence[LastingOutput],
        *,
        outputs_complete: bool = True,
    ) -> ExecutionResult:
        """Return the result for a reply and the outputs of a page."""
        error = _error(reply)
        return cls(
            status="aborted" if reply.aborted else "error" if error is not None else "ok",
            outputs=outputs,
            outputs_complete=outputs_complete,
            execution_count=reply.execution_count,
            user_expressions=reply.user_expressions,
            payload=reply.payload,
            error=error,
        )

    @classmethod
    def without_reply(
        cls, outputs: Sequence[LastingOutput], *, outputs_complete: bool
    ) -> ExecutionResult:
        """Return the result so far of an execution to which the kernel has not replied."""
        error = next((output for output in outputs if isinstance(output, ErrorOutput)), None)
        status: Literal["error", "unknown"] = "unknown" if error is None else "error"
        return cls(status=status, outputs=outputs, outputs_complete=outputs_complete, error=error)

    @property
    def data(self) -> Mapping[str, Any]:
        """The MIME bundle of the last expression's value; empty if there is none."""
        for output in reversed(self.outputs):
            if isinstance(output, ExecuteResult):
                return output.data
        return {}

    @property
    def text(self) -> str | None:
        """The last expression's value as plain text; None if there is none."""
        text = self.data.get("text/plain")
        return text if isinstance(text, str) else None

    @property
    def stdout(self) -> str:
        """Everything written to standard output."""
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        """Everything written to standard error."""
        return self._stream("stderr")

    def raise_for_error(self) -> ExecutionResult:
        """Return the result itself if the code ran to the end.

        Raises:
            ExecutionError: the code raised an exception, was not run, or has an unknown status.
        """
        if self.status == "ok":
            return self
        if self.status == "unknown":
            raise ExecutionError("the kernel has not reported how the execution ended")
        if self.error is None:
            raise ExecutionError("not executed: an earlier execution failed")
        error = self.error
        raise ExecutionError(
            f"{error.ename}: {error.evalue}" if error.ename else "the code failed: see its outputs",
            ename=error.ename,
            evalue=error.evalue,
            traceback=error.traceback,
        )

    def to_notebook_outputs(self) -> list[dict[str, Any]]:
        """Return the outputs in the form of a code cell of nbformat 4; adjacent text is joined."""
        cells: list[dict[str, Any]] = []
        for name, outputs in groupby(self.outputs, _stream_name):
            if name is None:
                cells += [output.to_dict() for output in outputs]
            else:
                text = "".join(output.text for output in outputs if isinstance(output, Stream))
                cells.append(Stream(name, text).to_dict())
        return cells

    def _stream(self, name: str) -> str:
        return "".join(
            output.text
            for output in self.outputs
            if isinstance(output, Stream) and output.name == name
        )


def _stream_name(output: LastingOutput) -> str | None:
    return output.name if isinstance(output, Stream) else None


def _error(reply: ExecuteReply) -> ErrorOutput | None:
    if reply.interrupted:
        return ErrorOutput("Interrupted", "the code was interrupted")
    if reply.status != "error":
        return None
    return ErrorOutput(reply.ename, reply.evalue, reply.traceback)
