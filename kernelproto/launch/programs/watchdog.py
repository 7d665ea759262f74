"""The program that the watchdog process runs: it ends kernels whose program has died.

Theory of operation
-------------------
Standard input is a pipe from the program. Through it comes what is to be done if the program dies:
for each kernel its process group and its files. The end of the pipe, or of the program, is the
moment to do it. A kernel is announced before it is started, without a group; and its group is
struck off when it has ended, before the number can go to somebody else.

PR_SET_PDEATHSIG, which Linux has for this, would be no help: it strikes when the *thread* ends that
has started the kernel, not when the program does, and whatever a kernel starts does not inherit it.

A kernel's children are those in its process group, and on Linux also those that have left it but
still have the kernel's id in their environment. Whoever is to outlive the kernel takes the variable
KERNELPROTO_KERNEL_ID out of its environment and leaves the group (``setsid``).

It is run as a file, by ``python -I -S``, and so imports nothing of this package and little else. It
has a session of its own: no signal of a terminal gets here, and those that are sent all the same
are ignored. kernelproto uses its functions, too.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress

KERNEL_ID_VARIABLE = "KERNELPROTO_KERNEL_ID"

_PIPE = 0
_READ_BYTES = 64 * 1024

# How soon the end of the program is noticed where a fork of it keeps the pipe open and the system
# has nothing that tells. Linux has.
_POLL_MILLISECONDS = 1000

# How long it takes from a fork until the new program has its environment, with much to spare.
_STARTING_SECONDS = 0.5

# A process may start another one while the list is being read; nobody can do so for ever, because
# each round ends all that it finds.
_ROUNDS = 200

# What is said of a process that is just being started, and how long it is given each time.
_UNKNOWN = b""
_ROUND_SECONDS = 0.005

# A process has ended, or belongs to another user, or this is not Linux.
_NOT_TO_BE_SEEN = (FileNotFoundError, NotADirectoryError, PermissionError, ProcessLookupError)


class WatchedKernel:
    """A kernel that is to end with its program, and the messages about it.

    Args:
        kernel_id: it is in the environment of the kernel's processes.
        group: its process group, 0 for none any more.
        started: when the leader of that group was started, see start_time().
        record: the path of its record.
        files: paths of other files and folders that are to go.
    """

    def __init__(
        self, kernel_id: bytes, group: int, started: str, record: bytes, files: Sequence[bytes]
    ) -> None:
        self.kernel_id = kernel_id
        self.group = group
        self.started = started
        self.record = record
        self.files = files

    @classmethod
    def decode(cls, fields: Sequence[bytes]) -> WatchedKernel:
        """Take what came with the message that encode() makes."""
        kernel_id, group, record, *files = fields
        number, _, started = group.partition(b":")
        return cls(kernel_id, int(number), started.decode(), record, files)

    def encode(self) -> bytes:
        """Return the message that puts the kernel into care, or changes its group."""
        group = f"{self.group}:{self.started}".encode()
        return _message(b"watch", self.kernel_id, group, self.record, *self.files)

    def forget(self) -> bytes:
        """Return the message that takes it out again."""
        return _message(b"forget", self.kernel_id)


def main(program: int) -> None:
    """Wait for the end of the program, the parent of this process; then end its kernels."""
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    kernels = _listen(program)
    for kernel in kernels:
        if kernel.group:
            kill_group(kernel.group, kernel.started)
    kernel_ids = {kernel.kernel_id for kernel in kernels}
    kill_members(kernel_ids)
    if not all(kernel.group for kernel in kernels):
        # The program has died while it started a kernel, which has its environment a moment later.
        time.sleep(_STARTING_SECONDS)
        kill_members(kernel_ids)
    for kernel in kernels:
        remove_files(kernel.files)
        remove_record(kernel.record)


def start_time(pid: int) -> str:
    """Return when a process that runs was started, as the system counts it; "" if unknown or dead.

    With it a number means one process for ever, as long as the system is up.

    Raises:
        OSError: it cannot be found out now; there may be no file descriptors left.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()
    except _NOT_TO_BE_SEEN:
        return ""
    return "" if fields[0] in b"ZX" else fields[19].decode()


def kill_group(group: int, started: str) -> None:
    """Kill a process group, unless its number has gone to a process that was started later."""
    # A group without a leader keeps its number as long as anybody is in it.
    with suppress(OSError):
        if start_time(group) in ("", started):
            os.killpg(group, signal.SIGKILL)


def kill_members(kernel_ids: Collection[bytes]) -> set[int]:
    """Kill every process that has one of these kernels' ids in its environment. Linux only.

    Returns:
        The numbers of these processes.
    """
    killed: set[int] = set()
    if not kernel_ids:
        return killed
    for _ in range(_ROUNDS):
        owners = {pid: _kernel_of(pid) for pid in _processes()}
        found = {pid for pid, kernel_id in owners.items() if kernel_id in kernel_ids} - killed
        for pid in found:
            with suppress(OSError):
                if _kill_member(pid, kernel_ids):
                    killed.add(pid)
        if _UNKNOWN in owners.values():
            time.sleep(_ROUND_SECONDS)
        elif not found:
            break
    return killed


def reap_orphans(group: int, pids: Iterable[int]) -> None:
    """Reap processes that were killed, where they are children of this process.

    The orphans of a kernel become children of the program that is process 1 of its container, or
    a subreaper; nobody else would reap them.

    Args:
        group: a process group whose leader has been reaped.
        pids: other processes.
    """
    for pid in (-group, *pids):
        for _ in range(_ROUNDS):
            try:
                ended, _status = os.waitpid(pid, os.WNOHANG)
            except OSError:  # it is no child of this process
                break
            if not ended:  # not even SIGKILL ends a process at once
                time.sleep(_ROUND_SECONDS)


def belongs_to_kernel(pid: int, kernel_id: bytes, connection_file: bytes) -> bool:
    """Return whether a process shows that it belongs to a kernel. Linux only.

    It does so by its environment, which has the kernel's id; by its command line, which names the
    connection file; or, forked from a loaded interpreter, by its name.

    Raises:
        OSError: it cannot be found out now; there may be no file descriptors left.
    """
    owner = _kernel_of(pid)
    for _ in range(_ROUNDS):
        if owner != _UNKNOWN:
            break
        time.sleep(_ROUND_SECONDS)
        owner = _kernel_of(pid)
    if owner == kernel_id:
        return True
    name = os.path.basename(connection_file)
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as file:
            if file.read().rstrip(b"\n") == process_name(kernel_id):
                return True
        with open(f"/proc/{pid}/cmdline", "rb", buffering=0) as file:
            words = file.read().split(b"\0")
    except _NOT_TO_BE_SEEN:
        return False
    return any(os.path.basename(word) == name for word in words)


def process_name(kernel_id: bytes) -> bytes:
    """Return the name of a forked kernel's process, the 15 bytes that Linux keeps of one."""
    return b"kernel-" + kernel_id[:8]


def remove_files(paths: Iterable[bytes]) -> None:
    """Remove files, and folders with files in them; what cannot be removed stays.

    A folder that belongs to another user stays. A symbolic link is removed and not followed.
    """
    for path in paths:
        with suppress(OSError):
            if os.path.isdir(path) and not os.path.islink(path):
                _remove_folder(path)
            else:
                os.unlink(path)


def remove_record(path: bytes) -> None:
    """Remove the record of a kernel, and with the last one their folder."""
    with suppress(OSError):
        os.unlink(path)
    with suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _remove_folder(path: bytes) -> None:
    # By its descriptor, so that no link can take the folder's place meanwhile.
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(folder).st_uid == os.geteuid():
            for name in os.listdir(folder):
                os.unlink(name, dir_fd=folder)
    finally:
        os.close(folder)
    os.rmdir(path)


def _listen(program: int) -> list[WatchedKernel]:
    """Return the kernels that are in care when the program has died."""
    kernels: dict[bytes, WatchedKernel] = {}
    os.set_blocking(_PIPE, False)
    poll = select.poll()
    poll.register(_PIPE, select.POLLIN)
    patience: int | None = _POLL_MILLISECONDS
    if hasattr(os, "pidfd_open"):
        try:
            # The pipe alone is not enough: a fork of the program may have it, and live on.
            poll.register(os.pidfd_open(program), select.POLLIN)
            patience = None
        except OSError:
            pass  # it has died already, or a sandbox denies the call
    unread = b""
    alive = True
    while alive:
        # Looked at before the pipe is read, so that nothing is missed that was said before the end.
        alive = os.getppid() == program
        if alive:
            poll.poll(patience)
            alive = os.getppid() == program
        try:
            while chunk := os.read(_PIPE, _READ_BYTES):
                unread += chunk
            alive = False
        except BlockingIOError:
            pass
        *messages, unread = unread.split(b"\0\0")
        for message in messages:
            verb, *fields = message.split(b"\0")
            if verb == b"watch":
                kernels[fields[0]] = WatchedKernel.decode(fields)
            else:
                kernels.pop(fields[0], None)
    return list(kernels.values())


def _message(*fields: bytes) -> bytes:
    # No path has a zero byte in it, and none of the fields is empty.
    return b"\0".join(fields) + b"\0\0"


def _processes() -> Iterator[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    yield from map(int, filter(str.isdigit, names))


def _kernel_of(pid: int) -> bytes | None:
    """Return the kernel id in a process' environment; None where there is none to be seen."""
    try:
        environment = _environment(pid)
        if not environment:
            if _is_being_executed(pid):
                return _UNKNOWN
            environment = _environment(pid)  # it may have been given one meanwhile
    except OSError:
        return None
    _, found, rest = (b"\0" + environment).partition(b"\0" + KERNEL_ID_VARIABLE.encode() + b"=")
    return rest.partition(b"\0")[0] if found else None


def _environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
        return file.read()


def _is_being_executed(pid: int) -> bool:
    """Return whether a process runs a new program, but has not been given its environment yet."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        fields = file.read().rpartition(b")")[2].split()
    state, memory, environment = fields[0], fields[20], fields[47]
    return state not in b"ZX" and memory != b"0" and environment == b"0"


def _kill_member(pid: int, kernel_ids: Collection[bytes]) -> bool:
    """Kill a process; return whether it was one of them, as far as can be seen just now."""
    if not hasattr(os, "pidfd_open"):
        os.kill(pid, signal.SIGKILL)
        return True
    pidfd = os.pidfd_open(pid)
    try:
        # Looked at again: now the number is known to mean the same process as the descriptor.
        if _kernel_of(pid) not in kernel_ids:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    finally:
        os.close(pidfd)


if __name__ == "__main__":
    main(int(sys.argv[1]))
