"""NotebookRunner: executes the cells of a notebook on a running kernel."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from kernelproto.client import ExecutionResult, KernelClient
from kernelproto.exceptions import (
    CellTimeout,
    ExecutionTimeout,
    KernelProtoError,
    KernelUnresponsive,
    ReplyLost,
)
from kernelproto.notebook.banner import remove_banners, with_banners
from kernelproto.notebook.events import (
    CellEvent,
    CellFinished,
    CellOutput,
    CellStarted,
    CellStatus,
    describe_cell,
)
from kernelproto.notebook.files import check_outputs
from kernelproto.notebook.nodes import Node, tags, to_node
from kernelproto.notebook.parameters import inject_parameters
from kernelproto.notebook.recorder import Recorder
from kernelproto.notebook.result import NotebookResult
from kernelproto.notebook.rules import check_first_cell, ends_notebook, executable, time_limit
from kernelproto.notebook.saver import Saver
from kernelproto.supervise import Kernel
from kernelproto.wire import tolerant_json
from kernelproto.wire.content import CommMessage, ErrorOutput, KernelInfoRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class NotebookOptions:
    """The options of ``execute_notebook``."""

    timeout: float | None
    allow_errors: bool
    allow_error_names: Collection[str]
    force_raise_errors: bool
    parameters: Mapping[str, object]
    save_to: str | os.PathLike[str] | None
    autosave_seconds: float | None
    error_banner: bool
    exit_ok: bool
    from_cell: int
    record_timing: bool
    store_widget_state: bool
    output_limit: int


class NotebookRunner:
    """One execution of a notebook.

    Args:
        nb: the notebook.
        kernel: the kernel, or a client of a kernel.
        options: the options of the execution.
    """

    def __init__(self, nb: Node, kernel: Kernel | KernelClient, options: NotebookOptions) -> None:
        self._nb = nb
        self._kernel = kernel
        self._options = options
        self._recorder = Recorder(record_timing=options.record_timing, limit=options.output_limit)
        self._finished: list[CellFinished] = []
        self._total = 0
        self._saver: Saver | None = None
        self._current: CellStarted | None = None
        self._failure: KernelProtoError | None = None
        self._began = time.perf_counter()

    @property
    def result(self) -> NotebookResult:
        """The result so far."""
        return NotebookResult(
            notebook=self._nb,
            cells=tuple(self._finished),
            total=self._total,
            duration=time.perf_counter() - self._began,
        )

    async def run(self) -> AsyncGenerator[CellEvent]:
        """Execute the cells in order, until one fails."""
        remove_banners(self._nb)
        await self._introduce()
        positions = executable(self._nb["cells"])
        first, injected = self._options.from_cell, bool(self._options.parameters)
        check_first_cell(self._nb["cells"], positions, first, injected=injected)
        self._total = len(positions)
        for index in positions[first - 1 :]:  # if a cell fails, later ones show no old outputs
            self._nb["cells"][index].update(outputs=[], execution_count=None)
        observers = self._client.observers
        observers.watch(self._recorder, reads_contents=True)
        self._start_saving()
        try:
            for number, index in enumerate(positions[first - 1 :], first):
                self._current = CellStarted(index=index, number=number, total=self._total)
                yield self._current
                async with aclosing(self._execute(index, number)) as events:
                    async for event in events:
                        yield event
                if not self._finished[-1].allowed or self._finished[-1].status == "exited":
                    break
        except KernelProtoError as error:
            self._failure = error
            raise
        finally:
            observers.unwatch(self._recorder)
            await self._finish()

    @property
    def _client(self) -> KernelClient:
        return self._kernel.client if isinstance(self._kernel, Kernel) else self._kernel

    def _start_saving(self) -> None:
        options = self._options
        if options.save_to is None:
            return
        self._saver = Saver(
            options.save_to,
            self._nb,
            self._recorder,
            seconds=options.autosave_seconds,
            widgets=options.store_widget_state,
        )
        self._kernel.start_task(self._saver.save_regularly)

    async def _finish(self) -> None:
        """Complete the notebook, and save the final state."""
        self._recorder.settle()
        widgets = self._recorder.widgets.metadata() if self._options.store_widget_state else None
        if widgets is not None:
            self._nb["metadata"]["widgets"] = widgets
        if self._saver is None:
            return
        cell = self.result.failed if self._failure is None else self._current
        if self._options.error_banner and cell is not None:
            await self._saver.finish(with_banners(self._nb, cell, self._failure))
        else:
            await self._saver.finish(self._nb)

    async def _introduce(self) -> None:
        """Record the kernel's language in the notebook; write the parameters in this language."""
        request = KernelInfoRequest()
        reply = await self._kernel.request("kernel_info_request", request)
        # Not as a Struct: the notebook keeps all fields, even those unknown to kernelproto.
        info: Node = tolerant_json.decode(reply.raw_content, dict[str, Any])
        language = to_node(info.get("language_info") or {})
        if language.get("name"):
            self._nb["metadata"]["language_info"] = language
        if self._options.parameters:
            inject_parameters(self._nb, self._options.parameters, language.get("name", ""))

    async def _execute(self, index: int, number: int) -> AsyncGenerator[CellEvent]:
        cell = self._nb["cells"][index]
        # One request at a time, so stop_on_error has nothing to abort.
        execution = self._kernel.execute(
            cell["source"],
            allow_stdin=False,
            stop_on_error=False,
            timeout=time_limit(self._nb, cell, self._options.timeout),
        )
        if self._saver is not None:
            self._saver.running = index
        self._recorder.begin(execution, cell)
        began_at = time.perf_counter()
        result: ExecutionResult
        status: CellStatus
        try:
            async with execution:
                async for output in execution:
                    yield CellOutput(index=index, output=output)
                result = await execution
            status = "ok" if result.status == "unknown" else result.status
            if self._options.exit_ok and ends_notebook(cell, result):
                status = "exited"
        except ExecutionTimeout as error:
            result, status = error.result, "timeout"
        except ReplyLost as error:
            lost = ErrorOutput(type(error).__name__, str(error), [str(error)])
            self._recorder.add(lost, execution)
            result, status = replace(error.result, status="error", error=lost), "error"
        except KernelUnresponsive as error:
            raise self._ignores_interrupt(
                index, number, time.perf_counter() - began_at, error.seconds
            ) from error
        cell["execution_count"] = result.execution_count
        finished = CellFinished(
            index=index,
            number=number,
            total=self._total,
            status=status,
            duration=time.perf_counter() - began_at,
            execution_count=result.execution_count,
            error=result.error,
            allowed=status == "exited" or self._allowed(cell, result),
        )
        await self._settle(index, number)
        self._finished.append(finished)
        yield finished

    def _allowed(self, cell: Node, result: ExecutionResult) -> bool:
        if result.status == "ok":
            return True
        options = self._options
        return not options.force_raise_errors and (
            options.allow_errors
            or "raises-exception" in tags(cell)
            or (result.error is not None and result.error.ename in options.allow_error_names)
        )

    def _ignores_interrupt(
        self, index: int, number: int, seconds: float, grace: float
    ) -> CellTimeout:
        return CellTimeout(
            f"{describe_cell(number, self._total)} is still running after {seconds:.1f} s, "
            f"{grace:g} s after its interrupt: increase the timeout, or restart the kernel",
            index=index,
            seconds=seconds,
        )

    async def _settle(self, index: int, number: int) -> None:
        """Complete the notebook, the saved file and the kernel's widgets after a cell."""
        self._recorder.settle()
        overflow = self._recorder.overflow()
        if overflow is not None:
            raise overflow
        check_outputs(self._nb, index, name=describe_cell(number, self._total))
        if self._saver is not None:
            self._saver.running = None
        for comm_id, state in self._recorder.widgets.unsynchronised().items():
            data: Node = {"method": "update", "state": state, "buffer_paths": []}
            await self._client.send_comm(CommMessage(comm_id=comm_id, data=data), None, ())
        if self._saver is not None:
            await self._saver.save_after_cell()
