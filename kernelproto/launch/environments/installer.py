"""The command that installs ipykernel into an environment, by the environment's own manager."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence

from kernelproto.launch.environments.contents import Contents
from kernelproto.launch.environments.place import Place

_PACKAGE = "ipykernel"


def install_command(
    place: Place, contents: Contents, variables: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the command that installs ipykernel into an environment.

    A project's manager adds ipykernel to the project, where the next synchronisation keeps it.

    Args:
        place: the environment.
        contents: the contents.
        variables: the environment variables of this program.
    """
    python = contents.python or place.prefix
    match place.maker:
        case "poetry" if place.project:
            return ("poetry", "--directory", place.project, "add", "--group", "dev", _PACKAGE)
        case "pixi" if place.project:
            name = os.path.basename(place.prefix)
            feature = () if name == "default" else ("--feature", name)
            return ("pixi", "add", "--manifest-path", place.project, *feature, _PACKAGE)
        case "conda" | "pixi":
            return (_conda(variables), "install", "--prefix", place.prefix, _PACKAGE)
        case "uv" if place.project and os.path.isfile(os.path.join(place.project, "uv.lock")):
            return ("uv", "add", "--project", place.project, "--dev", _PACKAGE)
        case "uv":
            return ("uv", "pip", "install", "--python", python, _PACKAGE)
        case _:
            if contents.has_pip:
                return (python, "-m", "pip", "install", _PACKAGE)
            if contents.is_from_uv or shutil.which("uv"):
                return ("uv", "pip", "install", "--python", python, _PACKAGE)
            return (sys.executable, "-m", "pip", "--python", python, "install", _PACKAGE)


def run_installer(command: Sequence[str]) -> int:
    """Run a command at this terminal; return the exit status.

    Raises:
        OSError: the program does not exist or cannot be run.
    """
    # The command shares the terminal, and receives Ctrl-C.
    return subprocess.run(command, check=False).returncode


def _conda(variables: Mapping[str, str]) -> str:
    for name in ("conda", "mamba", "micromamba"):
        if shutil.which(name):
            return name
    # Shells define conda as a function, so PATH may lack the program.
    return variables.get("CONDA_EXE") or variables.get("MAMBA_EXE") or "conda"
