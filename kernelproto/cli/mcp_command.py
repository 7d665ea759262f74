"""The command ``kernelproto mcp``: the options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kernelproto.cli.options import Verbose, command, kernel_types


@command
def mcp_command(
    kernels: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            "-k",
            metavar="KERNEL",
            autocompletion=kernel_types,
            show_default=False,
            help="A kernel type that the model may use; may be repeated. The first one is the "
            "default. Without this option: fork/kernel.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The folder for the files of conversations; by default a temporary one, which is "
            "removed at the end.",
        ),
    ] = None,
    sandbox: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help="Run each kernel in a sandbox with these settings, such as '{}' (Linux).",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="How long code may run if the model does not say."),
    ] = 60,
    max_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="The longest timeout that the model may ask.")
    ] = 3600,
    expires: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="End a conversation after this time without a call."),
    ] = 3600,
    max_kernels: Annotated[int, typer.Option(metavar="N", help="How many kernels may exist.")] = 10,
    max_conversations: Annotated[
        int, typer.Option(metavar="N", help="How many conversations may exist.")
    ] = 50,
    verbose: Verbose = False,
) -> int:
    """Let a language model run code: serve the Model Context Protocol on standard input and output.

    A program such as Claude Desktop or VS Code starts this command and writes to it. Each
    conversation has its own kernels and its own folder. Without --sandbox, the code is not
    confined: it may do what you may do.
    """
    from kernelproto.cli.mcp import serve_mcp

    return serve_mcp(
        kernels or ["fork/kernel"],
        None if root is None else str(root),
        sandbox,
        timeout=timeout,
        max_timeout=max_timeout,
        expires=expires,
        max_kernels=max_kernels,
        max_conversations=max_conversations,
    )
