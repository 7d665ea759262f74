"""The running Python: the command lines of its ipykernel, and the settings at its start.

``python -m ipykernel_launcher`` is the command of every kernelspec that ipykernel installs. If the
command runs the running Python, a fork server can fork this kernel, as long as the server has read
the same settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from kernelproto.launch.programs import ipykernel

_MODULES = ("ipykernel_launcher", "ipykernel")

# Without frozen modules the debugger can stop in the standard library, and prints no warning.
# The kernelspec of ipykernel does the same. The option does not change the start-up time (185.4 ms
# with frozen modules, 185.5 ms without), and older versions of Python ignore it.
PYTHON_OPTION = "-Xfrozen_modules=off"

# How kernelspecs write the option.
_OPTIONS = ([PYTHON_OPTION], ["-X", "frozen_modules=off"])

_SETTINGS = ("DYLD_", "GLIBC_TUNABLES", "LD_", "MALLOC_", "PYTHON")


def ipykernel_command(python: str, arguments: Sequence[str]) -> list[str]:
    """Return the command line that runs ipykernel by programs/ipykernel.py.

    Args:
        python: the path of an interpreter with ipykernel.
        arguments: the arguments of ipykernel.
    """
    return [python, PYTHON_OPTION, ipykernel.__file__, *arguments]


def own_ipykernel(command: Sequence[str]) -> list[str] | None:
    """Return the command line that runs the same ipykernel by programs/ipykernel.py.

    None means that the command does not run the ipykernel of the running Python.
    """
    arguments = own_ipykernel_arguments(command, sys.executable)
    return None if arguments is None else ipykernel_command(sys.executable, arguments)


def own_ipykernel_arguments(command: Sequence[str], python: str) -> tuple[str, ...] | None:
    """Return the arguments that a command line gives to the ipykernel of the running Python.

    None means that the command runs another program, another Python, or Python with other options.

    Args:
        command: the command line.
        python: the path of the running interpreter.
    """
    program, *arguments = command
    for option in _OPTIONS:
        if arguments[: len(option)] == option:
            arguments = arguments[len(option) :]
            break
    match arguments:
        case ["-m", module, *rest] if module in _MODULES and _is_same_python(program, python):
            return tuple(rest)
        case _:
            return None


def interpreter_settings(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an interpreter or the dynamic linker reads only at the start."""
    return {name: value for name, value in env.items() if name.startswith(_SETTINGS)}


def _is_same_python(program: str, python: str) -> bool:
    """Return whether two paths are the same interpreter of the same environment."""
    if program == python:
        return True
    # The interpreter of a virtual environment is a link to the interpreter that made it.
    folders = {os.path.realpath(os.path.dirname(path)) for path in (program, python)}
    try:
        return os.path.isabs(program) and len(folders) == 1 and os.path.samefile(program, python)
    except OSError:
        return False
