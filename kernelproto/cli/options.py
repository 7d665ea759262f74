"""The options that several commands have, their completions, and the exit status of a command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Annotated, Any, ParamSpec

import typer

from kernelproto.cli.errors import be_verbose, status_of
from kernelproto.cli.missing import offering_ipykernel

P = ParamSpec("P")

Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", callback=be_verbose, help="Print debug logs, and tracebacks of errors."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print all data as JSON.")]


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """Exit with the status of a command, or print the error in one line and fail."""

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> None:
        work = partial(function, *args, **options)
        raise typer.Exit(status_of(partial(offering_ipykernel, work)))

    return run


def kernel_types(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield completions of a kernel type, with descriptions."""
    import anyio

    from kernelproto.cli.list import find_kernel_types

    for name, about in anyio.run(find_kernel_types).items():
        if name.startswith(incomplete):
            yield name, str(about.get("display_name", ""))


def running_kernels(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield completions of the id of a running kernel, with kernel types."""
    from kernelproto.cli.inventory import find_running_kernels

    for kernel in find_running_kernels():
        if kernel.kernel_id.startswith(incomplete):
            yield kernel.kernel_id, kernel.kernel_type


def kernel_option(about: str) -> Any:
    """Return the option ``--kernel`` of a command."""
    return typer.Option("--kernel", "-k", metavar="KERNEL", autocompletion=kernel_types, help=about)
