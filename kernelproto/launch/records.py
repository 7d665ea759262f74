"""Records: a small file for each kernel that runs, for other programs and for later ones.

Theory of operation
-------------------
A record says what there is of a kernel and whose it is. It is written before there is anything else
of the kernel and removed after everything else, so that what a killed program leaves can
be found: the first launch of each program clears up after owners that are gone.

A process is known by its number and its start time, on one machine since it was booted, in one pid
namespace. About the records of another machine, or container, nothing can be known, and they are
left alone: the runtime folder may be a shared one. The same host before its last boot has nothing
that runs any more. Where the system does not tell start times (outside Linux), a number that is in
use again keeps the record, and no process is ended; on Windows nothing is cleared up.

Nothing here needs a lock. Every file has a name of its own, which is never used again, and removing
one that has been removed is no error.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cache

import msgspec
from jupyter_core.paths import jupyter_runtime_dir

from kernelproto.exceptions import LaunchError
from kernelproto.launch.watchdog_process import (
    Charge,
    kill_group,
    kill_members,
    remove_files,
    remove_record,
    start_time,
)

_FOLDER = "kernelproto"

# A record is written to a draft, which takes a moment. One that has been there for longer, and says
# nothing, is left by a program that was killed in this moment.
_DRAFT = ".new"
_DRAFT_SECONDS = 600.0

_swept: set[str] = set()


class Machine(msgspec.Struct, frozen=True):
    """Where a process number has its meaning; "" is what the system does not tell."""

    host: str
    boot: str
    pid_namespace: str


class ProcessId(msgspec.Struct, frozen=True):
    """A process, once and for all.

    Args:
        pid: its number.
        started: its start time as the system counts it, "" where that is unknown.
        machine: where that is.
    """

    pid: int
    started: str
    machine: Machine

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """Return what identifies the process that runs under this number."""
        return cls(pid, start_time(pid), _this_machine())

    @property
    def is_here(self) -> bool:
        """Whether this program can see and signal it, if it runs."""
        return self.machine == _this_machine()

    @property
    def is_gone(self) -> bool:
        """Whether it has certainly ended."""
        here = _this_machine()
        if self.machine != here:
            return self.machine.host == here.host and self.machine.boot != here.boot
        if self.started:
            return start_time(self.pid) != self.started
        if os.name != "posix":
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of one kernel. It is written anew whenever there is more.

    Args:
        kernel_id: a UUID.
        kernel_name: the kernel type.
        command: the command line.
        interrupt_mode: "signal" or "message".
        connection_file: the path of the connection file.
        socket_folder: the folder of its ipc sockets, None without.
        output: the file that it writes to, None when it does not.
        detached: whether it outlives the program that has started it.
        owner: the program that has started it.
        process: its process; None until it has been started.
        listed_as: the id that its program knows it by, "" where that is *kernel_id*.
    """

    kernel_id: str
    connection_file: str
    owner: ProcessId
    kernel_name: str = ""
    command: tuple[str, ...] = ()
    interrupt_mode: str = "signal"
    socket_folder: str | None = None
    output: str | None = None
    detached: bool = False
    process: ProcessId | None = None
    listed_as: str = ""

    @classmethod
    def reserve(cls, kernel_id: str, *, socket_folder: str | None = None) -> Record:
        """Write the record of a kernel of which there is nothing yet.

        Args:
            kernel_id: a UUID.
            socket_folder: the folder that its ipc sockets will have, None without.

        Raises:
            LaunchError: it cannot be written.
        """
        runtime_folder = os.path.abspath(jupyter_runtime_dir())
        path = os.path.join(runtime_folder, f"kernel-{kernel_id}.json")
        record = cls(
            kernel_id=kernel_id,
            connection_file=path,
            owner=ProcessId.of(os.getpid()),
            socket_folder=socket_folder,
        )
        with _errors_named(record.path):
            os.makedirs(runtime_folder, mode=0o700, exist_ok=True)
        record.write()
        return record

    @property
    def path(self) -> str:
        """The file that the record is in."""
        folder = os.path.dirname(self.connection_file)
        return os.path.join(folder, _FOLDER, f"{self.kernel_id}.json")

    @property
    def is_abandoned(self) -> bool:
        """Whether nobody is there any more who needs what there is of the kernel."""
        if self.detached and self.process is not None:
            return self.process.is_gone
        return self.owner.is_gone

    def of_process(self, process: ProcessId) -> Record:
        """Return the same record of a kernel whose process has been started."""
        return msgspec.structs.replace(self, process=process)

    def charge(self) -> Charge:
        """Return what the watchdog is to do if this program dies before the kernel is started."""
        return Charge(self.kernel_id.encode(), 0, "", os.fsencode(self.path), self.files)

    def write(self) -> None:
        """Write the record, for the current user's eyes alone.

        Raises:
            LaunchError: it cannot be written.
        """
        with _errors_named(self.path):
            self._write()

    def _write(self) -> None:
        data = msgspec.json.encode(self)
        new = self.path + _DRAFT
        while True:
            with suppress(FileExistsError):
                os.mkdir(os.path.dirname(new), mode=0o700)
            # Not found: with the end of another kernel the folder has been removed meanwhile.
            with suppress(FileNotFoundError):
                descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                break
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(new, self.path)

    def remove(self) -> None:
        """Remove the record, as the last of the kernel; more than once is fine."""
        remove_record(os.fsencode(self.path))

    def clear_up(self) -> None:
        """End what runs of the kernel, and remove its files."""
        process = self.process
        if process is not None and process.is_here and process.started and not process.is_gone:
            kill_group(process.pid, process.started)
        kill_members({self.kernel_id.encode()})
        remove_files(self.files)
        self.remove()

    @property
    def files(self) -> tuple[bytes, ...]:
        """The paths of the files and folders that go with the kernel."""
        return tuple(os.fsencode(f) for f in (self.connection_file, self.socket_folder) if f)


@contextmanager
def _errors_named(path: str) -> Generator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError is a path that cannot be written as UTF-8
        raise LaunchError(
            f"cannot write the record {path!r} of a kernel: {error}; set JUPYTER_RUNTIME_DIR to a "
            "folder of yours on a local file system"
        ) from error


def sweep() -> None:
    """Clear up after programs that have died, once in the life of this one."""
    folder = _folder()
    if folder in _swept:
        return
    _swept.add(folder)
    for path, record in _records(folder):
        if record.is_abandoned:
            record.clear_up()
            remove_record(os.fsencode(path))  # another path when it was being written
    for path in _paths(folder):
        with suppress(OSError):
            if path.endswith(_DRAFT) and time.time() - os.path.getmtime(path) > _DRAFT_SECONDS:
                remove_record(os.fsencode(path))


def read_records(runtime_folder: str | None = None) -> list[Record]:
    """Return the records of all kernels in a Jupyter runtime folder; some may have ended.

    Args:
        runtime_folder: Jupyter's own by default.
    """
    return [record for path, record in _records(_folder(runtime_folder)) if path == record.path]


def _records(folder: str) -> Iterator[tuple[str, Record]]:
    for path in _paths(folder):
        try:
            with open(path, "rb") as file:
                record = msgspec.json.decode(file.read(), type=Record)
        except (OSError, msgspec.DecodeError):
            continue  # it has been removed meanwhile, or comes from another version of kernelproto
        yield path, record


def _paths(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError:  # there are no kernels
        return []


def _folder(runtime_folder: str | None = None) -> str:
    return os.path.join(os.path.abspath(runtime_folder or jupyter_runtime_dir()), _FOLDER)


@cache
def _this_machine() -> Machine:
    boot = namespace = ""
    with suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        namespace = os.readlink("/proc/self/ns/pid")
    return Machine(socket.gethostname(), boot, namespace)
