"""The program of the host: the start on this machine, and the package for another machine."""

from __future__ import annotations

import io
import os
import subprocess

from kernelproto.exceptions import LaunchError
from kernelproto.launch import programs
from kernelproto.launch.leftovers.watchdog import python_executable
from kernelproto.launch.programs.watchdog import KERNEL_ID_VARIABLE

_START_SECONDS = 30.0

# The files of the program, below the folder of programs, and the name of that folder.
_FILES = ("__init__.py", "forked_kernel.py", "reset_signals.py", "watchdog.py")
_PACKAGE = "programs"
_FOLDER = "host"
_MAIN = f"""\
import sys

from {_PACKAGE}.{_FOLDER}.main import main

main(sys.argv[1:])
"""

# Archives have the same bytes at any time.
_DATE = (1980, 1, 1, 0, 0, 0)


def start_host(folder: str) -> None:
    """Start a host in a folder, unless one runs there; return when the host listens. Blocks.

    Raises:
        LaunchError: the host cannot be started; the message has the reason.
    """
    program = os.path.join(_programs_folder(), _FOLDER, "__main__.py")
    # If this program runs in a kernel, the host does not belong to that kernel.
    env = {k: v for k, v in os.environ.items() if k != KERNEL_ID_VARIABLE}
    try:
        started = subprocess.run(
            [python_executable(), "-I", "-S", program, folder],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_START_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LaunchError(f"the host of this machine cannot be started: {error}") from error
    if started.returncode:
        reason = started.stderr.decode("utf-8", "replace").strip()
        raise LaunchError(f"the host of this machine cannot be started: {reason}")


def archive() -> bytes:
    """Return the program of the host as one file, run as ``python3 -I FILE FOLDER``.

    For other arguments, see programs/host/main.py.
    """
    import zipfile  # few programs need this module

    folder = _programs_folder()
    of_host = sorted(os.listdir(os.path.join(folder, _FOLDER)))
    names = [*_FILES, *(f"{_FOLDER}/{name}" for name in of_host if name.endswith(".py"))]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(zipfile.ZipInfo("__main__.py", _DATE), _MAIN)
        for name in names:
            with open(os.path.join(folder, name), "rb") as source:
                file.writestr(zipfile.ZipInfo(f"{_PACKAGE}/{name}", _DATE), source.read())
    return data.getvalue()


def _programs_folder() -> str:
    (folder,) = programs.__path__
    return folder
