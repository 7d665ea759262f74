"""``kernelproto notebook``: executes notebooks, several at the same time."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
from anyio import to_thread

from kernelproto.cli.annotations import CellPlaces, in_actions, print_annotation
from kernelproto.cli.errors import (
    FAILED,
    KILLED,
    CliError,
    describe,
    need,
    print_error,
)
from kernelproto.cli.junit import junit_xml
from kernelproto.cli.locations import (
    STANDARD,
    Location,
    display,
    identity,
    inside,
    is_folder,
    locate,
    read_source,
)
from kernelproto.cli.output_log import OutputLog
from kernelproto.cli.outputs import OutputPrinter, plain_traceback
from kernelproto.cli.screen import print_table, terminal_width
from kernelproto.cli.signals import receive_signals
from kernelproto.cli.table import format_table, printable
from kernelproto.exceptions import (
    CellTimeout,
    ExecutionError,
    InvalidParameter,
    KernelProtoError,
)

if TYPE_CHECKING:
    from rich.progress import TaskID

    from kernelproto.cli.progress import Progress
    from kernelproto.notebook import CellEvent, CellFinished
    from kernelproto.wire.content import ErrorOutput


class Task(NamedTuple):
    """A notebook to execute, and the output file."""

    source: Location
    target: Location

    @property
    def name(self) -> str:
        """The name of the notebook in messages."""
        return display(self.source)

    @property
    def folder(self) -> Path:
        """The folder of the notebook; the current one for a URL."""
        return self.source.parent if isinstance(self.source, Path) else Path()


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Options for all notebooks; see ``execute_notebook``."""

    kernel: str | None
    timeout: float | None
    allow_errors: bool
    parameters: Mapping[str, object]
    strict: bool = False
    junit: Path | None = None
    autosave_seconds: float = 10.0
    cwd: Path | None = None
    error_banner: bool = False
    existing: str | None = None
    exit_ok: bool = True
    from_cell: int = 1
    keep_kernel: bool = False
    log_output: bool = False
    prepare_only: bool = False
    start_timeout: float = 60.0


@dataclass
class Outcome:
    """The outcome of a notebook.

    Attributes:
        status: "ok", the status of the cell that ended the execution, "failed" after another
            error, or "stopped" if a signal came first.
        done: the number of executed cells.
        total: the number of cells to execute.
        seconds: the duration in seconds.
        problem: the error in one line; "" for none.
        cells: the executed cells.
        line: the line of the failed cell in the file; None if unknown.
        connection_file: that of the kernel that was kept; "" for none.
    """

    status: str = "stopped"
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    problem: str = ""
    cells: list[CellFinished] = field(default_factory=list["CellFinished"])
    line: int | None = None
    connection_file: str = ""

    @property
    def failed(self) -> CellFinished | None:
        """The cell that ended the execution; None for none."""
        return next((cell for cell in self.cells if not cell.allowed), None)

    @property
    def error(self) -> ErrorOutput | None:
        """The exception of the code that ended the execution; None for none."""
        return self.failed.error if self.failed is not None and self.status == "error" else None


def execute_notebooks(tasks: Sequence[Task], options: ExecutionOptions, *, jobs: int) -> int:
    """Execute notebooks, and print the outcome of each; return the exit status.

    Args:
        tasks: the notebooks.
        options: the options for all of them.
        jobs: how many to execute at the same time.

    Raises:
        CliError: the extra ``notebook`` is not installed.
        InvalidParameter: a parameter's name is not a valid name in any language.
    """
    need("notebook")
    from kernelproto.cli.prepare import check_options
    from kernelproto.cli.progress import Progress  # which loads rich
    from kernelproto.notebook.files import replace_file
    from kernelproto.notebook.parameters import check_names

    check_options(options, len(tasks))
    check_names(options.parameters)
    if options.junit is not None and not options.junit.parent.is_dir():
        raise CliError(f"cannot write {options.junit}: its folder does not exist")
    outcomes = {task: Outcome() for task in tasks}
    # Here, because Ctrl-C does not interrupt a read in the event loop.
    from_stdin = any(task.source == STANDARD for task in tasks)
    stdin = sys.stdin.buffer.read() if from_stdin else b""
    with Progress() as progress:
        work = [_Job(task, outcome, options, progress, stdin) for task, outcome in outcomes.items()]
        ended_by = anyio.run(_execute_all, work, jobs)
    to_stdout = any(task.target == STANDARD for task in outcomes)
    with redirect_stdout(sys.stderr) if to_stdout else nullcontext():
        print_table(format_outcomes(outcomes, terminal_width(), sys.stdout.encoding))
        for task, outcome in outcomes.items():
            if outcome.connection_file:
                command = f"kernelproto console --existing {printable(outcome.connection_file)}"
                print(f"{task.name}: the kernel keeps running: {command}")
    for outcome in outcomes.values():
        # --log-output has printed the traceback already.
        if outcome.error is not None and not options.log_output:
            OutputPrinter().print(outcome.error)
    for task, outcome in outcomes.items():
        if outcome.problem:
            print_error(_with_name(task.name, outcome.problem))
            if in_actions():
                _annotate(task, outcome)
    if options.junit is not None:
        replace_file(options.junit, junit_xml(outcomes))
    if ended_by is not None:
        return KILLED + ended_by
    return 0 if all(outcome.status == "ok" for outcome in outcomes.values()) else FAILED


def plan_tasks(words: Sequence[Location], output: Location | None) -> list[Task]:
    """Return the tasks: each notebook with its output file.

    Args:
        words: the files or URLs of the notebooks.
        output: a file or URL for one notebook, or a folder for all; None overwrites the notebooks.
            "-" is standard output, and standard input among the sources.

    Raises:
        CliError: the folder does not exist, or two notebooks have the same target.
        NotebookError: the client for a URL is not installed.
    """
    sources = locate(words)
    if output is not None:
        (output,) = locate([output])
    if STANDARD in (*sources, output) and len(sources) > 1:
        raise CliError("- stands for one notebook, and several are given")
    if sources == [STANDARD] and output is None:
        output = STANDARD
    into_folder = output is not None and (is_folder(output) or len(sources) > 1)
    if into_folder and isinstance(output, Path) and not output.is_dir():
        raise CliError(f"{output} is not a folder; several notebooks need one")
    if isinstance(output, Path) and not output.parent.is_dir():
        raise CliError(f"cannot write {output}: the folder {output.parent} does not exist")
    tasks: dict[Location, Task] = {}
    for source in sources:
        if output is None and isinstance(source, str):
            raise CliError(f"{display(source)} is not overwritten: pass -o")
        target = source if output is None else inside(output, source) if into_folder else output
        if identity(target) in tasks:
            other = tasks[identity(target)].name
            raise CliError(
                f"{other} and {display(source)} would both be written to {display(target)}"
            )
        tasks[identity(target)] = Task(source, target)
    return list(tasks.values())


def format_outcomes(
    outcomes: Mapping[Task, Outcome], width: int | None, encoding: str
) -> list[str]:
    """Return the lines of a table with the outcome of each notebook."""
    return format_table(
        ("NOTEBOOK", "STATUS", "CELLS", "TIME", "WRITTEN TO"),
        [
            (
                task.name,
                outcome.status,
                f"{outcome.done}/{outcome.total}",
                f"{outcome.seconds:.1f} s",
                display(task.target, "standard output") if outcome.total else "",
            )
            for task, outcome in outcomes.items()
        ],
        shrinking=(0, 4),
        right=(2, 3),
        width=width,
        encoding=encoding,
    )


def _annotate(task: Task, outcome: Outcome) -> None:
    failed = outcome.failed
    about = outcome.problem if outcome.error is None else plain_traceback(outcome.error)
    reason = outcome.status if outcome.error is None else outcome.error.ename
    title = task.name if failed is None else f"cell {failed.number}: {reason}"
    print_annotation("error", about, source=task.source, title=title, line=outcome.line)


def _with_name(name: str, problem: str) -> str:
    """Return a problem that begins with the notebook's name, as some errors already do."""
    return problem if problem.startswith((f"{name}: ", f"{name} is ")) else f"{name}: {problem}"


async def _execute_all(jobs: Sequence[_Job], concurrent: int) -> int | None:
    limit = anyio.Semaphore(concurrent)

    async def execute(job: _Job) -> None:
        async with limit:
            await job.execute()

    async with receive_signals(interrupts=0) as signals, anyio.create_task_group() as running:
        for job in jobs:
            running.start_soon(execute, job)
    return signals.ended_by


@dataclass(frozen=True)
class _Job:
    """The execution of one notebook, which fills the outcome."""

    task: Task
    outcome: Outcome
    options: ExecutionOptions
    progress: Progress
    stdin: bytes

    async def execute(self) -> None:
        """Execute or prepare the notebook, and note an error."""
        began = time.monotonic()
        bar = self.progress.begin(self.task.name)
        try:
            notebook = await self._read()
            self._check_parameters(notebook)
            if self.options.prepare_only:
                await self._prepare(notebook)
            else:
                await self._run(notebook, bar)
        except (KernelProtoError, OSError) as error:
            self.outcome.status = "failed"
            self.outcome.problem = describe(error)
        finally:
            self.outcome.seconds = time.monotonic() - began
            self.progress.end(bar)

    async def _read(self) -> Any:
        source = self.task.source
        if isinstance(source, str):
            return await to_thread.run_sync(read_source, source, abandon_on_cancel=True)
        return read_source(source, self.stdin)

    def _check_parameters(self, notebook: Any) -> None:
        """Warn of unknown parameters; with ``--strict`` refuse them."""
        from kernelproto.notebook.defaults import unknown_parameters

        problem = unknown_parameters(notebook, self.options.parameters)
        if problem is None:
            return
        if self.options.strict:
            raise InvalidParameter(problem)
        self.progress.warn(f"{self.task.name}: {problem}")
        if in_actions():
            print_annotation("warning", problem, source=self.task.source, title="parameters")

    async def _prepare(self, notebook: Any) -> None:
        """Write the parameters into the notebook, and execute nothing."""
        from kernelproto.cli.prepare import prepare
        from kernelproto.notebook import write_notebook
        from kernelproto.notebook.rules import executable

        await prepare(notebook, self.options)
        if self.task.target == STANDARD:
            _print_notebook(notebook)
        else:
            await to_thread.run_sync(write_notebook, notebook, self.task.target)
        self.outcome.total = len(executable(notebook["cells"]))
        self.outcome.status = "ok"

    async def _run(self, notebook: Any, bar: TaskID) -> None:
        from kernelproto.cli.prepare import open_execution
        from kernelproto.notebook.banner import with_banners

        task, outcome, options = self.task, self.outcome, self.options
        places = CellPlaces(task.source, notebook["cells"]) if in_actions() else None
        log = OutputLog(task.name)
        async with open_execution(notebook, task, options, outcome) as execution:
            async for event in execution:
                self._follow(event, notebook, bar, log)
            result = await execution
        failed = result.failed
        if task.target == STANDARD:
            if options.error_banner and failed is not None:
                _print_notebook(with_banners(notebook, failed))
            else:
                _print_notebook(notebook)
        outcome.total = result.total
        outcome.status = result.status
        try:
            result.raise_for_error()
        except (CellTimeout, ExecutionError) as error:
            outcome.problem = describe(error)
        if failed is not None and places is not None:
            outcome.line = places.line(notebook["cells"][failed.index], failed)

    def _follow(self, event: CellEvent, notebook: Any, bar: TaskID, log: OutputLog) -> None:
        """Show an event of the execution."""
        from kernelproto.notebook import CellFinished, CellOutput, CellStarted

        outcome, progress = self.outcome, self.progress
        match event:
            case CellStarted():
                outcome.total = event.total
                code = notebook["cells"][event.index]["source"]
                progress.show(bar, outcome.done, event.total, code)
            case CellOutput(output=output) if self.options.log_output:
                log.write(output)
            case CellFinished():
                outcome.done = event.number
                outcome.cells.append(event)
                progress.finish_cell(self.task.name, event)
                progress.show(bar, outcome.done, event.total, "")
                log.end_line()
            case _:
                pass


def _print_notebook(notebook: Any) -> None:
    """Write a notebook to standard output."""
    from kernelproto.notebook.files import dump

    sys.stdout.buffer.write(dump(notebook))
    sys.stdout.buffer.flush()
