"""The program of the watchdog process, which ends the kernels of a program that has died.

Theory of operation
-------------------
Standard input is a pipe from the program. Messages name the process group and the files of each
kernel. When the pipe or the program ends, the watchdog kills the groups and removes the files. The
program announces a kernel before its start, without a group, and withdraws the group after its end,
before the system can give the number to another process.

PR_SET_PDEATHSIG of Linux does not help: the signal comes when the *thread* that started the kernel
ends, not when the program ends, and the kernel's child processes do not inherit the setting.

The processes of a kernel are those in its process group, and on Linux also those that have left the
group but still have the kernel's id in their environment. A process that shall outlive the kernel
has to remove KERNELPROTO_KERNEL_ID from the environment and to leave the group (``setsid``).

Run by ``python -I -S``, so the program imports nothing of this package and few other modules. The
process has a session of its own and gets no signals from a terminal; others are ignored. The
package imports functions from this file.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress

KERNEL_ID_VARIABLE = "KERNELPROTO_KERNEL_ID"

# A control group of a kernel has this name, followed by the kernel's id.
CONTROL_GROUP = "kernelproto-"

_PIPE = 0
_READ_BYTES = 64 * 1024

# How often to check whether the program has ended, on systems without pidfd, where a fork of the
# program may keep the pipe open.
_POLL_MILLISECONDS = 1000

# Ample time from a fork until the new program has an environment.
_STARTING_SECONDS = 0.5

# A process may start another one while the list is read. Each round kills all found processes, so a
# few rounds are enough. A process that starts on a loaded machine takes many.
_ROUNDS = 200

# Stands for the id of a process that is just being started; and the time to wait for it.
_UNKNOWN = b""
_ROUND_SECONDS = 0.005

# The process has ended, or belongs to another user, or this is not Linux.
_NOT_VISIBLE = (FileNotFoundError, NotADirectoryError, PermissionError, ProcessLookupError)


class WatchedKernel:
    """A kernel that ends with its program, and the messages about the kernel.

    Args:
        kernel_id: the id in the environment of the kernel's processes.
        group: the process group; 0 before the start and after the end.
        started: the start time of the group's leader, see start_time().
        record: the path of the kernel's record.
        files: the paths of other files and folders to remove.
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
        """Return the kernel from the fields of a message that encode() made."""
        kernel_id, group, record, *files = fields
        number, _, started = group.partition(b":")
        return cls(kernel_id, int(number), started.decode(), record, files)

    def encode(self) -> bytes:
        """Return the message that announces the kernel or changes the kernel's group."""
        group = f"{self.group}:{self.started}".encode()
        return _message(b"watch", self.kernel_id, group, self.record, *self.files)

    def forget(self) -> bytes:
        """Return the message that withdraws the kernel."""
        return _message(b"forget", self.kernel_id)


def main(program: int) -> None:
    """Wait for the end of the program, the parent of this process; then end the kernels."""
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    kernels = _listen(program)
    for kernel in kernels:
        if kernel.group:
            kill_group(kernel.group, kernel.started)
    kernel_ids = {kernel.kernel_id for kernel in kernels}
    kill_members(kernel_ids)
    if not all(kernel.group for kernel in kernels):
        # The program died during the start of a kernel, which may not have its environment yet.
        time.sleep(_STARTING_SECONDS)
        kill_members(kernel_ids)
    for kernel in kernels:
        remove_files(kernel.files)
        remove_record(kernel.record)


def start_time(pid: int) -> str:
    """Return the start time of a running process in the system's units; "" if unknown or ended.

    Number and start time identify a process until the next boot.

    Raises:
        OSError: the process cannot be examined now; there may be no file descriptors left.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read().rpartition(b")")[2].split()
    except _NOT_VISIBLE:
        return ""
    return "" if fields[0] in b"ZX" else fields[19].decode()


def kill_group(group: int, started: str) -> None:
    """Kill a process group, unless a later process has the same number."""
    # A group without a leader keeps its number until its last process ends.
    with suppress(OSError):
        if start_time(group) in ("", started):
            os.killpg(group, signal.SIGKILL)


def kill_members(kernel_ids: Collection[bytes]) -> set[int]:
    """Kill every process with the id of one of these kernels in its environment. Linux only.

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

    The orphans of a kernel become children of this process if this is process 1 of a container or a
    subreaper. Then no other process reaps them.

    Args:
        group: a process group with a reaped leader.
        pids: other processes.
    """
    for pid in (-group, *pids):
        for _ in range(_ROUNDS):
            try:
                ended, _status = os.waitpid(pid, os.WNOHANG)
            except OSError:  # not a child of this process
                break
            if not ended:  # not even SIGKILL ends a process at once
                time.sleep(_ROUND_SECONDS)


def belongs_to_kernel(pid: int, kernel_id: bytes, connection_file: bytes) -> bool:
    """Return whether a process can be identified as one of a kernel. Linux only.

    The process has the kernel's id in its environment, the connection file on its command line, or,
    forked from a loaded interpreter, the kernel's process_name().

    Raises:
        OSError: the process cannot be examined now; there may be no file descriptors left.
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
    except _NOT_VISIBLE:
        return False
    return any(os.path.basename(word) == name for word in words)


def process_name(kernel_id: bytes) -> bytes:
    """Return the name of a forked kernel's process, the 15 bytes that Linux keeps of one."""
    return b"kernel-" + kernel_id[:8]


def remove_files(paths: Iterable[bytes]) -> None:
    """Remove files, and folders with all that is in them; ignore errors.

    A folder of another user stays. A symbolic link is removed and not followed. The processes of a
    control group must have been killed.
    """
    for path in paths:
        with suppress(OSError):
            if os.path.basename(path).startswith(CONTROL_GROUP.encode()):
                _remove_control_group(path)
            elif os.path.isdir(path) and not os.path.islink(path):
                _remove_folder(path)
            else:
                os.unlink(path)


def _remove_control_group(path: bytes) -> None:
    for _ in range(_ROUNDS):
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            time.sleep(_ROUND_SECONDS)  # not even SIGKILL ends a process at once
        else:
            return


def remove_record(path: bytes) -> None:
    """Remove the record of a kernel, and their folder with the last record."""
    with suppress(OSError):
        os.unlink(path)
    with suppress(OSError):
        os.rmdir(os.path.dirname(path))


def _remove_folder(path: bytes) -> None:
    # By descriptor, so that no link can replace the folder meanwhile.
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(folder).st_uid == os.geteuid():
            while names := os.listdir(folder):
                for name in names:
                    _remove_in(name, folder)
    finally:
        os.close(folder)
    os.rmdir(path)


def _remove_in(name: str, folder: int) -> None:
    """Remove a file or a subfolder; the files of a subfolder are first moved to the parent.

    So code that nests subfolders cannot reach a limit of this program.
    """
    try:
        os.unlink(name, dir_fd=folder)
    except (IsADirectoryError, PermissionError):  # the latter on macOS
        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        try:
            for file in os.listdir(inner):
                os.rename(file, os.urandom(8).hex(), src_dir_fd=inner, dst_dir_fd=folder)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=folder)


def _listen(program: int) -> list[WatchedKernel]:
    """Wait until the program has died; return the announced kernels."""
    kernels: dict[bytes, WatchedKernel] = {}
    os.set_blocking(_PIPE, False)
    poll = select.poll()
    poll.register(_PIPE, select.POLLIN)
    timeout: int | None = _POLL_MILLISECONDS
    if hasattr(os, "pidfd_open"):
        try:
            # The pipe alone is not enough: a fork of the program may keep the pipe open.
            poll.register(os.pidfd_open(program), select.POLLIN)
            timeout = None
        except OSError:
            pass  # the program has died already, or a sandbox denies the call
    unread = b""
    alive = True
    while alive:
        # Before reading the pipe, so that no message from before the end is missed.
        alive = os.getppid() == program
        if alive:
            poll.poll(timeout)
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
    # No path has a zero byte, and no field is empty.
    return b"\0".join(fields) + b"\0\0"


def _processes() -> Iterator[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    yield from map(int, filter(str.isdigit, names))


def _kernel_of(pid: int) -> bytes | None:
    """Return the kernel id in a process' environment; None if missing or not readable."""
    try:
        environment = _environment(pid)
        if not environment:
            if _is_being_executed(pid):
                return _UNKNOWN
            environment = _environment(pid)  # which may have been set meanwhile
    except OSError:
        return None
    _, found, rest = (b"\0" + environment).partition(b"\0" + KERNEL_ID_VARIABLE.encode() + b"=")
    return rest.partition(b"\0")[0] if found else None


def _environment(pid: int) -> bytes:
    # By three system calls for most processes: each end of a kernel reads all of them.
    descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    try:
        environment = chunk = os.read(descriptor, _READ_BYTES)
        while len(chunk) == _READ_BYTES:
            chunk = os.read(descriptor, _READ_BYTES)
            environment += chunk
        return environment
    finally:
        os.close(descriptor)


def _is_being_executed(pid: int) -> bool:
    """Return whether a process runs a new program that has no environment yet."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        fields = file.read().rpartition(b")")[2].split()
    state, memory, environment = fields[0], fields[20], fields[47]
    return state not in b"ZX" and memory != b"0" and environment == b"0"


def _kill_member(pid: int, kernel_ids: Collection[bytes]) -> bool:
    """Kill a process of one of the kernels; return whether a process was killed."""
    if not hasattr(os, "pidfd_open"):
        os.kill(pid, signal.SIGKILL)
        return True
    pidfd = os.pidfd_open(pid)
    try:
        # Checked again, because now the number and the descriptor mean the same process.
        if _kernel_of(pid) not in kernel_ids:
            return False
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return True
    finally:
        os.close(pidfd)


if __name__ == "__main__":
    main(int(sys.argv[1]))
