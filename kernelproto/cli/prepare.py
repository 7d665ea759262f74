"""Prepares notebooks and kernels for ``kernelproto notebook``."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from kernelproto.cli.errors import CliError
from kernelproto.cli.list import find_kernel_types
from kernelproto.cli.locations import STANDARD
from kernelproto.client.client import KernelClient
from kernelproto.client.heartbeat import until_silent
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import InvalidParameter, KernelDied
from kernelproto.launch.spec.naming import OWN_KERNEL, OWN_PYTHON, check_kernel_type
from kernelproto.run import connect_kernel
from kernelproto.supervise.kernel import Kernel
from kernelproto.timeouts import Timeouts

if TYPE_CHECKING:
    from kernelproto.cli.notebook import ExecutionOptions, Outcome, Task
    from kernelproto.notebook import NotebookExecution

# As for the console: the death of another program's kernel shows only in the heartbeat.
_SILENT_SECONDS = 30.0


def check_options(options: ExecutionOptions, notebooks: int) -> None:
    """Check options that exclude each other.

    Args:
        options: the options.
        notebooks: the number of notebooks.

    Raises:
        CliError: an option would have no effect, or the folder does not exist.
    """
    if options.existing is not None:
        if notebooks > 1:
            raise CliError("--existing executes one notebook, and several are given")
        for name, value in (
            ("--kernel", options.kernel),
            ("--cwd", options.cwd),
            ("--keep-kernel", options.keep_kernel),
        ):
            if value:
                raise CliError(f"--existing uses a running kernel: leave out {name}")
    if options.prepare_only:
        for name, given in (
            ("--existing", options.existing is not None),
            ("--from-cell", options.from_cell > 1),
            ("--keep-kernel", options.keep_kernel),
        ):
            if given:
                raise CliError(f"--prepare-only runs nothing: leave out {name}")
    if options.cwd is not None and not options.cwd.is_dir():
        raise CliError(f"--cwd {options.cwd} is not a folder")


@asynccontextmanager
async def open_execution(
    notebook: Any, task: Task, options: ExecutionOptions, outcome: Outcome
) -> AsyncGenerator[NotebookExecution]:
    """Open the execution of a notebook, in a new or in a running kernel.

    Args:
        notebook: the notebook.
        task: the file to write.
        options: the options of the execution.
        outcome: gets the connection file of a kernel that is kept.
    """
    from kernelproto.notebook import execute_notebook

    timeouts = Timeouts(startup=options.start_timeout)
    common: dict[str, Any] = {
        "timeout": options.timeout,
        "allow_errors": options.allow_errors,
        "parameters": options.parameters,
        "save_to": None if task.target == STANDARD else task.target,
        "autosave_seconds": options.autosave_seconds or None,
        "error_banner": options.error_banner,
        "exit_ok": options.exit_ok,
        "from_cell": options.from_cell,
    }
    if options.existing is None:
        async with execute_notebook(
            notebook,
            kernel_type=options.kernel,
            keep_kernel=options.keep_kernel,
            cwd=options.cwd or task.folder,
            timeouts=timeouts,
            **common,
        ) as execution:
            try:
                yield execution
            finally:
                if options.keep_kernel:
                    outcome.connection_file = _connection_file(execution)
    else:
        async with (
            connect_kernel(options.existing, timeouts=timeouts) as client,
            background_tasks() as tasks,
            execute_notebook(notebook, client, **common) as execution,
        ):
            tasks.start_soon(_watch, client)
            yield execution


def _connection_file(execution: NotebookExecution) -> str:
    """Return the path of the kernel's connection file; "" if there is none any more."""
    kernel = execution.kernel
    path = getattr(kernel.manager, "connection_file", "") if isinstance(kernel, Kernel) else ""
    return path if os.path.exists(path) else ""


async def prepare(notebook: Any, options: ExecutionOptions) -> None:
    """Write the parameters into a notebook.

    Raises:
        NoSuchKernel: there is no such kernel type.
        InvalidParameter: the language of the notebook is unknown, or lacks a parameter's value.
    """
    from kernelproto.notebook import inject_parameters

    if options.parameters:
        inject_parameters(notebook, options.parameters, await _language(notebook, options.kernel))


async def _language(notebook: Any, kernel: str | None) -> str:
    nothing: dict[str, Any] = {}
    kernelspec: Any = notebook["metadata"].get("kernelspec") or nothing
    info: Any = notebook["metadata"].get("language_info") or nothing
    known: str | None = info.get("name") or kernelspec.get("language")
    if kernel is None and known:
        return known
    chosen: str = kernel or kernelspec.get("name") or OWN_KERNEL
    if chosen in OWN_PYTHON:
        return "python"
    kernel_types = await find_kernel_types()
    name = check_kernel_type(chosen, kernel_types, remedy="choose one of these")
    language = kernel_types[name].get("language")
    if not language:
        raise InvalidParameter(
            f"the kernel type {chosen} does not declare its language: execute the notebook instead"
        )
    return language


async def _watch(client: KernelClient) -> None:
    await until_silent(client, _SILENT_SECONDS)
    client.fail(KernelDied("the kernel no longer answers heartbeats"))
