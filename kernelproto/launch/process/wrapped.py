"""Interrupting a kernel that runs as the child of a wrapper, such as ``conda run``. Linux only.

Then the process that was started is the wrapper. SIGINT to its process group may end the wrapper,
and does not reach a kernel that has left the group (``setsid``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress

from kernelproto.launch.process.proc import children, command_line

# With more processes no wrapped kernel is searched for, because the event loop waits meanwhile.
_MOST_PROCESSES = 256


def interrupt_wrapped(leader: int, connection_file: str) -> bool:
    """Send SIGINT to a kernel below a wrapper, and to the kernel's descendants in its group.

    The kernel is the one process below the leader with the connection file on the command line that
    is no fork of its parent, which would have the same command line.

    Args:
        leader: the started process, not reaped yet.
        connection_file: the path of that file.

    Returns:
        Whether there is such a kernel. If not, no signal was sent.
    """
    path = os.fsencode(connection_file)
    parents = _descendants(leader)
    commands = {pid: command_line(pid) for pid in parents}
    kernels = {
        pid
        for pid, parent in parents.items()
        if path in commands[pid] and commands[pid] != (commands.get(parent) or command_line(parent))
    }
    kernels -= {above for pid in kernels for above in _ancestors(pid, parents)}
    if len(kernels) != 1:
        return False
    (kernel,) = kernels
    try:
        group = os.getpgid(kernel)
    except ProcessLookupError:
        return False
    for pid in parents:
        if pid == kernel or kernel in _ancestors(pid, parents):
            _interrupt(pid, group)
    return True


def _descendants(leader: int) -> dict[int, int]:
    """Return the processes below the leader with their parents; none if there are too many."""
    parents: dict[int, int] = {}
    unseen = [leader]
    while unseen:
        parent = unseen.pop()
        found = children(parent)
        parents |= dict.fromkeys(found, parent)
        unseen += found
        if len(parents) > _MOST_PROCESSES:
            return {}
    return parents


def _ancestors(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while (parent := parents.get(pid)) is not None:
        yield parent
        pid = parent


def _interrupt(pid: int, group: int) -> None:
    """Send SIGINT to a running process of the group."""
    with suppress(ProcessLookupError, PermissionError):
        pidfd = os.pidfd_open(pid)
        try:
            if os.getpgid(pid) == group:
                signal.pidfd_send_signal(pidfd, signal.SIGINT)
        finally:
            os.close(pidfd)
