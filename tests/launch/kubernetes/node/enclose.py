"""Run the command of a container as process 1 of namespaces of its own; end with its exit code.

    python enclose.py SPEC DESCRIPTOR

SPEC is a JSON file: ``command``, ``env``, ``cwd``, ``hostname``, ``root`` (an empty folder, where
the container's root folder is mounted) and ``mounts`` with ``source``, ``path`` and ``read_only``.
The container sees the files of this machine and its volumes. The network is this machine's.

DESCRIPTOR is the end of a pipe that closes when the command runs. If the command does not start,
the reason comes through the pipe, and the exit code is 128. SIGTERM is sent on to the command.
Process 1 ends only by signals that it handles, and by SIGKILL.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

# This file is a program of its own, and kernelproto takes long to import.
sys.path.insert(0, str(Path(__file__).parents[4] / "kernelproto" / "launch" / "programs"))

import namespaces as ns

CANNOT_START = 128
LONGEST_HOSTNAME = 63


def main(path: str, pipe: int) -> int:
    """Run the container; return its exit code, for a signal 128 and its number."""
    spec = json.loads(Path(path).read_text())
    os.set_inheritable(pipe, False)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    ns.unshare("namespaces of a container", ns.NEWNS | ns.NEWPID | ns.NEWUTS)
    child = os.fork()
    if child == 0:
        start(spec, pipe)
    os.close(pipe)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def start(spec: dict, pipe: int) -> NoReturn:
    """Become the command."""
    try:
        ns.prctl(ns.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        socket.sethostname(spec["hostname"][:LONGEST_HOSTNAME])
        ns.keep_mounts_private()
        make_root(spec["root"], spec["mounts"])
        os.chroot(spec["root"])
        os.chdir(spec["cwd"])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        os.execvpe(spec["command"][0], spec["command"], spec["env"])
    except OSError as error:
        os.write(pipe, f"{spec['command'][0]}: {error}".encode())
    os._exit(CANNOT_START)


def make_root(root: str, mounts: list[dict]) -> None:
    """Mount this machine's files, the volumes and the processes of this namespace below *root*."""
    ns.mount("tmpfs", root, ns.MS_NOSUID | ns.MS_NODEV, "mode=755")
    # Volumes whose paths are deeper lie in other ones.
    volumes = sorted(
        (os.path.realpath(one["path"]), one["source"], one["read_only"]) for one in mounts
    )
    show("/", root, ["/proc", *(path for path, _, _ in volumes)])
    ns.mount("proc", f"{root}/proc", ns.MS_NOSUID | ns.MS_NODEV | ns.MS_NOEXEC)
    for path, source, _ in volumes:
        os.makedirs(root + path, exist_ok=True)
        ns.bind(source, root + path)
    for path, _, read_only in volumes:
        if read_only:
            ns.set_attributes(root + path, ns.ATTR_RDONLY)


def show(folder: str, target: str, hidden: list[str]) -> None:
    """Mount the entries of a folder, but leave empty folders at the paths that are *hidden*."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        entries = []
    names = {os.path.relpath(path, folder).split("/")[0] for path in hidden}
    for entry in entries:
        path = os.path.join(target, entry.name)
        if entry.name in names:
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), path)
        elif entry.is_dir():
            os.mkdir(path)
            ns.bind(entry.path, path)
        else:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            ns.bind(entry.path, path)
    for name in names:
        path = os.path.join(folder, name)
        os.mkdir(os.path.join(target, name))
        if path not in hidden:
            below = [one for one in hidden if one.startswith(f"{path}/")]
            show(path, os.path.join(target, name), below)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
