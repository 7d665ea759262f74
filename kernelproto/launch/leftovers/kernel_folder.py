"""KernelFolder: the private folder of a kernel that runs in a container or a batch job.

The folder has the record of the kernel, the claims of its owners (see claims.py), the connection
file, and the files of the provider. The folder is made before the container or job, and removed
afterwards, so a kernel with an interrupted launch can be found.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Self

import anyio.to_thread
import msgspec
from jupyter_core.paths import secure_write

from kernelproto.concurrency.shield import to_the_end
from kernelproto.exceptions import DiscoveryError, LaunchError
from kernelproto.folder_removal import remove_folder
from kernelproto.launch.address.paths import DRAFT
from kernelproto.launch.leftovers.claims import Ownership
from kernelproto.launch.own_files import folder_fault, read_own_file
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.wire.connection import ConnectionInfo

_RECORD = "record.json"
_CONNECTION = "connection.json"
_OWNER = "owner.json"

# Another program may remove an empty parent folder.
_ATTEMPTS = 10


class FolderRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The record of a kernel.

    Args:
        kernel_id: a UUID.
        kernel_type: ``provider/name``.
        owner: the program that has launched the kernel.
        detached: whether the kernel outlives the owner.
        command: the command line of the kernel.
        interrupt_mode: ``"signal"`` or ``"message"``.
        place: the name of the container, or the id of the job.
        listed_as: the id under which other programs find the kernel, "" for *kernel_id*.
    """

    kernel_id: str
    kernel_type: str
    owner: ProcessId
    detached: bool
    command: tuple[str, ...]
    interrupt_mode: str
    place: str = ""
    listed_as: str = ""


class KernelFolder:
    """The private folder of one kernel. All methods block, so call them in a thread.

    Attributes:
        path: the absolute path.
        record: the record of the kernel.
    """

    def __init__(self, path: str, record: FolderRecord) -> None:
        self.path = path
        self.record = record

    @classmethod
    def create(cls, base: str, record: FolderRecord) -> Self:
        """Make the folder of a new kernel, owned by this program.

        Args:
            base: the folder of all these kernels; a missing folder is made.
            record: the record.

        Raises:
            LaunchError: the folder cannot be made, or other users may write to *base*.
        """
        path = os.path.join(base, record.kernel_id)
        try:
            for attempt in range(_ATTEMPTS):
                os.makedirs(base, mode=0o700, exist_ok=True)
                try:
                    os.mkdir(path, mode=0o700)
                    break
                except FileNotFoundError:
                    if attempt == _ATTEMPTS - 1:
                        raise
            fault = folder_fault(base, private=True)
            if fault is not None:
                os.rmdir(path)
                raise LaunchError(f"the folder of the kernels is not private: {fault}")
            folder = cls(path, record)
            try:
                folder.write_record(record)
            except BaseException:
                folder.remove()
                raise
            return folder
        except (OSError, RuntimeError, ValueError) as error:
            raise LaunchError(f"cannot make the folder of a kernel, {path!r}: {error}") from error

    @classmethod
    def open(cls, path: str) -> Self:
        """Return the folder of a kernel that any program of this user has made.

        Raises:
            DiscoveryError: there is no such folder, or the record cannot be trusted or read.
        """
        fault = folder_fault(path, private=True)
        if fault is not None:
            raise DiscoveryError(f"the folder of the kernel is not trusted: {fault}")
        record = os.path.join(path, _RECORD)
        try:
            return cls(path, msgspec.json.decode(read_own_file(record), type=FolderRecord))
        except FileNotFoundError:
            raise DiscoveryError(f"the kernel has ended: {path!r} does not exist") from None
        except (OSError, ValueError) as error:
            raise DiscoveryError(f"cannot read the record {record!r}: {error}") from error

    @classmethod
    def all_in(cls, base: str) -> Iterator[Self]:
        """Yield the folders of all kernels in *base* with readable records."""
        try:
            names = sorted(os.listdir(base))
        except OSError:
            return
        for name in names:
            with suppress(DiscoveryError):
                folder = cls.open(os.path.join(base, name))
                if folder.record.kernel_id == name:
                    yield folder

    @classmethod
    def listed_in(cls, base: str, kernel_id: str) -> list[Self]:
        """Return the folders of the kernels in *base* that are listed under an id.

        Args:
            base: the folder of all these kernels.
            kernel_id: the launch parameter ``listed_as`` of the launch.
        """
        return [
            folder
            for folder in cls.all_in(base)
            if kernel_id == (folder.record.listed_as or folder.record.kernel_id)
        ]

    @property
    def ownership(self) -> Ownership:
        """The program that owns the kernel."""
        record = self.record
        return Ownership(self.file(_OWNER), record.kernel_id, record.owner, record.detached)

    @property
    def info(self) -> ConnectionInfo:
        """The contents of the connection file.

        Raises:
            DiscoveryError: the file cannot be read.
            RemoteProtocolError: the file is not a connection file.
        """
        try:
            return ConnectionInfo.from_json(self.read(_CONNECTION))
        except OSError as error:
            raise DiscoveryError(f"cannot read {self.file(_CONNECTION)!r}: {error}") from error

    def file(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return os.path.join(self.path, name)

    def read(self, name: str) -> bytes:
        """Return the contents of a file that belongs to this user and is no symbolic link.

        Raises:
            OSError: the file cannot be read.
        """
        return read_own_file(self.file(name))

    def write(self, name: str, text: Callable[[], bytes]) -> None:
        """Write a file, readable by this user only, in one step.

        Args:
            name: the name of the file.
            text: returns the contents, which may have keys: tracebacks show variables.

        Raises:
            OSError: the file cannot be written.
            RuntimeError: the file system does not keep the permissions of the file.
        """
        path = self.file(name)
        with secure_write(path + DRAFT, binary=True) as file:
            file.write(text())
        os.replace(path + DRAFT, path)

    def write_record(self, record: FolderRecord) -> None:
        """Replace the record; exceptions as in write()."""
        self.write(_RECORD, lambda: msgspec.json.encode(record))
        self.record = record

    def write_info(self, info: ConnectionInfo) -> None:
        """Write the connection file with which programs connect; exceptions as in write()."""
        self.write(_CONNECTION, info.to_json)

    def remove(self) -> None:
        """Remove the folder, and an empty parent; more than once is fine."""
        # The record goes last: with the record, another program can remove the rest.
        with suppress(OSError):
            for name in os.listdir(self.path):
                if name != _RECORD:
                    _remove(self.file(name))
        with suppress(OSError):
            remove_folder(self.path)
        with suppress(OSError):
            os.rmdir(os.path.dirname(self.path))


@asynccontextmanager
async def claimed(folder: KernelFolder) -> AsyncGenerator[None]:
    """Claim the kernel of a folder; release the kernel if the block fails.

    Raises:
        KernelInUse: a running program owns the kernel.
        DiscoveryError: the claim cannot be written.
    """
    await anyio.to_thread.run_sync(folder.ownership.claim)
    try:
        yield
    except BaseException:

        def release() -> None:
            with suppress(DiscoveryError):  # the claim is void when this program has ended
                folder.ownership.release()

        await to_the_end(lambda: anyio.to_thread.run_sync(release))
        raise


def _remove(path: str) -> None:
    with suppress(OSError):
        if os.path.isdir(path) and not os.path.islink(path):
            remove_folder(path)
        else:
            os.unlink(path)
