"""``kernelproto notebook``: executes notebooks, several at the same time."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio
from anyio import get_cancelled_exc_class

from kernelproto.cli.errors import (
    FAILED,
    KILLED,
    CliError,
    describe,
    need,
    print_error,
)
from kernelproto.cli.output_log import OutputLog
from kernelproto.cli.outputs import OutputPrinter
from kernelproto.cli.screen import print_table, terminal_width
from kernelproto.cli.signals import receive_signals
from kernelproto.cli.table import format_table, printable
from kernelproto.exceptions import CellTimeout, ExecutionError, KernelProtoError

if TYPE_CHECKING:
    from kernelproto.cli.progress import Progress
    from kernelproto.wire.content import ErrorOutput

_WORDS = {"True": True, "False": False, "None": None}


# The path that means standard input or standard output.
STANDARD = Path("-")


class Task(NamedTuple):
    """A notebook to execute, and the file to write it to."""

    source: Path
    target: Path

    @property
    def name(self) -> str:
        """The name of the notebook in messages."""
        return "standard input" if self.source == STANDARD else printable(os.fspath(self.source))


@dataclass(frozen=True, kw_only=True)
class ExecutionOptions:
    """Options for all notebooks; see ``execute_notebook``."""

    kernel: str | None
    timeout: float | None
    allow_errors: bool
    parameters: Mapping[str, object]
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
            error, or "stopped" after a signal.
        done: the number of executed cells.
        total: the number of cells to execute.
        seconds: the duration in seconds.
        problem: the error in one line; "" for none.
        error: the exception of the code, with its traceback; None for none.
        connection_file: that of the kernel that was kept; "" for none.
    """

    status: str = "stopped"
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    problem: str = ""
    error: ErrorOutput | None = None
    connection_file: str = ""


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
    from kernelproto.notebook.parameters import check_names

    check_options(options, len(tasks))
    check_names(options.parameters)
    outcomes = {task: Outcome() for task in tasks}
    with Progress() as progress:
        ended_by = anyio.run(_execute_all, outcomes, options, progress, jobs)
    to_stdout = any(task.target == STANDARD for task in outcomes)
    with redirect_stdout(sys.stderr) if to_stdout else nullcontext():
        print_table(format_outcomes(outcomes, terminal_width(), sys.stdout.encoding))
        for task, outcome in outcomes.items():
            if outcome.connection_file:
                command = f"kernelproto console --existing {printable(outcome.connection_file)}"
                print(f"{task.name}: the kernel keeps running: {command}")
    for outcome in outcomes.values():
        if outcome.error is not None:
            OutputPrinter().print(outcome.error)
    for task, outcome in outcomes.items():
        if outcome.problem:
            print_error(_with_name(task.name, outcome.problem))
    if ended_by is not None:
        return KILLED + ended_by
    return 0 if all(outcome.status == "ok" for outcome in outcomes.values()) else FAILED


def plan_tasks(sources: Sequence[Path], output: Path | None) -> list[Task]:
    """Return the tasks: each notebook with the file to write it to.

    Args:
        sources: the notebooks.
        output: a file for one notebook, or a folder for all; None overwrites the notebooks. "-"
            is standard output, and standard input among the sources.

    Raises:
        CliError: the folder does not exist, or two notebooks have the same target.
    """
    if STANDARD in (*sources, output) and len(sources) > 1:
        raise CliError("- stands for one notebook, and several are given")
    if sources == [STANDARD] and output is None:
        output = STANDARD
    into_folder = output is not None and (output.is_dir() or len(sources) > 1)
    if into_folder and output is not None and not output.is_dir():
        raise CliError(f"{output} is not a folder; several notebooks need one")
    if output is not None and not output.parent.is_dir():
        raise CliError(f"cannot write {output}: the folder {output.parent} does not exist")
    tasks: dict[Path, Task] = {}
    for source in sources:
        target = source if output is None else output / source.name if into_folder else output
        if target.resolve() in tasks:
            other = tasks[target.resolve()].source
            raise CliError(f"{other} and {source} would both be written to {target}")
        tasks[target.resolve()] = Task(source, target)
    return list(tasks.values())


def read_parameters(assignments: Sequence[str]) -> dict[str, object]:
    """Return the parameters from assignments such as ``year=2026``.

    A value is JSON, or True, False or None; any other value is text.

    Raises:
        CliError: an assignment has no name or no ``=``.
    """
    parameters: dict[str, object] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not (name and equals):
            raise CliError(f"parameter {assignment!r} must have the form NAME=VALUE")
        try:
            parameters[name.strip()] = _WORDS[text] if text in _WORDS else json.loads(text)
        except ValueError:
            parameters[name.strip()] = text
    return parameters


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
                ("standard output" if task.target == STANDARD else task.target)
                if outcome.total
                else "",
            )
            for task, outcome in outcomes.items()
        ],
        shrinking=(0, 4),
        right=(2, 3),
        width=width,
        encoding=encoding,
    )


def _with_name(name: str, problem: str) -> str:
    """Return a problem that begins with the notebook's name, as some errors already do."""
    return problem if problem.startswith((f"{name}: ", f"{name} is ")) else f"{name}: {problem}"


async def _execute_all(
    outcomes: Mapping[Task, Outcome], options: ExecutionOptions, progress: Progress, jobs: int
) -> int | None:
    limit = anyio.Semaphore(jobs)

    async def execute(task: Task, outcome: Outcome) -> None:
        async with limit:
            await _execute(task, outcome, options, progress)

    async with receive_signals(interrupts=0) as signals, anyio.create_task_group() as running:
        for task, outcome in outcomes.items():
            running.start_soon(execute, task, outcome)
    return signals.ended_by


async def _execute(
    task: Task, outcome: Outcome, options: ExecutionOptions, progress: Progress
) -> None:
    from kernelproto.cli.prepare import open_execution, prepare
    from kernelproto.notebook import (
        CellFinished,
        CellOutput,
        CellStarted,
        read_notebook,
        write_notebook,
    )
    from kernelproto.notebook.banner import with_banners
    from kernelproto.notebook.files import dump, parse_notebook
    from kernelproto.notebook.rules import executable

    began = time.monotonic()
    bar = progress.begin(task.name)
    log = OutputLog(task.name)
    to_stdout = task.target == STANDARD
    try:
        if task.source == STANDARD:
            notebook = parse_notebook(sys.stdin.buffer.read(), task.name)
        else:
            notebook = read_notebook(task.source)
        if options.prepare_only:
            await prepare(notebook, options)
            if to_stdout:
                sys.stdout.buffer.write(dump(notebook))
                sys.stdout.buffer.flush()
            else:
                write_notebook(notebook, task.target)
            outcome.total = len(executable(notebook["cells"]))
            outcome.status = "ok"
            return
        async with open_execution(notebook, task, options, outcome) as execution:
            async for event in execution:
                match event:
                    case CellStarted():
                        outcome.total = event.total
                        code = notebook["cells"][event.index]["source"]
                        progress.show(bar, outcome.done, event.total, code)
                    case CellFinished():
                        outcome.done = event.number
                        progress.show(bar, outcome.done, event.total, "")
                        log.end_line()
                    case CellOutput(output=output) if options.log_output:
                        log.write(output)
                    case _:
                        pass
            result = await execution
        if to_stdout:
            if options.error_banner and result.failed is not None:
                notebook = with_banners(notebook, result.failed)
            sys.stdout.buffer.write(dump(notebook))
            sys.stdout.buffer.flush()
        outcome.total = result.total
        outcome.status = result.status
        try:
            result.raise_for_error()
        except (CellTimeout, ExecutionError) as error:
            outcome.problem = describe(error)
        # --log-output has printed the traceback already.
        if result.failed is not None and result.status == "error" and not options.log_output:
            outcome.error = result.failed.error
    except get_cancelled_exc_class():
        outcome.status = "stopped"
        raise
    except (KernelProtoError, OSError) as error:
        outcome.status = "failed"
        outcome.problem = describe(error)
    finally:
        outcome.seconds = time.monotonic() - began
        progress.end(bar)
