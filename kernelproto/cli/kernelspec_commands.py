"""The command ``kernelproto kernelspec``: subcommands and options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from kernelproto.cli.options import Verbose, command

kernelspec_app = typer.Typer(
    help="List, install and remove kernelspecs.",
    rich_markup_mode=None,
)


def _kernelspecs(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield completions of the name of a kernelspec, with folders."""
    from kernelproto.launch.spec.kernelspec import find_kernelspecs

    for name, folder in sorted(find_kernelspecs().items()):
        if name.startswith(incomplete):
            yield name, folder


@kernelspec_app.command("list")
@command
def kernelspec_list_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON in the form of jupyter kernelspec.")
    ] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only kernelspecs with a missing program.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """List the installed kernelspecs and their folders."""
    from kernelproto.cli.kernelspec import print_kernelspecs

    print_kernelspecs(as_json=as_json, missing=missing)


@kernelspec_app.command("install")
@command
def kernelspec_install_command(
    source: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder that contains kernel.json.")
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The name; by default that of the folder."),
    ] = None,
    display_name: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The name that frontends show."),
    ] = None,
    user: Annotated[bool, typer.Option("--user", help="Install for you alone.")] = False,
    sys_prefix: Annotated[
        bool,
        typer.Option("--sys-prefix", help="Install for the Python that runs kernelproto."),
    ] = False,
    prefix: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Install for the environment in this folder."),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a kernelspec of the same name.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Copy a kernelspec to a folder where Jupyter finds it: by default one for all users."""
    from kernelproto.cli.kernelspec import install

    install(
        source,
        name=name,
        user=user,
        sys_prefix=sys_prefix,
        prefix=prefix,
        replace=replace,
        display_name=display_name,
    )


@kernelspec_app.command("remove")
@command
def kernelspec_remove_command(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=_kernelspecs,
            show_default=False,
            help="The names of kernelspecs.",
        ),
    ] = None,
    missing: Annotated[
        bool, typer.Option("--missing", help="Remove all kernelspecs with a missing program.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", "-y", help="Remove them without a question.")
    ] = False,
    verbose: Verbose = False,
) -> int:
    """Remove kernelspecs."""
    from kernelproto.cli.kernelspec import remove

    return remove(names or (), missing=missing, force=force)
