"""The part of kernelproto that runs on another machine, over SSH: one file, without a kernelproto.

The program arrives on standard input, followed by a JSON object with the request, and runs in the
user's Python, 3.9 or newer. The answer is one line on standard output: the word from the request,
and a JSON object. All other lines come from the scripts of the user's shell.

    kernels   returns the kernelspecs and environments with ipykernel, and facts of this machine
    start     starts the host unless it runs, and returns its folder as well
    listens   returns the folder of the host, and whether the host listens there
"""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import platform
import re
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from typing import Any

_NAME = re.compile(r"(?!\.+\Z)[A-Za-z0-9._-]+")

# A user has fewer. A kernel.json is short.
_MOST_KERNELS = 200
_MOST_ENTRIES = 1000
_MOST_BYTES = 64 * 1024

_HOST_SECONDS = 15.0

# The host adds 46 characters for the socket of a kernel, which may have 103 on macOS.
_LONGEST_FOLDER = 48

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class Refused(Exception):
    """The reason why the request cannot be done, in words and as a kind."""

    def __init__(self, fault: str, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault


def main() -> None:
    """Read the request, and print the answer."""
    request = json.loads(sys.stdin.buffer.read())
    actions = {"kernels": find_kernels, "start": start_host, "listens": find_host}
    try:
        answer = actions[request["op"]](request)
    except Refused as error:
        answer = {"error": str(error), "fault": error.fault}
    except OSError as error:
        fault = "no_space" if error.errno in _NO_SPACE else "other"
        answer = {"error": str(error), "fault": fault}
    sys.stdout.write("\n" + request["word"] + json.dumps(answer) + "\n")
    sys.stdout.flush()


def find_kernels(request: dict[str, Any]) -> dict[str, Any]:
    """Return the kernels of this machine, and the facts that a launch depends on."""
    kernels: dict[str, Any] = {}
    for folder in kernelspec_folders():
        for entry in _entries(folder):
            if _NAME.fullmatch(entry) and len(kernels) < _MOST_KERNELS:
                spec = read_kernelspec(os.path.join(folder, entry))
                if spec is not None:
                    kernels.setdefault(entry.lower(), spec)
    for prefix in environment_folders():
        name = "env/" + os.path.basename(prefix)
        python = os.path.join(prefix, "bin", "python")
        if _NAME.fullmatch(os.path.basename(prefix)) and len(kernels) < _MOST_KERNELS:
            kernels.setdefault(name, environment_kernel(prefix, python))
    return {
        "kernels": kernels,
        "host": socket.gethostname(),
        "home": os.path.expanduser("~"),
        "python": sys.executable,
        "prefix": sys.prefix,
        "version": platform.python_version(),
        "system": sys.platform,
        "environ": {name: value for name, value in os.environ.items() if _is_text(name + value)},
    }


def kernelspec_folders() -> list[str]:
    """Return the folders that Jupyter searches for kernelspecs, in order."""
    data = os.environ.get("JUPYTER_DATA_DIR")
    if not data and sys.platform == "darwin":
        data = os.path.expanduser("~/Library/Jupyter")
    if not data:
        share = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
        data = os.path.join(share, "jupyter")
    own = os.path.join(sys.prefix, "share", "jupyter")
    system = ["/usr/local/share/jupyter", "/usr/share/jupyter"]
    given = [path for path in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if path]
    folders = dict.fromkeys([*given, data, own, *system])
    return [os.path.join(folder, "kernels") for folder in folders]


def read_kernelspec(folder: str) -> dict[str, Any] | None:
    """Return the parts of a kernel.json for a launch; None for an unusable file."""
    try:
        path = os.path.join(folder, "kernel.json")
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            text = file.read(_MOST_BYTES + 1)
        spec: dict[str, Any] | None = (
            json.loads(text.decode("utf-8-sig")) if len(text) <= _MOST_BYTES else None
        )
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(spec, dict) or not isinstance(spec.get("argv"), list):
        return None
    return {
        "argv": spec["argv"],
        "display_name": spec.get("display_name", ""),
        "language": spec.get("language", ""),
        "env": spec.get("env") or {},
        "interrupt_mode": str(spec.get("interrupt_mode") or "signal").lower(),
        "metadata": spec.get("metadata") or {},
        "resource_dir": folder,
    }


def environment_folders() -> list[str]:
    """Return the folders of Python environments that have ipykernel."""
    home = os.path.expanduser("~")
    found: list[str] = []
    try:
        with open(os.path.join(home, ".conda", "environments.txt")) as file:
            found += file.read(_MOST_BYTES).splitlines()
    except (OSError, ValueError):
        pass
    parents = (".virtualenvs", ".local/share/virtualenvs", "miniconda3/envs", "miniforge3/envs")
    for parent in parents:
        folder = os.path.join(home, parent)
        found += [os.path.join(folder, entry) for entry in _entries(folder)]
    return [
        prefix for prefix in dict.fromkeys(filter(os.path.isabs, found)) if _has_ipykernel(prefix)
    ]


def environment_kernel(prefix: str, python: str) -> dict[str, Any]:
    """Return the kernel of an environment, like a kernel.json."""
    path = os.path.join(prefix, "bin") + os.pathsep + "${PATH}"
    is_conda = os.path.isdir(os.path.join(prefix, "conda-meta"))
    variable = "CONDA_PREFIX" if is_conda else "VIRTUAL_ENV"
    return {
        "argv": [python, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python (" + os.path.basename(prefix) + ")",
        "language": "python",
        "env": {"PATH": path, variable: prefix},
        "interrupt_mode": "signal",
        "metadata": {"debugger": True},
        "resource_dir": prefix,
    }


def _has_ipykernel(prefix: str) -> bool:
    library = os.path.join(prefix, "lib")
    return os.access(os.path.join(prefix, "bin", "python"), os.X_OK) and any(
        os.path.isdir(os.path.join(library, entry, "site-packages", "ipykernel"))
        for entry in _entries(library)
        if entry.startswith("python3")
    )


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _entries(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))[:_MOST_ENTRIES]
    except OSError:
        return []


def start_host(request: dict[str, Any]) -> dict[str, Any]:
    """Start the host unless running; return its folder and the result of find_kernels()."""
    folder = host_folder()
    archive = folder + "-" + request["word"] + ".pyz"
    try:
        with open(os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(base64.b64decode(request["program"]))
        done = subprocess.run(
            [sys.executable, "-I", archive, folder],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_HOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Refused("other", "the host has not started in " + str(_HOST_SECONDS) + " s") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(archive)
    if done.returncode:
        raise Refused("other", done.stderr.decode("utf-8", "replace")[-2000:])
    return {"folder": folder, **find_kernels(request)}


def find_host(request: dict[str, Any]) -> dict[str, Any]:
    """Return the folder of the host, by default that of this machine, and whether it listens."""
    folder = request.get("folder") or host_folder()
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(_HOST_SECONDS)
        try:
            end.connect(os.path.join(folder, "socket"))
        except (FileNotFoundError, ConnectionRefusedError):
            return {"folder": folder, "listens": False}
    return {"folder": folder, "listens": True}


def host_folder() -> str:
    """Return the path of the host's folder; the parent folder is this user's alone.

    The folder belongs to one machine, because several may share a home folder. The paths of sockets
    in this folder must be short.
    """
    machine = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    in_home = os.path.join(state, "kernelproto")
    if os.path.isabs(state) and len(os.fsencode(in_home)) <= _LONGEST_FOLDER:
        with suppress(PermissionError, FileNotFoundError, NotADirectoryError):
            os.makedirs(in_home, mode=0o700, exist_ok=True)
            if os.access(in_home, os.W_OK | os.X_OK):
                return os.path.join(in_home, machine)
    private = "/tmp/kernelproto-" + str(os.geteuid())
    with suppress(FileExistsError):
        os.mkdir(private, mode=0o700)
    about = os.lstat(private)
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid() or about.st_mode & 0o077:
        raise Refused("other", private + " is not a folder that only its user can enter")
    return os.path.join(private, machine)
