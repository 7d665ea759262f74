"""NotebookExecution: a notebook that is being executed, or is about to be."""

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
from kernelproto.notebook.runner import NotebookOptions, NotebookRunner
from kernelproto.run import RunOptions, start_kernel
from kernelproto.supervise import Kernel


class NotebookExecution:
    """A notebook that is being executed, or is about to be; ``execute_notebook`` makes it.

    It begins when it is first awaited or iterated. Then

    - ``await execution`` goes through to the end and returns the NotebookResult; it may be
      repeated, and what was iterated over before counts,
    - ``async for event in execution`` gives CellStarted, CellOutput and CellFinished as they come.
      The next cell is executed when the next event is asked for,
    - ``async with execute_notebook(...) as execution`` makes sure that nothing is left behind
      when the iteration is left before its end.

    However it ends, the notebook has everything that was received, and is saved if it is to be. A
    kernel that was started for it is shut down then; another one is left as it is, and goes on with
    a cell that was not waited for.

    It is for one task at a time. Outputs are kept until they are read: who iterates and leaves
    more than ``output_limit`` bytes unread gets OutputOverflow.

    Awaiting and iterating raise:
        KernelDied: the kernel's process has ended.
        CellTimeout: a cell goes on 5 s after it was interrupted because its time was over.
        InvalidNotebook: the notebook is none, or the kernel has sent an output that nbformat does
            not allow.
        InvalidParameter: the parameters cannot be written in the kernel's language.
        OutputOverflow: a cell shows more than ``output_limit`` bytes.
        OSError: the notebook cannot be saved.
        KernelProtoError: the kernel cannot be started, as for ``run_kernel``, or the block was left
            (ClientClosed).

    Attributes:
        notebook: the notebook.
    """

    def __init__(
        self,
        nb: Node,
        kernel: Kernel | KernelClient | None,
        kernel_type: str,
        options: NotebookOptions,
        run_options: RunOptions,
    ) -> None:
        self.notebook = nb
        self._kernel = kernel
        self._kernel_type = kernel_type
        self._options = options
        self._run_options = run_options
        self._events: AsyncGenerator[CellEvent] | None = None
        self._result: NotebookResult | None = None
        self._failure: Exception | None = None

    def __del__(self) -> None:
        if self._events is None:
            warnings.warn("a notebook was never executed", RuntimeWarning, stacklevel=2)

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
        raise fresh(self._failure or ClientClosed("the notebook was left before its end"))

    async def _run(self) -> AsyncGenerator[CellEvent]:
        try:
            check_notebook(self.notebook)
            kernel = self._kernel or await self._start_kernel()
            try:
                runner = NotebookRunner(self.notebook, kernel, self._options)
                async with aclosing(runner.run()) as events:
                    async for event in events:
                        yield event
                self._result = runner.result
            finally:
                if self._kernel is None:
                    await kernel.shutdown()
        except Exception as error:
            self._failure = error
            raise

    async def _start_kernel(self) -> Kernel:
        options = await without_history(self._kernel_type, self._run_options)
        return await start_kernel(self._kernel_type, **options)


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
    record_timing: bool = True,
    store_widget_state: bool = True,
    output_limit: int = OUTPUT_LIMIT,
    **run_options: Unpack[RunOptions],
) -> NotebookExecution:
    """Execute the code cells of a notebook, in order; see NotebookExecution for how to wait for it.

    Cells without code, and those tagged ``skip-execution``, stay as they are. An exception in the
    code of a cell is data: it ends the execution, unless it is allowed, and only
    ``NotebookResult.raise_for_error`` raises it. Code that asks for input gets an exception. An
    ipykernel that is started keeps its history to itself, not in the user's file.

    Args:
        nb: the notebook, of nbformat 4, which is changed; ``read_notebook`` reads it.
        kernel: executes it, and is not ended; None starts one, which is.
        kernel_type: starts a kernel of this type; None means the one in the notebook's metadata, or
            else ``pyimport/kernel``.
        timeout: how many seconds each cell may take; it is interrupted then, which counts as an
            exception. None means as long as it likes.
        allow_errors: whether to go on behind a cell that raises an exception, as behind one tagged
            ``raises-exception``.
        allow_error_names: names of exceptions that are allowed all the same.
        force_raise_errors: whether no exception is allowed, whatever else says so.
        parameters: names and values that are put into the notebook; see ``inject_parameters``.
        save_to: a file that gets the notebook after each cell and at the end, all of it or nothing.
        record_timing: whether each cell gets the times of its messages in
            ``metadata.execution``.
        store_widget_state: whether the notebook gets the state of its widgets in its metadata.
        output_limit: how many bytes of outputs each cell keeps.
        run_options: how the kernel is started, as for ``run_kernel``.

    Raises:
        LocalProtocolError: both a kernel and how to start one are given.
    """
    if kernel is not None and (kernel_type is not None or run_options):
        raise LocalProtocolError(
            "a kernel that runs is not started: leave out kernel_type and options"
        )
    kernelspec: Node = nb["metadata"].get("kernelspec") or to_node({})
    options = NotebookOptions(
        timeout=timeout,
        allow_errors=allow_errors,
        allow_error_names=allow_error_names,
        force_raise_errors=force_raise_errors,
        parameters=dict(parameters or {}),
        save_to=save_to,
        record_timing=record_timing,
        store_widget_state=store_widget_state,
        output_limit=output_limit,
    )
    chosen: str = kernel_type or kernelspec.get("name") or "pyimport/kernel"
    return NotebookExecution(nb, kernel, chosen, options, run_options)
