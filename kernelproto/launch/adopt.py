"""Adopting a kernel: taking over the process of one that another program has started. Linux only.

Adoption needs a descriptor for a process that is not a child, which Linux has since 5.3.
"""

from __future__ import annotations

import os
import selectors
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO

import anyio.to_thread
import msgspec

from kernelproto.exceptions import DiscoveryError, KernelInUse, RemoteProtocolError
from kernelproto.interfaces import KernelHandle, KernelManager
from kernelproto.launch.leftovers.records import Record, read_records, records_fault
from kernelproto.launch.leftovers.running import find_connection_file, read_connection_file
from kernelproto.launch.local import LocalKernelManager, local_handle
from kernelproto.launch.output.file import FileTail
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.process.signals import SignalledProcess
from kernelproto.launch.programs.watchdog import kill_group, remove_files
from kernelproto.launch.spec.configuration import place_in
from kernelproto.launch.spec.naming import LOCAL
from kernelproto.shortage import shortage
from kernelproto.wire.connection import ConnectionInfo


def find_record(connection: str | ConnectionInfo) -> Record:
    """Find the record of a kernel that kernelproto has started.

    Args:
        connection: the connection file, in any form that read_connection_file() takes; or the
            contents of the file.

    Raises:
        DiscoveryError: there is no connection file, or no record of the kernel.
    """
    if isinstance(connection, ConnectionInfo):
        path, folder = None, None
    else:
        path = os.path.realpath(find_connection_file(connection))
        folder = os.path.dirname(path)
    for record in read_records(folder):
        if path == os.path.realpath(record.connection_file):
            return record
        with suppress(DiscoveryError, RemoteProtocolError):
            if path is None and read_connection_file(record.connection_file) == connection:
                return record
    fault = records_fault(folder)
    reason = fault or "kernelproto did not start it, or the log says why its record is not trusted"
    raise DiscoveryError(
        f"there is no record of a kernel at {path or connection!r}: it has ended, or {reason}; "
        "connect_kernel does without"
    )


async def adopt_local(record: Record) -> tuple[ConnectionInfo, LocalKernelManager]:
    """Adopt a kernel that runs detached, or that has lost its program.

    This program owns the kernel from now on, and no other program can adopt it until detach() or
    the end of this program. The manager works like that of a launched kernel, except that wait()
    returns None: only the program that started the kernel gets the exit status. cleanup() ends the
    kernel; detach() does not.

    Raises:
        KernelInUse: a running program owns the kernel.
        DiscoveryError: the kernel has ended, or runs on another machine, this system does not
            support adoption, or the process in the record cannot be identified as the kernel.
        RemoteProtocolError: the connection file is not valid.
    """
    process = record.process
    if process is None or process.is_gone:
        raise DiscoveryError(f"the kernel {record.kernel_id} has ended")
    if not process.is_here:
        raise DiscoveryError(
            f"the kernel {record.kernel_id} runs on another machine, {process.machine.host!r}, or "
            "in another container"
        )
    record.ownership.claim()
    try:
        files = _Files(record)
        adopted = _AdoptedProcess(record, process)
    except BaseException:
        with suppress(DiscoveryError):  # the claim is void when this program has ended
            record.ownership.release()
        raise
    return files.info, LocalKernelManager(
        record,
        process=adopted,
        output=FileTail(record.output),
        connection_file=files,
        interrupt_mode=record.interrupt_mode,
    )


class LocalHost:
    """This machine, with adoption of kernels by their records; implements Adopts.

    Kernels of all providers that start processes with kernelproto have handles of this host.
    """

    id = LOCAL

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over a kernel of this machine.

        Raises:
            KernelInUse: a running program owns the kernel, perhaps this one.
            DiscoveryError: the kernel has ended, or cannot be adopted.
        """
        place = place_in(handle, _Place)
        record = find_record(place.connection_file)
        if record.kernel_id != place.kernel_id:
            raise DiscoveryError(f"the kernel {place.kernel_id} has ended")
        return await adopt_local(record)

    async def find_launched(self, kernel_id: str) -> KernelHandle | None:
        """Return the handle of the kernel that runs under an id; None if there is none.

        A program may be killed between the launch of a kernel and the storage of the handle.
        Leftovers of ended launches and kernels under this id are removed.

        Args:
            kernel_id: the launch parameter ``listed_as`` of the kernel's launch.

        Raises:
            KernelInUse: a running program is launching the kernel.
            DiscoveryError: there are too few file descriptors to find out.
        """
        return await anyio.to_thread.run_sync(_find_launched, kernel_id)


def _find_launched(kernel_id: str) -> KernelHandle | None:
    found: list[Record] = []
    for record in read_records():
        if kernel_id != (record.listed_as or record.kernel_id):
            continue
        with _shortage_named(kernel_id):
            if record.is_abandoned and (record.process is None or record.process.is_gone):
                record.clear_up(only_if_free=True, waits=True)
            elif record.process is not None:
                if record.process.is_here:
                    found.append(record)
            elif record.owner.is_here:
                raise KernelInUse(
                    f"the kernel {kernel_id} is being launched by process {record.owner.pid}",
                    pid=record.owner.pid,
                )
    # A restart ends the old process first, so there is one; of several, the last one counts.
    found.sort(key=lambda record: int(record.process.started or 0) if record.process else 0)
    for record in found[:-1]:
        with _shortage_named(kernel_id):
            record.clear_up(only_if_free=True, waits=True)
    return local_handle(found[-1]) if found else None


@contextmanager
def _shortage_named(kernel_id: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise DiscoveryError(
            f"the processes of kernel {kernel_id} cannot be examined: {shortage(error) or error}"
        ) from error


class _Place(msgspec.Struct):
    """The place in a handle of this host."""

    kernel_id: str
    connection_file: str


class _Files:
    """The files of an adopted kernel."""

    def __init__(self, record: Record) -> None:
        self.path = record.connection_file
        self.info = read_connection_file(self.path)
        self._record = record

    def remove(self) -> None:
        remove_files(self._record.files)


class _AdoptedProcess(SignalledProcess):
    """A process that is not a child of this one, with its group.

    The parent of the process reaps it. A signal could reach another process only if the process
    ended, was reaped, and its number was reused between the check of the descriptor and the signal.
    """

    def __init__(self, record: Record, process: ProcessId) -> None:
        with ExitStack() as undo:
            try:
                sign = undo.enter_context(FileIO(os.pidfd_open(process.pid), "r"))
                is_of_kernel = record.is_of(process.pid)
            except ProcessLookupError:
                raise DiscoveryError("the kernel has just ended") from None
            except (AttributeError, OSError) as error:
                words = shortage(error) or f"not possible on this system ({error})"
                raise DiscoveryError(f"the kernel cannot be adopted: {words}") from error
            if process.is_gone:  # and this is the descriptor of another process
                raise DiscoveryError("the kernel has just ended")
            if not is_of_kernel:
                raise DiscoveryError(
                    f"process {process.pid} cannot be identified as the kernel {record.kernel_id}: "
                    "neither its environment nor its command line names the kernel; kernelproto "
                    f"did not write the record {record.path!r}, or the process has changed both"
                )
            undo.pop_all()
        super().__init__(process.pid, sign)
        self._started = process.started
        self._ended = False

    def poll(self) -> bool:
        if not self._ended:
            with selectors.PollSelector() as selector:
                selector.register(self._sign, selectors.EVENT_READ)
                self._ended = bool(selector.select(0))
            if self._ended:
                kill_group(self.pid, self._started)
        return self._ended

    def close(self) -> None:
        if self.poll():
            self._sign.close()

    def release(self) -> None:
        self._sign.close()
