"""The command line: commands and options. Each command imports its modules on execution."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from kernelproto.cli.errors import need
from kernelproto.cli.kernelspec_commands import kernelspec_app
from kernelproto.cli.mcp_command import mcp_command
from kernelproto.cli.notebook_command import notebook_command
from kernelproto.cli.options import AsJson, Verbose, kernel_option, kernel_types, running_kernels
from kernelproto.cli.options import command as _command
from kernelproto.cli.provisioner_commands import provisioner_app

app = typer.Typer(
    help="Launch Jupyter kernels and talk to them.",
    rich_markup_mode=None,  # plain text works everywhere, and starts faster
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(kernelspec_app, name="kernelspec")
app.add_typer(provisioner_app, name="provisioner")


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


KernelType = Annotated[
    str,
    typer.Argument(
        metavar="KERNEL",
        autocompletion=kernel_types,
        show_default=False,
        help="A kernel type, such as pyimport/kernel; `kernelproto list` shows all.",
    ),
]


@app.command("list")
@_command
def list_command(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """List the kernel types that can be launched."""
    from kernelproto.cli.list import print_kernel_types

    print_kernel_types(as_json=as_json)


@app.command("run", context_settings={"allow_interspersed_args": False})
@_command
def run_command(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="A file with the code, or - for standard input.",
        ),
    ] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGS",
            show_default=False,
            help="The arguments of the code, in sys.argv[1:]; Python only.",
        ),
    ] = None,
    code: Annotated[
        str | None,
        typer.Option("--code", "-c", metavar="CODE", help="Code, instead of a file."),
    ] = None,
    kernel: Annotated[
        str | None, kernel_option("The kernel type; by default pyimport/kernel.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The folder for images; by default a temporary one."),
    ] = None,
    sandbox: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Run the kernel in a sandbox with these settings, such as '{}' (Linux).",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print how the kernel would be launched, and start nothing."
        ),
    ] = False,
    verbose: Verbose = False,
) -> int:
    """Run code in a new kernel, then shut the kernel down.

    Options come before FILE: all later words are arguments of the code. A Python file has sys.argv
    and __file__ as under python.

    Outputs are printed as they arrive, and input() reads from the terminal. Ctrl-C interrupts the
    code; a second Ctrl-C ends the kernel. The exit status is 1 if the code raises an error, and
    that of sys.exit() if the code calls it.
    """
    from kernelproto.cli.run import print_plan, read_sandbox, run_file

    launch_params = read_sandbox(sandbox)
    if dry_run:
        return print_plan(kernel, launch_params)
    return run_file(kernel, file, arguments or (), code, images=images, launch_params=launch_params)


app.command("notebook")(notebook_command)


@app.command("console")
@_command
def console_command(
    kernel: Annotated[
        str,
        typer.Argument(
            metavar="KERNEL",
            autocompletion=kernel_types,
            help="The type of the new kernel.",
        ),
    ] = "pyimport/kernel",
    existing: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            autocompletion=running_kernels,
            help="Connect to a running kernel instead, by its id or connection file.",
        ),
    ] = None,
    inline_images: Annotated[
        Literal["auto", "kitty", "iterm2", "sixel", "none"],
        typer.Option(
            metavar="PROTOCOL",
            help="How to show images in the terminal: auto, kitty, iterm2, sixel, or none to save "
            "them as files.",
        ),
    ] = "auto",
    verbose: Verbose = False,
) -> int:
    """Run code interactively, in a new or a running kernel."""
    from kernelproto.cli.console import open_console

    return open_console(kernel, existing, inline_images)


@app.command("ps")
@_command
def ps_command(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """List your running kernels, including those of other programs.

    Kernels are found by their connection files, and each is sent a heartbeat. STATE is "alive" if
    the kernel answers, "silent" if it runs but does not answer, and "dead" if only its files are
    left.
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
            autocompletion=running_kernels,
            show_default=False,
            help="Ids, prefixes of ids, process ids or connection files.",
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Stop all running kernels.")] = False,
    kept: Annotated[
        bool,
        typer.Option("--kept", help="Stop detached kernels that no program owns now."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Kill kernels that do not shut down.")
    ] = False,
    verbose: Verbose = False,
) -> int:
    """Shut running kernels down, and remove the files of dead ones."""
    from kernelproto.cli.stop import stop_kernels

    return stop_kernels(kernels or (), every=every, kept=kept, force=force)


@app.command(
    "serve",
    add_help_option=False,  # the server prints this help
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
@_command
def serve_command(context: typer.Context) -> int:
    """Serve kernels over Jupyter's REST and WebSocket API."""
    need("server")
    from kernelproto.server.program.serve import main

    return main(context.args, prog="kernelproto serve")


app.command("mcp")(mcp_command)


@app.command("bench")
@_command
def bench_command(
    kernel: Annotated[str, kernel_option("A kernel type for Python.")] = "pyimport/kernel",
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="How often to measure.")] = 3,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> int:
    """Measure how fast kernels start, execute and shut down on this machine."""
    from kernelproto.cli.bench import run_bench

    return run_bench(kernel, rounds=rounds, as_json=as_json)


@app.command("doctor")
@_command
def doctor_command(
    start: Annotated[bool, typer.Option(help="Start and stop a kernel of each type.")] = True,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="How long each start may take."),
    ] = 30.0,
    verbose: Verbose = False,
) -> int:
    """Check the installation, the system and each kernel type.

    The exit status is 1 if a check fails.
    """
    from kernelproto.cli.doctor import examine

    return examine(start=start, timeout=timeout)
