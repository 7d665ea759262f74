"""The running kernels of this user, found by their connection files and records.

kernelproto writes a record for each kernel that it starts, with the kernel's process and owner.
Kernels of other programs have only a connection file. On Linux their process is found by the
command line, which contains the path of that file. On other systems the process of such a kernel is
unknown, and so are the memory and the end of the process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from kernelproto.exceptions import DiscoveryError, KernelProtoError, RemoteProtocolError
from kernelproto.launch.address.paths import runtime_folder
from kernelproto.launch.leftovers.records import Record, read_records
from kernelproto.launch.leftovers.running import read_connection_file
from kernelproto.launch.own_files import is_own_file, leave_alone
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.wire.connection import ConnectionInfo

# A running kernel answers a heartbeat within this time, even on a busy machine.
_HEARTBEAT_SECONDS = 2.0

# So many kernels are examined at the same time; each takes several sockets.
_CONCURRENT = 16

_CONNECTION_FILE = re.compile(r"kernel-(.+)\.json")

ProcessState = Literal["starting", "alive", "silent", "dead", "elsewhere", "unknown"]


@dataclass(frozen=True, kw_only=True)
class RunningKernel:
    """A kernel that has a connection file.

    Attributes:
        kernel_id: the id in the record; without a record, the id in the name of the connection
            file.
        kernel_type: the kernel type; "" if unknown.
        connection_file: the path of the connection file.
        started: when the file was written, in seconds since the epoch.
        process: the process; None if unknown.
        memory: the resident memory of the process in bytes; None if unknown.
        record: the record that kernelproto has written; None for kernels of other programs.
        state: "starting" before the kernel has a process, "alive" if the kernel answers heartbeats,
            "silent" if the kernel runs without an answer, "dead" if only files are left,
            "elsewhere" on another machine or in another container, "unknown" before
            ``with_states``.
    """

    kernel_id: str
    kernel_type: str
    connection_file: str
    started: float
    process: ProcessId | None
    memory: int | None
    record: Record | None
    state: ProcessState = "unknown"

    @property
    def owner(self) -> str:
        """The program that runs the kernel, for people."""
        if self.record is None:
            return "another program"
        if self.owner_pid is not None and self.record.host is not None:
            return f"host {self.owner_pid} (detached)"
        if self.owner_pid is not None:
            return f"process {self.owner_pid}" + " (detached)" * self.record.detached
        return "none (detached)" if self.record.detached else "none (program died)"

    @property
    def owner_pid(self) -> int | None:
        """The process id of the program that owns the kernel; None if unknown or without owner."""
        holder = None if self.record is None else self.record.ownership.holder
        return None if holder is None else holder.pid


def find_running_kernels() -> list[RunningKernel]:
    """Return the kernels with a connection file in Jupyter's runtime folder, oldest first.

    Files that belong to another user or are not regular are logged and skipped.
    """
    folder = runtime_folder()
    records = {os.path.realpath(record.connection_file): record for record in read_records(folder)}
    processes = _processes_by_connection_file()
    kernels: list[RunningKernel] = []
    with suppress(OSError):  # the folder does not exist
        for name in os.listdir(folder):
            if (match := _CONNECTION_FILE.fullmatch(name)) is not None:
                path = os.path.join(folder, name)
                if not is_own_file(path):
                    if os.path.lexists(path):  # otherwise the file was just removed
                        leave_alone(path, "it is not a regular file of this user")
                    continue
                record = records.get(os.path.realpath(path))
                with suppress(OSError):  # the kernel has just ended
                    kernels.append(_describe(match[1], path, record, processes))
    return sorted(kernels, key=lambda kernel: kernel.started)


def find_process(connection_info: ConnectionInfo) -> ProcessId | None:
    """Return the process of a running kernel with this connection; None if unknown."""
    for kernel in find_running_kernels():
        with suppress(DiscoveryError, RemoteProtocolError):  # the kernel has just ended
            if read_connection_file(kernel.connection_file) == connection_info:
                process = kernel.process
                return process if process is not None and process.is_here else None
    return None


async def with_states(kernels: list[RunningKernel]) -> list[RunningKernel]:
    """Return the same kernels with their states, after sending each a heartbeat."""
    import anyio  # completion does not need anyio

    known = {kernel.connection_file: kernel for kernel in kernels}
    limit = anyio.Semaphore(_CONCURRENT)

    async def ask(kernel: RunningKernel) -> None:
        async with limit:
            known[kernel.connection_file] = replace(kernel, state=await _state(kernel))

    async with anyio.create_task_group() as tasks:
        for kernel in kernels:
            tasks.start_soon(ask, kernel)
    return list(known.values())


async def _state(kernel: RunningKernel) -> ProcessState:
    record, process = kernel.record, kernel.process
    if record is not None and process is None:
        return "dead" if record.owner.is_gone else "starting"
    if process is not None and process.is_gone:
        return "dead"
    if process is not None and not process.is_here:
        return "elsewhere"
    import anyio

    from kernelproto.client.client import open_client

    with anyio.move_on_after(_HEARTBEAT_SECONDS), suppress(KernelProtoError):
        async with open_client(read_connection_file(kernel.connection_file)) as client:
            await client.heartbeat()
            return "alive"
    # A silent kernel without a known process counts as dead.
    return "dead" if process is None else "silent"


def _describe(
    kernel_id: str, path: str, record: Record | None, processes: Mapping[str, int]
) -> RunningKernel:
    kernel_type = "" if record is None else record.kernel_name
    if record is None:
        with suppress(DiscoveryError, RemoteProtocolError):
            kernel_type = read_connection_file(path).kernel_name or ""
    elif record.listed_as:
        kernel_id = record.listed_as
    process = None if record is None else record.process
    if process is None and (pid := processes.get(os.path.realpath(path))) is not None:
        process = ProcessId.of(pid)
    return RunningKernel(
        kernel_id=kernel_id,
        kernel_type=kernel_type,
        connection_file=path,
        started=os.stat(path).st_mtime,
        process=process,
        memory=None if process is None else _memory(process),
        record=record,
    )


def _memory(process: ProcessId) -> int | None:
    """Return the resident memory of a process in bytes."""
    if process.is_here and not process.is_gone:
        with suppress(OSError), open(f"/proc/{process.pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _processes_by_connection_file() -> dict[str, int]:
    """Return the pids of this user's processes by the connection file on the command line."""
    found: dict[str, int] = {}
    with suppress(OSError):  # no /proc on this system
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError):  # the process has ended
                if os.stat(f"/proc/{name}").st_uid != os.geteuid():
                    continue  # other users' processes may name any file
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = os.fsdecode(file.read()).split("\0")
                for word in words:
                    if _CONNECTION_FILE.fullmatch(os.path.basename(word)):
                        found.setdefault(os.path.realpath(word), int(name))
    return found
