"""The command line: every command and option. What a command needs is imported when it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from kernelproto.cli.errors import be_verbose, status_of

P = ParamSpec("P")

app = typer.Typer(
    help="Launch Jupyter kernels and talk to them.",
    rich_markup_mode=None,  # plain text reads well everywhere, and starts faster
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"kernelproto {metadata.version('kernelproto')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None: ...


def _command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Let a command's errors end it in one line, and what it returns be its exit status."""

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> None:
        raise typer.Exit(status_of(partial(function, *args, **options)))

    return run


def _kernel_types(incomplete: str) -> Iterator[tuple[str, str]]:
    """Complete the name of a kernel type."""
    import anyio

    from kernelproto.cli.list import find_kernel_types

    for name, about in anyio.run(find_kernel_types).items():
        if name.startswith(incomplete):
            yield name, str(about.get("display_name", ""))


def _running_kernels(incomplete: str) -> Iterator[tuple[str, str]]:
    """Complete the id of a running kernel."""
    from kernelproto.cli.inventory import find_running_kernels

    for kernel in find_running_kernels():
        if kernel.kernel_id.startswith(incomplete):
            yield kernel.kernel_id, kernel.kernel_type


Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", callback=be_verbose, help="Print logs, and where errors come from."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with everything there is.")]
KernelType = Annotated[
    str,
    typer.Argument(
        metavar="KERNEL",
        autocompletion=_kernel_types,
        show_default=False,
        help="The kernel type, such as pyimport/kernel; `kernelproto list` has them.",
    ),
]


def _kernel_option(about: str) -> Any:
    return typer.Option(
        "--kernel", "-k", metavar="KERNEL", autocompletion=_kernel_types, help=about
    )


@app.command("list")
@_command
def list_command(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """List the kernel types that can be launched."""
    from kernelproto.cli.list import print_kernel_types

    print_kernel_types(as_json=as_json)


@app.command("run")
@_command
def run_command(
    kernel: KernelType,
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="A file with code, or - for standard input.",
        ),
    ] = None,
    code: Annotated[
        str | None, typer.Option("--code", "-c", metavar="CODE", help="The code itself.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where images are saved; a temporary folder by default."),
    ] = None,
    verbose: Verbose = False,
) -> int:
    """Run code in a new kernel, and end the kernel.

    Outputs are printed as they come, and questions asked on the terminal. Ctrl-C interrupts the
    code, a second one ends the kernel. The exit status is 1 where the code fails.
    """
    from kernelproto.cli.run import read_code, run_code

    return run_code(kernel, read_code(file, code), images=images, code_from_stdin=file == "-")


@app.command("notebook")
@_command
def notebook_command(
    notebooks: Annotated[
        list[Path], typer.Argument(metavar="IN.ipynb", show_default=False, help="Notebooks.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The file that the notebook is written to, or a folder; by default it is the "
            "notebook itself.",
        ),
    ] = None,
    kernel: Annotated[
        str | None, _kernel_option("The kernel type; by default that of the notebook.")
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="How long each cell may take."),
    ] = None,
    allow_errors: Annotated[
        bool, typer.Option("--allow-errors", help="Go on when a cell fails.")
    ] = False,
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--parameter",
            "-p",
            metavar="NAME=VALUE",
            help="A parameter: a value in JSON, or text. It goes into a cell behind the one that "
            'is tagged "parameters".',
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", "-j", metavar="N", min=1, help="How many notebooks run side by side."
        ),
    ] = 1,
    verbose: Verbose = False,
) -> int:
    """Execute notebooks, each in a new kernel.

    What was executed is written after each cell. The exit status is 1 where a notebook fails.
    """
    from kernelproto.cli.notebook import (
        NotebookOptions,
        execute_notebooks,
        plan_tasks,
        read_parameters,
    )

    options = NotebookOptions(
        kernel=kernel,
        timeout=timeout,
        allow_errors=allow_errors,
        parameters=read_parameters(parameters or ()),
    )
    return execute_notebooks(plan_tasks(notebooks, output), options, jobs=jobs)


@app.command("console")
@_command
def console_command(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="KERNEL",
            autocompletion=_kernel_types,
            help="The kernel type of a new kernel.",
        ),
    ] = "pyimport/kernel",
    existing: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            autocompletion=_running_kernels,
            help="The connection file of a running kernel instead, or a part of its name.",
        ),
    ] = None,
    verbose: Verbose = False,
) -> int:
    """Talk to a kernel: type code, see what comes of it."""
    from kernelproto.cli.console import open_console

    return open_console(kernel, existing)


@app.command("ps")
@_command
def ps_command(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """List the running kernels of this user.

    They are found by their connection files, whichever program has started them. Each is asked for
    a heartbeat: "alive" has answered, "silent" runs and has not, of "dead" only files are left.
    """
    from kernelproto.cli.ps import print_running_kernels

    print_running_kernels(as_json=as_json)


@app.command("stop")
@_command
def stop_command(
    kernels: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KERNEL",
            autocompletion=_running_kernels,
            show_default=False,
            help="Ids or their beginnings, process ids, connection files.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Stop all of them.")] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Kill those that do not end when asked to.")
    ] = False,
    verbose: Verbose = False,
) -> int:
    """Stop running kernels.

    Each is asked to end, and removed with its files; of dead ones the files are removed.
    """
    from kernelproto.cli.stop import stop_kernels

    return stop_kernels(kernels or (), every=every, force=force)


@app.command(
    "serve",
    add_help_option=False,  # the server explains its own options
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
@_command
def serve_command(context: typer.Context) -> int:
    """Serve kernels to browsers and gateways."""
    from kernelproto.cli.serve import run_server

    return run_server(context.args)


@app.command("bench")
@_command
def bench_command(
    kernel: Annotated[str, _kernel_option("The kernel type, for Python.")] = "pyimport/kernel",
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many times all is measured.")
    ] = 3,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> int:
    """Measure how fast kernels are here.

    jupyter_client is measured as well, where it is installed. Both take turns, for less than a
    minute; the medians are shown.
    """
    from kernelproto.cli.bench import run_bench

    return run_bench(kernel, rounds=rounds, as_json=as_json)


@app.command("doctor")
@_command
def doctor_command(
    start: Annotated[
        bool, typer.Option(help="Start a kernel of each type, and end it again.")
    ] = True,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="How long each may take to start.")
    ] = 30.0,
    verbose: Verbose = False,
) -> int:
    """Show what works, how fast, and what is wrong.

    The exit status is 1 where something is wrong.
    """
    from kernelproto.cli.doctor import examine

    return examine(start=start, timeout=timeout)
