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

    They are the users, groups and capabilities, and on Linux also filters of system calls,
    namespaces, control groups and the root folder.
    """
    status = thread_status()
    rights = tuple(status[name] for name in sorted(_RIGHTS & status.keys()))
    users = (os.getuid(), os.geteuid(), os.getgid(), os.getegid(), *sorted(os.getgroups()))
    root = os.stat("/")
    where = thread_namespaces(), thread_control_groups(), root.st_dev, root.st_ino
    return users, rights, where


def program_state() -> dict[str, object]:
    """Return the state that a forked kernel takes over by itself, as JSON can have it.

    A value that this system does not tell is None or missing; the kernel then keeps the value of
    the fork server. The umask can be read on Linux alone: elsewhere reading it means changing
    it for a moment, for all threads.
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
        OSError: there are no file descriptors left, or this system needs the right to list the
            folder and the program does not have it.
    """
    return os.open(".", getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
