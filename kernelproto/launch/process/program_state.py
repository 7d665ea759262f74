"""The state of this program that kernels inherit; POSIX only.

A new process inherits the state of the parent: working directory, umask, resource limits, priority,
rights. A forked kernel is not a child of this program, so it gets this state from the fork server.
A process can set most of this state, see program_state(). A process cannot gain rights, and giving
up rights may leave traces, so other rights need another fork server, see program_rights().
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Hashable

from kernelproto.launch.process.proc import (
    oom_score_adj,
    thread_control_groups,
    thread_namespaces,
    thread_status,
)

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

_LIMITS = sorted({getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")})


def program_rights() -> Hashable:
    """Return a value that changes when the rights of the calling thread do.

    The rights are users, groups and capabilities, and on Linux also filters of system calls,
    namespaces, control groups and the root folder.
    """
    status = thread_status()
    rights = tuple(status[name] for name in sorted(_RIGHTS & status.keys()))
    users = (os.getuid(), os.geteuid(), os.getgid(), os.getegid(), *sorted(os.getgroups()))
    root = os.stat("/")
    where = thread_namespaces(), thread_control_groups(), root.st_dev, root.st_ino
    return users, rights, where


def program_state() -> dict[str, object]:
    """Return the state that a forked kernel can set, in JSON types.

    A value that is unknown here is None or missing; the kernel then keeps the fork server's. The
    umask can be read on Linux only: elsewhere reading means changing it for a moment, for all
    threads.
    """
    umask = thread_status().get(b"Umask")
    return {
        "umask": None if umask is None else int(umask, 8),
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "oom_score_adj": oom_score_adj(),
        "limits": {number: resource.getrlimit(number) for number in _LIMITS},
        "ignores_hangup": signal.getsignal(signal.SIGHUP) == signal.SIG_IGN,
    }


def open_working_directory() -> int:
    """Return a descriptor of this program's working directory, which may have been removed.

    Raises:
        OSError: there are no file descriptors left, or this system requires the right to list the
            folder, which the program lacks.
    """
    return os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
