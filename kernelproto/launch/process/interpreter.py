"""The running Python: the command lines of its own ipykernel, and the settings that it reads.

``python -m ipykernel_launcher`` is the command of every kernelspec that ipykernel installs. If it
runs in the running Python, a fork server can fork this kernel, as long as that server has read the
same settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from kernelproto.launch.programs import ipykernel

_MODULES = ("ipykernel_launcher", "ipykernel")

# The only option of the interpreter that the fork server has as well.
_OPTION = "-Xfrozen_modules=off"

_SETTINGS = ("DYLD_", "GLIBC_TUNABLES", "LD_", "MALLOC_", "PYTHON")


def own_ipykernel(command: Sequence[str]) -> list[str] | None:
    """Return the command line that runs the same ipykernel by programs/ipykernel.py.

    None means that the command runs another program, another Python, or Python with other options.
    """
    python, *arguments = command
    if arguments[:1] == [_OPTION]:
        del arguments[0]
    match arguments:
        case ["-m", module, *rest] if module in _MODULES and _is_this_python(python):
            return [sys.executable, _OPTION, ipykernel.__file__, *rest]
        case _:
            return None


def interpreter_settings(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that an interpreter or its dynamic linker reads only when it starts."""
    return {name: value for name, value in env.items() if name.startswith(_SETTINGS)}


def _is_this_python(program: str) -> bool:
    # Not only the real path: environments share the interpreter that they link to.
    return os.path.dirname(program) == os.path.dirname(sys.executable) and (
        os.path.realpath(program) == os.path.realpath(sys.executable)
    )
