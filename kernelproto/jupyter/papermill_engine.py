"""The engine ``kernelproto`` of papermill: ``papermill --engine kernelproto in.ipynb out.ipynb``.

papermill finds the engine by an entry point, and still handles the parameters, the progress bar and
the saving of the notebook.
"""

from __future__ import annotations

from typing import IO, Any

from anyio.from_thread import start_blocking_portal

from kernelproto.exceptions import (
    CellTimeout,
    KernelDied,
    KernelUnresponsive,
)
from kernelproto.extras import importing
from kernelproto.jupyter.kernel_types import jupyter_kernels
from kernelproto.notebook import (
    CellFinished,
    CellOutput,
    CellStarted,
    NotebookExecution,
    execute_notebook,
)
from kernelproto.timeouts import Timeouts
from kernelproto.wire.content import MimeBundle, Stream

with importing("papermill"):
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.engines import (  # type: ignore[import-untyped]
        Engine,
        NotebookExecutionManager,
    )
    from papermill.log import logger  # type: ignore[import-untyped]

# Of execute_notebook(); papermill's own engine has the same.
_OPTIONS = {
    "allow_errors",
    "allow_error_names",
    "force_raise_errors",
    "record_timing",
    "store_widget_state",
    "output_limit",
    "env",
    "launch_params",
}

# papermill passes the first of these, and prefers its own options to the second. The others concern
# late outputs, and this engine awaits all outputs.
_WITHOUT_EFFECT = {"input_path", "startup_timeout", "iopub_timeout", "raise_on_iopub_timeout"}


class KernelProtoEngine(Engine):  # type: ignore[misc]
    """Executes a notebook for papermill.

    A kernelspec of the running Python's own ipykernel is forked. A kernel name such as
    ``fork/kernel`` is a kernel type.
    """

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: IO[str] | None = None,
        stderr_file: IO[str] | None = None,
        start_timeout: float = 60,
        execution_timeout: float | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> None:
        """Execute the notebook of *nb_man*; block until the last cell, or the first that fails.

        Args:
            nb_man: the notebook, with the progress bar and the file.
            kernel_name: the name of a kernelspec, or a kernel type.
            log_output: whether to log the outputs.
            stdout_file: gets the standard output of the cells.
            stderr_file: gets the standard error of the cells.
            start_timeout: seconds for the start of the kernel.
            execution_timeout: seconds for each cell; None means *timeout*.
            timeout: seconds for each cell; None means no limit.
            options: allow_errors, allow_error_names, force_raise_errors, record_timing,
                store_widget_state, output_limit, env and launch_params, as for
                ``kernelproto.notebook.execute_notebook``.

        Raises:
            CellTimeoutError: a cell exceeded the timeout.
            DeadKernelError: the kernel died.
            TypeError: an option has no meaning here.
        """
        unknown = options.keys() - _OPTIONS - _WITHOUT_EFFECT
        if unknown:
            raise TypeError(
                f"papermill's engine kernelproto takes no option {', '.join(sorted(unknown))}: "
                "leave it out, or use papermill's own engine"
            )

        async def execute() -> None:
            execution = execute_notebook(
                nb_man.nb,
                kernel_type=kernel_name,
                timeout=execution_timeout or timeout,
                timeouts=Timeouts(startup=start_timeout),
                finder=jupyter_kernels(),
                **{name: value for name, value in options.items() if name in _OPTIONS},
            )
            await _Reporter(nb_man, log_output, stdout_file, stderr_file).report(execution)

        logger.info(f"Executing notebook with kernel: {kernel_name}")
        try:
            # In a thread, because the caller may be in an event loop. If the caller is interrupted
            # (KeyboardInterrupt), leaving the block ends the kernel.
            with start_blocking_portal() as portal:
                portal.call(execute)
        except (CellTimeout, KernelUnresponsive) as error:
            raise CellTimeoutError(str(error)) from error
        except KernelDied as error:
            raise DeadKernelError(str(error)) from error


class _Reporter:
    """Reports the events of an execution to papermill."""

    def __init__(
        self,
        nb_man: Any,
        log_output: bool,
        stdout_file: IO[str] | None,
        stderr_file: IO[str] | None,
    ) -> None:
        self._nb_man = nb_man
        self._log_output = log_output
        self._files = {"stdout": stdout_file, "stderr": stderr_file}
        self._reported = 0

    async def report(self, execution: NotebookExecution) -> None:
        """Run the execution to the end.

        Raises:
            CellTimeout: a cell exceeded the timeout.
        """
        async with execution:
            async for event in execution:
                match event:
                    case CellStarted(index=index):
                        self._report_others(index)
                        self._nb_man.cell_start(self._cell(index), index)
                    case CellOutput(output=output):
                        self._report_output(output)
                    case CellFinished(index=index, allowed=allowed):
                        if not allowed:
                            self._nb_man.cell_exception(self._cell(index), cell_index=index)
                        self._nb_man.cell_complete(self._cell(index), cell_index=index)
                        self._reported = index + 1
            result = await execution
        if result.failed is None:
            self._report_others(len(self._nb_man.nb.cells))
        elif result.status == "timeout":
            result.raise_for_error()

    def _cell(self, index: int) -> Any:
        return self._nb_man.nb.cells[index]

    def _report_others(self, end: int) -> None:
        """Report the cells before *end* that have no code to execute, as papermill does."""
        for index in range(self._reported, end):
            self._nb_man.cell_start(self._cell(index), index)
            self._nb_man.cell_complete(self._cell(index), cell_index=index)
        self._reported = end

    def _report_output(self, output: object) -> None:
        self._nb_man.autosave_cell()
        match output:
            case Stream(name=name, text=text):
                if self._log_output:
                    (logger.warning if name == "stderr" else logger.info)(text)
                file = self._files.get(name)
                if file is not None:
                    file.write(text)
                    file.flush()
            case MimeBundle(data={"text/plain": text}) if self._log_output:
                logger.info(text)
            case _:
                pass
