"""``kernelproto kernelspec``: lists, installs and removes kernelspecs."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from kernelproto.cli.errors import FAILED, CliError
from kernelproto.cli.list import SEARCHED_FOLDERS
from kernelproto.cli.questions import agrees
from kernelproto.cli.screen import print_json, print_table, terminal_width
from kernelproto.cli.table import format_table, printable
from kernelproto.exceptions import DiscoveryError, InvalidKernelSpec
from kernelproto.launch.spec.kernelspec import (
    KernelSpec,
    find_kernelspecs,
    install_kernelspec,
    read_kernelspec,
    remove_kernelspec,
)
from kernelproto.launch.spec.naming import no_such_kernel
from kernelproto.launch.spec.parameters import with_this_python

_NONE_FOUND = (
    "No kernelspecs found. pyimport/kernel and env/NAME need none; see `kernelproto list`.\n"
    f"{SEARCHED_FOLDERS}"
)

# The entries of a kernel.json that Jupyter prints, and their fields in KernelSpec.
_ENTRIES = ("argv", "env", "display_name", "language", "interrupt_mode", "metadata")


def print_kernelspecs(*, as_json: bool, missing: bool) -> None:
    """Print the kernelspecs and their folders, as a table or as JSON.

    The JSON has the form of ``jupyter kernelspec list --json``. Broken kernelspecs, and those
    without a program, are named on standard error.

    Args:
        as_json: whether to print JSON.
        missing: whether to print only kernelspecs with a missing program.
    """
    kernelspecs, broken = _read_all()
    absent = [known for known in kernelspecs if _program_is_missing(known)]
    shown = absent if missing else kernelspecs
    if as_json:
        print_json({"kernelspecs": {known.name: _describe(known) for known in shown}})
    elif shown:
        print_table(
            format_table(
                ("NAME", "DISPLAY NAME", "FOLDER"),
                [(known.name, known.display_name, known.resource_dir) for known in shown],
                shrinking=(1,),
                width=terminal_width(),
                encoding=sys.stdout.encoding,
            )
        )
    else:
        print("No kernelspec has a missing program." if missing else _NONE_FOUND, file=sys.stderr)
    for error in broken:
        print(f"broken: {printable(error)}", file=sys.stderr)
    for known in () if missing else absent:
        program = printable(known.argv[0])
        print(f"{known.name} cannot be launched: {program} is missing", file=sys.stderr)


def install(
    source: Path,
    *,
    name: str | None,
    user: bool,
    sys_prefix: bool,
    prefix: Path | None,
    replace: bool,
    display_name: str | None,
) -> None:
    """Copy a kernelspec to a folder where kernels are searched, and print that folder.

    Raises:
        CliError: the options contradict each other, or the kernelspec cannot be installed.
        InvalidKernelSpec: the kernelspec in *source* cannot be used.
    """
    if user + sys_prefix + (prefix is not None) > 1:
        raise CliError("give only one of --user, --sys-prefix and --prefix")
    if not source.is_dir():
        raise CliError(f"{source} is not a folder: give the folder that contains kernel.json")
    try:
        folder = install_kernelspec(
            source,
            name,
            user=user,
            prefix=sys.prefix if sys_prefix else prefix,
            replace=replace,
            display_name=display_name,
        )
    except InvalidKernelSpec:
        raise
    except DiscoveryError as error:
        raise CliError(f"{error}{_remedy(error, user)}") from error
    print(f"Installed {os.path.basename(folder)} in {folder}")


def remove(names: Sequence[str], *, missing: bool, force: bool) -> int:
    """Remove kernelspecs after a question on the terminal; return the exit status.

    Args:
        names: the names of the kernelspecs.
        missing: whether to remove all kernelspecs with a missing program, too.
        force: whether to remove them without the question.

    Raises:
        CliError: nothing is named, or the question cannot be asked.
        NoSuchKernel: a kernelspec does not exist; then nothing is removed.
        DiscoveryError: a folder cannot be removed.
    """
    if not names and not missing:
        raise CliError("give the names of the kernelspecs, or --missing")
    folders = find_kernelspecs()
    wanted = dict.fromkeys(name.lower() for name in names)
    for name in wanted:
        if name not in folders:
            raise no_such_kernel(name, folders, remedy="nothing was removed")
    if missing:
        wanted |= dict.fromkeys(
            known.name for known in _read_all()[0] if _program_is_missing(known)
        )
    if not wanted:
        print("No kernelspec has a missing program.", file=sys.stderr)
        return 0
    if not force:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise CliError("the question needs a terminal: add --force to skip the question")
        for name in wanted:
            print(f"  {name}  {printable(folders[name])}", file=sys.stderr)
        if not agrees(f"Remove {len(wanted)} kernelspec{'s' if len(wanted) > 1 else ''}?"):
            return FAILED
    for name in wanted:
        print(f"Removed {remove_kernelspec(name)}")
    return 0


def _read_all() -> tuple[list[KernelSpec], list[InvalidKernelSpec]]:
    kernelspecs: list[KernelSpec] = []
    broken: list[InvalidKernelSpec] = []
    for name, folder in sorted(find_kernelspecs().items()):
        try:
            kernelspecs.append(read_kernelspec(name, folder))
        except InvalidKernelSpec as error:
            broken.append(error)
    return kernelspecs, broken


def _program_is_missing(kernelspec: KernelSpec) -> bool:
    return shutil.which(with_this_python(kernelspec.argv)[0]) is None


def _describe(kernelspec: KernelSpec) -> dict[str, object]:
    spec = {entry: getattr(kernelspec, entry) for entry in _ENTRIES}
    return {"resource_dir": kernelspec.resource_dir, "spec": spec}


def _remedy(error: DiscoveryError, user: bool) -> str:
    if isinstance(error.__cause__, PermissionError) and not user:
        return "; --user installs for you alone"
    return ""
