"""Records: a small file for each running kernel, for other programs and later ones.

Theory of operation
-------------------
A record names the process, the files and the owner of a kernel. A launch writes the record before
it makes other files, and the end of the kernel removes the record last. So the leftovers of a
killed program can be found: the first launch of each program clears up after owners that have
ended. The watchdog, which does so at once, watches the kernel for longer than there is a record.

The runtime folder may be shared with other machines or containers. Their processes are not visible
here, so their records are left alone. Without start times (outside Linux), the record stays if the
process number is in use again, and no process is ended. On Windows nothing is cleared up.

A record is trusted only if no other user can have written it (see own_files.py), and only for the
kernel in the name of the record: the paths in the record have to follow from the kernel's id and
the runtime folder (see address/paths.py), and a process is ended only if identified as the
kernel's. A record that fails one of these checks is logged and left alone, with its files and
processes. The file with a kernel's output belongs to the user and is never removed.

If a file or process cannot be examined for lack of file descriptors, the launch fails with this
reason, and the next launch clears up.

Nothing here needs a lock. File names are unique and never reused, and removing a file twice is not
an error. Claims decide which program owns a kernel that outlives programs, see claims.py; a program
that clears up claims a running kernel before ending it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Literal

import msgspec

from kernelproto.exceptions import DiscoveryError, LaunchError
from kernelproto.launch.address.paths import (
    DRAFT,
    connection_file_name,
    is_claim,
    is_connection_draft,
    is_record_draft,
    is_text,
    kernel_of_record,
    runtime_folder,
    socket_folder_name,
    socket_folders,
)
from kernelproto.launch.leftovers.claims import Ownership, remove_claims, remove_lone_claims
from kernelproto.launch.own_files import (
    LONGEST_FILE,
    folder_fault,
    is_own_file,
    leave_alone,
    read_own_file,
)
from kernelproto.launch.process.proc import wait_for_ends
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.programs.watchdog import (
    CONTROL_GROUP,
    WatchedKernel,
    belongs_to_kernel,
    kill_group,
    kill_members,
    remove_files,
    remove_record,
)
from kernelproto.shortage import require_descriptors, shortage

_FOLDER = "kernelproto"

# Writing a draft takes a moment. An older draft is left by a program that was killed while writing.
_DRAFT_SECONDS = 600.0

# A descriptor of the process, and a descriptor of the process's environment.
_TO_LOOK_AT_A_PROCESS = 2

_Path = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"\A[^\0]*\Z")]

_swept: set[str] = set()


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The process and the files of one kernel; written again when the process is known.

    Args:
        kernel_id: a UUID.
        kernel_name: the kernel type.
        command: the command line; empty if the record would be longer than 1 MiB.
        interrupt_mode: "signal" or "message".
        connection_file: the path of the connection file; the record on disk has only the name if
            the path is not valid UTF-8.
        socket_folder: the folder of the ipc sockets; None with tcp.
        control_groups: the folders of the control groups of a sandbox.
        output: the file with the kernel's output, if any.
        detached: whether the kernel outlives the owner.
        owner: the program that started the kernel.
        process: the kernel's process; None before the start.
        listed_as: the id under which other programs find the kernel, "" for *kernel_id*.
        host: the folder of the host that owns the kernel, see the package kernelproto.host.
    """

    kernel_id: str
    connection_file: _Path
    owner: ProcessId
    kernel_name: str = ""
    command: tuple[str, ...] = ()
    interrupt_mode: Literal["signal", "message"] = "signal"
    socket_folder: _Path | None = None
    control_groups: tuple[_Path, ...] = ()
    output: _Path | None = None
    detached: bool = False
    process: ProcessId | None = None
    listed_as: str = ""
    host: _Path | None = None

    @classmethod
    def of_launch(
        cls,
        kernel_id: str,
        *,
        socket_folder: str | None = None,
        control_groups: tuple[str, ...] = (),
        listed_as: str = "",
    ) -> Record:
        """Return the record, with these fields, of a kernel that has no files and process yet."""
        return cls(
            kernel_id=kernel_id,
            connection_file=os.path.join(runtime_folder(), connection_file_name(kernel_id)),
            owner=ProcessId.of(os.getpid()),
            socket_folder=socket_folder,
            control_groups=control_groups,
            listed_as=listed_as,
        )

    @property
    def path(self) -> str:
        """The path of the record."""
        folder = os.path.dirname(self.connection_file)
        return os.path.join(folder, _FOLDER, f"{self.kernel_id}.json")

    @property
    def is_abandoned(self) -> bool:
        """Whether the kernel's process and files can be removed."""
        if self.detached and self.process is not None:
            return self.process.is_gone
        return self.owner.is_gone and self.ownership.holder is None

    @property
    def ownership(self) -> Ownership:
        """The owner of the kernel, and changes of the owner."""
        return Ownership(self.path, self.kernel_id, self.owner, self.detached)

    def of_process(self, process: ProcessId) -> Record:
        return msgspec.structs.replace(self, process=process)

    def watched(self) -> WatchedKernel:
        """Return the kernel for the watchdog, before the start of the process."""
        return WatchedKernel(self.kernel_id.encode(), 0, "", os.fsencode(self.path), self.files)

    def reserve(self) -> None:
        """Write the first record of a kernel, and make the runtime folder; see write()."""
        with _errors_named(self.path):
            os.makedirs(os.path.dirname(self.connection_file), mode=0o700, exist_ok=True)
        self.write()

    def write(self) -> None:
        """Write the record, readable by the current user only, or raise LaunchError."""
        new = self.path + DRAFT
        with _errors_named(self.path):
            data = self.to_json()
            while True:
                with suppress(FileExistsError):
                    os.mkdir(os.path.dirname(new), mode=0o700)
                # Not found: another kernel has ended and removed the folder meanwhile.
                with suppress(FileNotFoundError):
                    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    break
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
                os.replace(new, self.path)
            except BaseException:  # a full disk, for example
                remove_record(os.fsencode(new))
                raise

    def to_json(self) -> bytes:
        record = self
        if not is_text(record.connection_file):
            name = os.path.basename(record.connection_file)
            record = msgspec.structs.replace(record, connection_file=name)
        data = msgspec.json.encode(record)
        if len(data) > LONGEST_FILE:
            data = msgspec.json.encode(msgspec.structs.replace(record, command=()))
        return data

    def remove(self) -> None:
        """Remove the record, after all other files are removed; more than once is fine."""
        remove_claims(self.path)
        remove_record(os.fsencode(self.path))

    def clear_up(self, *, only_if_free: bool = False, waits: bool = False) -> bool:
        """End the processes of the kernel, and remove the files; return whether that was done.

        A running process that cannot be identified as the kernel's is logged; all is left as it is.

        Args:
            only_if_free: whether to leave a kernel alone that a program has just adopted.
            waits: whether to block until the killed processes have ended, for at most a second.

        Raises:
            OSError: there are too few file descriptors to examine processes.
        """
        require_descriptors(_TO_LOOK_AT_A_PROCESS)
        process = self.process
        killed: set[int] = set()
        if process is not None and process.is_here and process.started and not process.is_gone:
            if not self.is_of(process.pid):
                leave_alone(self.path, f"process {process.pid} is not of kernel {self.kernel_id}")
                return False
            if only_if_free and not self.ownership.claim_leftover():
                return False
            kill_group(process.pid, process.started)
            killed.add(process.pid)
        killed |= kill_members({self.kernel_id.encode()})
        if waits:
            wait_for_ends(killed)
        remove_files(self.files)
        self.remove()
        return True

    def is_of(self, pid: int) -> bool:
        """Return whether a process can be identified as the kernel's. Linux only.

        Raises:
            OSError: there are too few file descriptors to examine the process.
        """
        return belongs_to_kernel(pid, self.kernel_id.encode(), os.fsencode(self.connection_file))

    @property
    def files(self) -> tuple[bytes, ...]:
        """The paths of the files and folders to remove with the kernel."""
        drafts = self.connection_file + DRAFT, self.path + DRAFT
        paths = self.connection_file, *drafts, self.socket_folder, *self.control_groups
        return tuple(map(os.fsencode, filter(None, paths)))


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
    """Clear up after programs that have died, once in the life of this program.

    Raises:
        OSError: there are too few file descriptors; the next call clears up.
    """
    folder = _folder()
    if folder in _swept:
        return
    _swept.add(folder)
    try:
        _sweep(folder)
    except OSError:
        _swept.discard(folder)
        raise


def _sweep(folder: str) -> None:
    records = [(path, record, record.is_abandoned) for path, record in _records(folder)]
    # Only a part of a kernel's id is in the name of the folder.
    in_use = {record.socket_folder for _, record, is_abandoned in records if not is_abandoned}
    for path, record, is_abandoned in records:
        if not is_abandoned:
            continue
        if record.socket_folder in in_use - {None}:
            leave_alone(path, "its folder of sockets is that of another kernel")
        elif record.clear_up(only_if_free=True) and path != record.path:
            remove_record(os.fsencode(path))  # the draft of a record
    remove_lone_claims(folder)
    parent = os.path.dirname(folder)
    if records_fault(parent) is None:
        for path in _old_drafts(folder, is_record_draft):
            remove_record(os.fsencode(path))
        for path in _old_drafts(parent, is_connection_draft):
            remove_files([os.fsencode(path)])


def read_records(folder: str | None = None) -> list[Record]:
    """Return the records of all kernels in a Jupyter runtime folder; some may have ended.

    Records that are not trusted are logged, once each, and left out.

    Args:
        folder: the runtime folder, Jupyter's own by default.

    Raises:
        DiscoveryError: there are too few file descriptors to read them.
    """
    try:
        return [record for path, record in _records(_folder(folder)) if path == record.path]
    except OSError as error:
        words = shortage(error) or error
        raise DiscoveryError(f"the records of kernels cannot be read: {words}") from error


def records_fault(folder: str | None = None) -> str | None:
    """Return why the records in a Jupyter runtime folder are not trusted; None if they are.

    Args:
        folder: the runtime folder, Jupyter's own by default.
    """
    path = _folder(folder)
    parent = os.path.dirname(path)
    return folder_fault(parent, private=False) or folder_fault(path, private=True)


def _records(folder: str) -> Iterator[tuple[str, Record]]:
    parent = os.path.dirname(folder)
    if (fault := records_fault(parent)) is not None:
        if _paths(folder):
            leave_alone(folder, fault)
        return
    for path in _paths(folder):
        if is_claim(os.path.basename(path)):
            continue
        try:
            record = _read(path, parent)
        except FileNotFoundError:
            continue  # removed meanwhile
        except (OSError, ValueError, RecursionError) as error:
            if shortage(error) is not None:
                raise
            if not (path.endswith(DRAFT) and isinstance(error, msgspec.DecodeError)):
                leave_alone(path, (isinstance(error, OSError) and error.strerror) or error)
        else:
            yield path, record


def _read(path: str, parent: str) -> Record:
    """Read a record, and check that the files are those of the kernel in the record's name.

    Raises:
        OSError: the record cannot be read, or another user may have written the record.
        ValueError: the file is not a record, or not a record of this kernel.
    """
    kernel_id = kernel_of_record(os.path.basename(path))
    if kernel_id is None:
        raise ValueError("its name is not that of a record")
    record = msgspec.json.decode(read_own_file(path), type=Record)
    if record.kernel_id != kernel_id:
        raise ValueError(f"it is about another kernel, {record.kernel_id[:100]!r}")
    connection_file = os.path.join(parent, connection_file_name(kernel_id))
    written_in, name = os.path.split(os.path.join(parent, record.connection_file))
    is_here = written_in == parent or os.path.realpath(written_in) == os.path.realpath(parent)
    if name != os.path.basename(connection_file) or not is_here:
        raise ValueError(f"it names another connection file, {record.connection_file[:200]!r}")
    socket_folder = record.socket_folder
    if socket_folder == os.path.join(written_in, socket_folder_name(kernel_id)):
        socket_folder = os.path.join(parent, socket_folder_name(kernel_id))
    if socket_folder is not None and socket_folder not in socket_folders(kernel_id, parent):
        raise ValueError(
            f"it names another folder of sockets, {socket_folder[:200]!r}, which is neither in the "
            "runtime folder nor in the temporary folder of this program (TMPDIR)"
        )
    if any(os.path.basename(path) != CONTROL_GROUP + kernel_id for path in record.control_groups):
        raise ValueError("it names a control group of another kernel")
    return msgspec.structs.replace(
        record, connection_file=connection_file, socket_folder=socket_folder
    )


def _old_drafts(folder: str, is_draft: Callable[[str], bool]) -> Iterator[str]:
    for path in _paths(folder):
        if is_draft(os.path.basename(path)) and is_own_file(path):
            with suppress(OSError):  # removed meanwhile
                if time.time() - os.stat(path).st_mtime > _DRAFT_SECONDS:
                    yield path


def _paths(folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in os.listdir(folder)]
    except OSError as error:
        if shortage(error) is not None:
            raise
        return []  # there are no kernels


def _folder(folder: str | None = None) -> str:
    return os.path.join(os.path.abspath(folder or runtime_folder()), _FOLDER)
