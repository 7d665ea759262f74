"""The state of this program that its kernels inherit, as it is at this moment; POSIX only.

A process that is started inherits the state of its program: working directory, umask, resource
limits, priority, rights. A forked kernel is no child of the program, so the fork server hands it
all this. A process can take over most of it by itself, see program_state(). It cannot gain rights,
and rights that it gives up may leave traces, so for other rights there is another fork server: see
program_rights().
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Hashable
from contextlib import suppress

# Of a thread, because the thread that starts a process is the one whose state is inherited.
_STATUS = "/proc/thread-self/status"
_NAMESPACES = "/proc/thread-self/ns"
_CGROUPS = "/proc/thread-self/cgroup"
_OOM_SCORE = "/proc/self/oom_score_adj"

# The lines of the status that name the rights of a thread.
_RIGHTS = {
    b"Uid",
    b"Gid",
    b"Groups",
    b"CapInh",
    b"CapPrm",
    b"CapEff",
    b"CapBnd",
    b"CapAmb",
    b"NoNewPrivs",
    b"Seccomp",
    b"Seccomp_filters",
}

# A file that this system does not have, as opposed to one that cannot be opened just now.
_NOT_THERE = (FileNotFoundError, PermissionError, NotADirectoryError)

_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


def program_rights() -> Hashable:
    """Return a value that changes when the rights of the calling thread do.

    They are the users, groups and capabilities, and on Linux also filters of system calls,
    namespaces, control groups and the root folder.
    """
    status = _status()
    rights = tuple(status[name] for name in sorted(_RIGHTS & status.keys()))
    users = (os.getuid(), os.geteuid(), os.getgid(), os.getegid(), *sorted(os.getgroups()))
    return users, rights, _namespaces(), _read(_CGROUPS), _root()


def program_state() -> dict[str, object]:
    """Return the state that a forked kernel takes over by itself, as JSON can have it.

    A value that this system does not tell is None or missing; the kernel then keeps the value of
    the fork server. The umask can be read on Linux alone: elsewhere reading it means changing
    it for a moment, for all threads.
    """
    return {
        "umask": _umask(),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "oom_score_adj": _read(_OOM_SCORE).decode().strip() or None,
        "limits": {number: resource.getrlimit(number) for number in _LIMITS},
        "ignores_hangup": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    }


def open_working_directory() -> int:
    """Return a descriptor of this program's working directory, which may have been removed.

    Raises:
        OSError: there are no file descriptors left, or this system needs the right to list the
            folder and the program does not have it.
    """
    return os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)


def _umask() -> int | None:
    umask = _status().get(b"Umask")
    return None if umask is None else int(umask, 8)


def _status() -> dict[bytes, bytes]:
    lines = (line.partition(b":") for line in _read(_STATUS).splitlines())
    return {name: value.strip() for name, _, value in lines}


def _namespaces() -> tuple[str, ...]:
    with suppress(*_NOT_THERE):
        return tuple(os.readlink(f"{_NAMESPACES}/{name}") for name in os.listdir(_NAMESPACES))
    return ()


def _root() -> tuple[int, int]:
    root = os.stat("/")
    return root.st_dev, root.st_ino


def _read(path: str) -> bytes:
    """Return the contents of a file of the system; b"" if there is no such file.

    Raises:
        OSError: there are no file descriptors left.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read() or b""
    except _NOT_THERE:
        return b""
