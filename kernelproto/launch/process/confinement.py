"""Confinement: from a Sandbox to the plan that programs/sandbox.py performs, on this machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import msgspec

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.address.paths import runtime_folder
from kernelproto.launch.leftovers.watchdog import python_executable
from kernelproto.launch.process.control_groups import groups_fault
from kernelproto.launch.process.limits import Limits, limits_of_program
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.process.seccomp import seccomp_filter
from kernelproto.launch.programs import sandbox as program
from kernelproto.launch.programs.sandbox_mounts import HOME, TMP

NOBODY = 65534

# Folders with files and sockets of users and services. Those that do not exist are ignored.
_HIDDEN = (
    "/boot",
    "/home",
    "/media",
    "/mnt",
    "/root",
    "/run",
    "/srv",
    "/var/log",
    "/var/mail",
    "/var/spool",
    "/var/tmp",
)

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(program.__file__)))

_LAST_USER = 2**32 - 2

# Folders that the sandbox replaces by its own.
_REPLACED = ("/", "/dev", "/proc", TMP)

# Older ones count the processes of a user in all sandboxes together.
_OLDEST_LINUX = (5, 14)

_TRIAL_SECONDS = 30.0

_STRICTEST = Sandbox()

# The users and sandboxes of successful trials.
_possible_for: set[tuple[int, bytes]] = set()


def is_known_possible(sandbox: Sandbox) -> bool:
    """Return whether ``require_sandbox`` has made such a sandbox before, and will not block."""
    return _key(_trial_of(sandbox)) in _possible_for


def require_sandbox(sandbox: Sandbox = _STRICTEST) -> None:
    """Make and end a trial sandbox, once in the life of this program. The call blocks.

    Args:
        sandbox: only the filter of system calls counts: the launch reports other faults.

    Raises:
        InvalidLaunchParameter: this machine or this user cannot have sandboxes.
    """
    reason = sandbox_fault(_trial_of(sandbox))
    if reason is not None:
        raise InvalidLaunchParameter(
            f"launch parameter 'sandbox': this machine cannot enforce it: {reason}"
        )


def users_fault(sandbox: Sandbox = _STRICTEST) -> str | None:
    """Return why kernels cannot run here as different users; None if a trial has succeeded."""
    if sys.platform == "linux" and os.geteuid() != 0:
        return "only a program of root can run kernels as other users"
    return sandbox_fault(sandbox)


def sandbox_fault(sandbox: Sandbox = _STRICTEST) -> str | None:
    """Return why a sandbox cannot be made here; None if possible."""
    if sys.platform != "linux":
        return "sandboxes work on Linux only"
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if release is None or tuple(map(int, release.groups())) < _OLDEST_LINUX:
        return "sandboxes need Linux 5.14, which counts the processes of each sandbox"
    key = _key(sandbox)
    if key in _possible_for:
        return None
    try:
        command = [python_executable(), "-I", "-S", "-c", ""]
        trial = subprocess.run(
            wrapped(command, confine(sandbox, command, sockets=(), limits=None)),
            env={},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TRIAL_SECONDS,
            check=False,
        )
    except (InvalidLaunchParameter, OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if trial.returncode:
        reason = trial.stdout.decode("utf-8", "replace").strip()
        return reason or f"a trial ended with status {trial.returncode}"
    if (fault := groups_fault(sandbox)) is not None:
        return fault
    _possible_for.add(key)
    return None


def _trial_of(sandbox: Sandbox) -> Sandbox:
    """Return the sandbox of the trial for a sandbox."""
    return Sandbox(seccomp=sandbox.seccomp)


def _key(sandbox: Sandbox) -> tuple[int, bytes]:
    return os.geteuid(), msgspec.json.encode(sandbox)


def wrapped(command: Sequence[str], plan: dict[str, Any]) -> list[str]:
    """Return the command that runs a command in a sandbox.

    Raises:
        OSError: there is no Python to run the program of the sandbox.
    """
    return [python_executable(), "-I", "-S", program.__file__, json.dumps(plan), *command]


def confine(
    sandbox: Sandbox,
    command: Sequence[str],
    *,
    sockets: Iterable[str],
    limits: Limits | None,
    connection_file: str | None = None,
    resources: str = "",
    cwd: str | None = None,
    control_groups: Iterable[str] = (),
    detached: bool = False,
) -> dict[str, Any]:
    """Return the plan that programs/sandbox.py performs.

    Args:
        sandbox: the sandbox.
        command: the command line of the kernel.
        sockets: the paths of the ipc sockets, in one folder; none with tcp.
        limits: the limits of each process.
        connection_file: the path.
        resources: the folder of the kernelspec.
        cwd: the working directory, as seen by the kernel; None means the home folder.
        control_groups: the existing folders of the control groups.
        detached: whether the kernel outlives this program.

    Raises:
        InvalidLaunchParameter: a path or the user cannot be used.
    """
    sockets = list(sockets)
    default = (*_HIDDEN, os.path.expanduser("~"), runtime_folder())
    hidden = {os.path.realpath(path) for path in default if os.path.exists(path)}
    hidden |= {_existing(path, "hidden") for path in sandbox.hidden}
    hidden -= set(_REPLACED)
    visible = {_existing(path, "visible") for path in sandbox.visible}
    needed = [resources, sys.prefix, sys.base_prefix, *_program(command)]
    if sandbox.network == "full":
        needed.append("/etc/resolv.conf")  # often a link to a file in /run
    visible |= set(_hidden_ones(needed, (*hidden, TMP)))
    covers = {*hidden, TMP}
    writable: list[str] = []
    private: dict[str, int] = {}
    for path, size in sandbox.writable.items():
        if size is None:
            writable.append(_writable(path))
        else:
            private[_private(path, covers)] = size
    return {
        "network": sandbox.network,
        "read_only": sandbox.read_only,
        "tmp": sandbox.tmp,
        # A cover on a shown folder would be shown as well.
        "hidden": sorted(hidden - {*visible, *writable}),
        "visible": sorted(visible),
        "writable": writable,
        "private": private,
        **_user(sandbox.uid),
        "limits": limits_of_program(limits, sandbox.processes),
        "filter": _filter(sandbox),
        "control_groups": list(control_groups),
        "ends_with_server": not detached,
        "connection_file": connection_file,
        "sockets": sockets,
        "socket_folder": os.path.dirname(sockets[0]) if sockets else None,
        "cwd": _working_directory(cwd, covers, {*visible, *writable}, private),
    }


def _existing(path: str, name: str) -> str:
    found = os.path.realpath(path)
    if not os.path.lexists(found):
        raise InvalidLaunchParameter(f"launch parameter 'sandbox': {name}: {path!r} does not exist")
    if found in _REPLACED or found.startswith(("/dev/", "/proc/")):
        raise InvalidLaunchParameter(
            f"launch parameter 'sandbox': {name}: {path!r} is replaced by every sandbox"
        )
    return found


def _writable(path: str) -> str:
    found = _existing(path, "writable")
    if not os.path.isdir(found) or os.statvfs(found).f_flag & os.ST_RDONLY:
        raise InvalidLaunchParameter(
            f"launch parameter 'sandbox': writable: {path!r} is not a folder that can be written to"
        )
    return found


def _private(path: str, covers: Iterable[str]) -> str:
    found = os.path.realpath(path)
    if any(_is_in(found, cover) and found != cover for cover in covers):
        return found
    found = _existing(path, "writable")
    if not os.path.isdir(found):
        raise InvalidLaunchParameter(
            f"launch parameter 'sandbox': writable: {path!r} is not a folder"
        )
    return found


def _working_directory(
    cwd: str | None, covers: set[str], shown: set[str], private: Iterable[str]
) -> str:
    if cwd is None:
        return HOME
    path = os.path.realpath(cwd)
    is_covered = any(_is_in(path, cover) for cover in covers)
    is_shown = any(_is_in(path, folder) for folder in shown)
    if path in {TMP, HOME, *private}:
        return path
    if (is_shown or not is_covered) and os.path.isdir(path):
        return path
    raise InvalidLaunchParameter(
        f"the working directory {cwd!r} cannot be entered: it is not a folder, or the sandbox "
        "hides it; if it is hidden, add it to visible or writable of the launch parameter 'sandbox'"
    )


def _program(command: Sequence[str]) -> Iterator[str]:
    """Yield the folders of this package and of the kernel's program."""
    yield _PACKAGE
    executable = shutil.which(command[0])
    if executable is not None:
        for path in (os.path.abspath(executable), os.path.realpath(executable)):
            folder = os.path.dirname(path)
            yield os.path.dirname(folder) if os.path.basename(folder) == "bin" else path


def _hidden_ones(paths: Iterable[str], covers: Sequence[str]) -> Iterator[str]:
    """Yield the paths that are hidden, except those that would show a whole hidden folder."""
    for path in {os.path.realpath(path) for path in paths if path}:
        is_covered = any(_is_in(path, cover) for cover in covers)
        if is_covered and os.path.exists(path) and not any(_is_in(cover, path) for cover in covers):
            yield path


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _filter(sandbox: Sandbox) -> str | None:
    if sandbox.seccomp == "none":
        return None
    try:
        return _filter_of(os.uname().machine)
    except ValueError as error:
        raise InvalidLaunchParameter(
            f"launch parameter 'sandbox': {error}: set seccomp to 'none'"
        ) from None


@cache
def _filter_of(machine: str) -> str:
    return seccomp_filter(machine).hex()


def _user(uid: int | str | None) -> dict[str, Any]:
    import pwd  # there is none on Windows

    user = os.geteuid()
    if isinstance(uid, str):
        return {"uids": _range(uid)}
    if user != 0:
        if uid not in (None, user):
            raise InvalidLaunchParameter(
                f"launch parameter 'sandbox': uid cannot be {uid}: only a program of root can run "
                "kernels as another user"
            )
        return {"uid": user, "gid": os.getegid()}
    uid = NOBODY if uid is None else uid
    try:
        return {"uid": uid, "gid": pwd.getpwuid(uid).pw_gid or uid}
    except KeyError:
        return {"uid": uid, "gid": uid}


def _range(uids: str) -> list[int]:
    """Return the first and the last number of a range of users."""
    if os.geteuid() != 0:
        raise InvalidLaunchParameter(
            f"launch parameter 'sandbox': uid cannot be {uids!r}: only a program of root can run "
            "kernels as other users"
        )
    first, last = map(int, uids.split("-"))
    if not 1 <= first <= last <= _LAST_USER:
        raise InvalidLaunchParameter(
            f"launch parameter 'sandbox': uid: {uids!r} is not a range between 1 and {_LAST_USER}"
        )
    return [first, last]
