"""The command ``kernelproto provisioner``: subcommands and options."""

from __future__ import annotations

from typing import Annotated

import typer

from kernelproto.cli.errors import need
from kernelproto.cli.options import Verbose, command

provisioner_app = typer.Typer(
    help="Choose the kernelspecs that jupyter_client launches with kernelproto.",
    rich_markup_mode=None,
)

KernelspecName = Annotated[
    str, typer.Argument(metavar="NAME", show_default=False, help="The name of a kernelspec.")
]


@provisioner_app.command("enable")
@command
def enable_provisioner_command(name: KernelspecName, verbose: Verbose = False) -> None:
    """Have programs that use jupyter_client launch a kernelspec with kernelproto.

    JupyterLab, nbclient and papermill are such programs. The kernelspec's kernel.json is changed.
    """
    need("jupyter")
    from kernelproto.cli.provisioner import choose_provisioner

    choose_provisioner(name, enable=True)


@provisioner_app.command("disable")
@command
def disable_provisioner_command(name: KernelspecName, verbose: Verbose = False) -> None:
    """Undo `enable`."""
    from kernelproto.cli.provisioner import choose_provisioner

    choose_provisioner(name, enable=False)
