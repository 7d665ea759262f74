"""The options that several commands have, and the exit status of a command."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Annotated, ParamSpec

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
    """Exit with the status that a command returns, or print its error in one line and fail."""

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> None:
        work = partial(function, *args, **options)
        raise typer.Exit(status_of(partial(offering_ipykernel, work)))

    return run
