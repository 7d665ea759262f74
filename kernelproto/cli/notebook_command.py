"""The command ``kernelproto notebook``: the options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernelproto.cli.options import Verbose, command, kernel_option

Notebooks = Annotated[
    list[str],
    typer.Argument(
        metavar="IN.ipynb",
        show_default=False,
        help="The notebooks to execute: files or URLs; - is standard input.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="Write to this file or URL, or into this folder, or to standard output (-); by "
        "default each notebook is overwritten.",
    ),
]
KernelType = Annotated[
    str | None, kernel_option("The kernel type; by default the one named in the notebook.")
]
Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Interrupt cells after this time.",
    ),
]
AllowErrors = Annotated[
    bool, typer.Option("--allow-errors", help="Continue after a cell raises an error.")
]
Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        "-p",
        metavar="NAME=VALUE",
        help='A parameter, as JSON or text, for a new cell after the cell tagged "parameters"; '
        "may be repeated.",
    ),
]
ParameterFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--parameters-file",
        "-f",
        metavar="FILE",
        help="Parameters in a YAML or JSON file, or at a URL; may be repeated. -p comes last.",
    ),
]
JUnit = Annotated[
    Path | None,
    typer.Option(
        "--junit", metavar="FILE", help="Write JUnit XML to this file, with a test per cell."
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help='Fail if the cell tagged "parameters" does not assign a given parameter.',
    ),
]
HelpParameters = Annotated[
    bool,
    typer.Option(
        "--help-parameters",
        help='Print the parameters that the cell tagged "parameters" assigns; execute nothing.',
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        min=1,
        help="Execute N notebooks at the same time.",
    ),
]
AutosaveSeconds = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Save the notebook this often while a cell runs; 0 saves only after cells.",
    ),
]
Cwd = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        show_default=False,
        help="The working directory of the kernels; by default the folder of each notebook.",
    ),
]
ErrorBanner = Annotated[
    bool,
    typer.Option(
        "--error-banner",
        help="If a cell fails, mark it in the written notebook, with a link at the top.",
    ),
]
Existing = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Execute one notebook in a running kernel, by its id or connection file.",
    ),
]
ExitOk = Annotated[
    bool, typer.Option(help="End a notebook successfully if a cell calls sys.exit(0).")
]
FromCell = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Begin with cell N, as counted in error messages; earlier cells keep their outputs.",
    ),
]
KeepKernel = Annotated[
    bool,
    typer.Option("--keep-kernel", help="Leave the kernel running, and print its connection file."),
]
LogOutput = Annotated[
    bool,
    typer.Option(
        "--log-output",
        help="Print outputs on standard error as they arrive, each line with the notebook's name.",
    ),
]
PrepareOnly = Annotated[
    bool,
    typer.Option("--prepare-only", help="Write the parameters into the notebook; run nothing."),
]
StartTimeout = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, help="How long the start of a kernel may take.")
]


@command
def notebook_command(
    notebooks: Notebooks,
    output: Output = None,
    kernel: KernelType = None,
    timeout: Timeout = None,
    allow_errors: AllowErrors = False,
    parameters: Parameters = None,
    parameter_files: ParameterFiles = None,
    junit: JUnit = None,
    strict: Strict = False,
    help_parameters: HelpParameters = False,
    jobs: Jobs = 1,
    autosave_seconds: AutosaveSeconds = 10.0,
    cwd: Cwd = None,
    error_banner: ErrorBanner = False,
    existing: Existing = None,
    exit_ok: ExitOk = True,
    from_cell: FromCell = 1,
    keep_kernel: KeepKernel = False,
    log_output: LogOutput = False,
    prepare_only: PrepareOnly = False,
    start_timeout: StartTimeout = 60.0,
    verbose: Verbose = False,
) -> int:
    """Execute notebooks, each in a new kernel.

    The notebook is saved after each cell and while a cell runs. The exit status is 1 if a notebook
    fails.
    """
    from kernelproto.cli.notebook import (
        ExecutionOptions,
        execute_notebooks,
        plan_tasks,
    )
    from kernelproto.cli.parameters import collect_parameters, print_parameters

    if help_parameters:
        print_parameters(notebooks)
        return 0
    options = ExecutionOptions(
        kernel=kernel,
        timeout=timeout,
        allow_errors=allow_errors,
        parameters=collect_parameters(parameter_files or (), parameters or ()),
        strict=strict,
        junit=junit,
        autosave_seconds=autosave_seconds,
        cwd=cwd,
        error_banner=error_banner,
        existing=existing,
        exit_ok=exit_ok,
        from_cell=from_cell,
        keep_kernel=keep_kernel,
        log_output=log_output,
        prepare_only=prepare_only,
        start_timeout=start_timeout,
    )
    return execute_notebooks(plan_tasks(notebooks, output), options, jobs=jobs)
