"""NotebookExecution: the execution of a notebook; ``execute_notebook`` prepares it."""

from __future__ import annotations

import os
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Generator, Mapping
from contextlib import aclosing
from typing import Any, Unpack

from kernelproto.client import KernelClient
from kernelproto.client.client import OUTPUT_LIMIT
from kernelproto.exceptions import ClientClosed, LocalProtocolError, fresh
from kernelproto.notebook.events import CellEvent
from kernelproto.notebook.files import check_notebook
from kernelproto.notebook.history import without_history
from kernelproto.notebook.nodes import Node, to_node
from kernelproto.notebook.result import NotebookResult
from kernelproto.notebook.rules import check_time_limits
from kernelproto.notebook.runner import NotebookOptions, NotebookRunner
from kernelproto.run import RunOptions, start_kernel
from kernelproto.supervise import Kernel
from kernelproto.urls import check_url, is_url


class NotebookExecution:
    """The execution of a notebook; ``execute_notebook`` prepares it.

    The execution begins when you first await or iterate it:

    - ``await execution`` runs the rest of the notebook and returns the NotebookResult. You may
      await again, and you may iterate first.
    - ``async for event in execution`` yields CellStarted, CellOutput and CellFinished events. The
      next cell runs when you request the next event.
    - ``async with execute_notebook(...) as execution`` cleans up if you leave an iteration early.

    At every end of the execution, even by an error, the notebook contains every received output,
    and is saved with ``save_to``. A kernel started for the execution is then shut down. A kernel
    that you passed is left running, including the code of a cell that was not awaited.

    Use an execution from one task at a time. Outputs are buffered until you read them: an iteration
    that leaves more than ``output_limit`` bytes unread raises OutputOverflow.

    Awaiting and iterating raise:
        KernelDied: the kernel's process has ended.
        CellTimeout: a cell still runs 5 s after the timeout and the interrupt.
        InvalidNotebook: the notebook is invalid, or the kernel has sent an output that nbformat
            does not allow.
        InvalidParameter: a parameter cannot be written in the kernel's language.
        OutputOverflow: a cell shows more than ``output_limit`` bytes.
        OSError: the notebook cannot be saved.
        KernelProtoError: the kernel cannot be started, as for ``run_kernel``, or the block was left
            (ClientClosed).

    Attributes:
        notebook: the notebook.
        kernel: the kernel that executes the notebook; None before the start.
    """

    def __init__(
        self,
        nb: Node,
        kernel: Kernel | KernelClient | None,
        kernel_type: str,
        options: NotebookOptions,
        run_options: RunOptions,
        keep_kernel: bool,
    ) -> None:
        self.notebook = nb
        self.kernel = kernel
        self._keep_kernel = keep_kernel
        self._ends_kernel = kernel is None and not keep_kernel
        self._kernel_type = kernel_type
        self._options = options
        self._run_options = run_options
        self._events: AsyncGenerator[CellEvent] | None = None
        self._result: NotebookResult | None = None
        self._failure: Exception | None = None

    def __del__(self) -> None:
        if self._events is None:
            warnings.warn(
                "execute_notebook() was called, but its result was never awaited or iterated",
                RuntimeWarning,
                stacklevel=2,
            )

    def __await__(self) -> Generator[Any, Any, NotebookResult]:
        return self._finish().__await__()

    def __aiter__(self) -> AsyncIterator[CellEvent]:
        return self

    async def __anext__(self) -> CellEvent:
        return await anext(self._begun())

    async def __aenter__(self) -> NotebookExecution:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._begun().aclose()

    def _begun(self) -> AsyncGenerator[CellEvent]:
        if self._events is None:
            self._events = self._run()
        return self._events

    async def _finish(self) -> NotebookResult:
        async for _ in self:
            pass
        if self._result is not None:
            return self._result
        raise fresh(self._failure or ClientClosed("the execution was closed before its end"))

    async def _run(self) -> AsyncGenerator[CellEvent]:
        try:
            check_notebook(self.notebook)
            check_time_limits(self.notebook)
            kernel = self.kernel = self.kernel or await self._start_kernel()
            try:
                runner = NotebookRunner(self.notebook, kernel, self._options)
                async with aclosing(runner.run()) as events:
                    async for event in events:
                        yield event
                self._result = runner.result
            finally:
                if isinstance(kernel, Kernel) and self._ends_kernel:
                    await kernel.shutdown()
        except Exception as error:
            self._failure = error
            raise

    async def _start_kernel(self) -> Kernel:
        options = await without_history(self._kernel_type, self._run_options)
        return await start_kernel(self._kernel_type, detached=self._keep_kernel, **options)


def execute_notebook(
    nb: Node,
    kernel: Kernel | KernelClient | None = None,
    *,
    kernel_type: str | None = None,
    timeout: float | None = None,
    allow_errors: bool = False,
    allow_error_names: Collection[str] = (),
    force_raise_errors: bool = False,
    parameters: Mapping[str, object] | None = None,
    save_to: str | os.PathLike[str] | None = None,
    autosave_seconds: float | None = 10.0,
    error_banner: bool = False,
    exit_ok: bool = True,
    from_cell: int = 1,
    keep_kernel: bool = False,
    record_timing: bool = True,
    store_widget_state: bool = True,
    output_limit: int = OUTPUT_LIMIT,
    **run_options: Unpack[RunOptions],
) -> NotebookExecution:
    """Execute the code cells of a notebook, in order; await or iterate the NotebookExecution.

    Empty cells, and cells tagged ``skip-execution``, are left unchanged. An exception in the code
    of a cell ends the execution unless the exception is allowed, but only
    ``NotebookResult.raise_for_error`` raises it. Code that calls ``input()`` gets an exception. An
    ipykernel started for the notebook keeps its history in memory, apart from the user's history
    file.

    Args:
        nb: the notebook, of nbformat 4, which is changed; ``read_notebook`` reads it.
        kernel: executes the notebook and runs on afterwards; None starts and ends a kernel.
        kernel_type: the kernel type to be started; None means that in the notebook's metadata, or
            else ``pyimport/kernel``.
        timeout: seconds that each cell may take. A cell that takes longer is interrupted, which
            counts as an exception. None means no limit. ``timeout`` in the metadata of a cell
            takes precedence, then ``execution.timeout`` in the metadata of the notebook.
        allow_errors: whether to continue after a cell raises an exception. A cell tagged
            ``raises-exception`` may always raise one.
        allow_error_names: names of exceptions that are always allowed.
        force_raise_errors: whether to allow no exception, regardless of the other options.
        parameters: names and values to write into the notebook; see ``inject_parameters``.
        save_to: a file to save the notebook to, atomically, after each cell, while a cell runs,
            and at the end. A device, pipe or socket is written to once, at the end, unless the
            caller is cancelled. After a save that takes longer than 10 ms, the next save waits nine
            times as long. Or a URL of ``s3://``, ``gs://``, ``az://``, ``https://`` or another
            protocol of fsspec, which needs the extra ``remote``. A URL is written after each cell
            and at the end, over http with the method PUT.
        autosave_seconds: seconds between the saves while a cell runs. If the program is killed, the
            file lacks at most the outputs of that time, or of a longer wait, and of one save. None
            saves only after each cell.
        error_banner: whether the file gets markdown cells that point to the cell that failed, at
            the top and before that cell. The notebook object does not get them. Such cells of an
            earlier execution are always removed.
        exit_ok: whether ``sys.exit(0)`` in a cell ends the notebook early and successfully;
            otherwise that is an exception like any other. Other statuses are always exceptions.
        from_cell: the number of the first cell to execute, among the executable cells, from 1.
            Earlier cells keep their outputs.
        keep_kernel: whether the started kernel goes on after the execution and the program; see
            ``start_kernel``. ``NotebookExecution.kernel`` has this kernel.
        record_timing: whether to record the times of each cell's messages in
                ``metadata.execution``.
        store_widget_state: whether to store the state of widgets in the notebook's metadata.
        output_limit: the maximum size of a cell's outputs in bytes.
        run_options: options for the start of the kernel, as for ``run_kernel``.

    Raises:
        LocalProtocolError: both a kernel and options to start one are given, or a number is out of
            range.
        NotebookError: the client for the URL in ``save_to`` is not installed.
    """
    if kernel is not None and (kernel_type is not None or keep_kernel or run_options):
        raise LocalProtocolError(
            "a kernel that runs is not started: leave out kernel_type, keep_kernel and options"
        )
    if from_cell < 1:
        raise LocalProtocolError(f"from_cell is the number of a cell, from 1, not {from_cell}")
    if autosave_seconds is not None and not autosave_seconds > 0:
        raise LocalProtocolError(
            f"autosave_seconds must be above 0, or None, not {autosave_seconds}"
        )
    if is_url(save_to):
        check_url(save_to)  # before the work is done
    kernelspec: Node = nb["metadata"].get("kernelspec") or to_node({})
    options = NotebookOptions(
        timeout=timeout,
        allow_errors=allow_errors,
        allow_error_names=allow_error_names,
        force_raise_errors=force_raise_errors,
        parameters=dict(parameters or {}),
        save_to=save_to,
        autosave_seconds=autosave_seconds,
        error_banner=error_banner,
        exit_ok=exit_ok and not force_raise_errors,
        from_cell=from_cell,
        record_timing=record_timing,
        store_widget_state=store_widget_state,
        output_limit=output_limit,
    )
    chosen: str = kernel_type or kernelspec.get("name") or "pyimport/kernel"
    return NotebookExecution(nb, kernel, chosen, options, run_options, keep_kernel)
