"""The running kernels of this user: found by their connection files, known by their records.

kernelproto writes a record for each kernel that it starts, which says whose it is. The kernels of
other programs have a connection file and nothing else; on Linux their process is found by its
command line, which names that file. What only a process tells (its memory, whether it runs) is
therefore not known of every kernel on other systems.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import anyio

from kernelproto.client.client import open_client
from kernelproto.exceptions import DiscoveryError, KernelProtoError, RemoteProtocolError
from kernelproto.launch.address.paths import runtime_folder
from kernelproto.launch.leftovers.records import Record, read_records
from kernelproto.launch.leftovers.running import read_connection_file
from kernelproto.launch.own_files import is_own_file, leave_alone
from kernelproto.launch.process.process_id import ProcessId

# Who runs has answered a heartbeat by then, even where the machine is busy.
_HEARTBEAT_SECONDS = 2.0

# How many kernels are asked at the same time; each takes sockets.
_ASKED_AT_ONCE = 16

_CONNECTION_FILE = re.compile(r"kernel-(.+)\.json")

State = Literal["starting", "alive", "silent", "dead", "elsewhere", "unknown"]


@dataclass(frozen=True, kw_only=True)
class RunningKernel:
    """A kernel that has a connection file.

    Attributes:
        kernel_id: what its program knows it by, as far as there is a record; otherwise what its
            connection file is named by.
        kernel_type: the kernel type, "" where it is not told.
        connection_file: the path.
        started: when the file was written, in seconds since the epoch.
        process: its process, None where it is not known.
        memory: what its process has in memory, in bytes; None where that is not known.
        record: what kernelproto knows of it; None when another program has started it.
        state: "starting" before it has a process, "alive" when it answers heartbeats, "silent" when
            it runs and does not, "dead" when nothing but files is left, "elsewhere" when it runs on
            another machine or in another container, "unknown" when it has not been asked.
    """

    kernel_id: str
    kernel_type: str
    connection_file: str
    started: float
    process: ProcessId | None
    memory: int | None
    record: Record | None
    state: State = "unknown"

    @property
    def owner(self) -> str:
        """Whose it is, in words."""
        if self.record is None:
            return "another program"
        if self.record.detached:
            return "nobody: detached"
        if self.record.owner.is_gone:
            return "nobody: its program has died"
        return f"process {self.record.owner.pid}"


def find_running_kernels() -> list[RunningKernel]:
    """Return the kernels that have a connection file in Jupyter's runtime folder, oldest first.

    What belongs to another user, or is not a regular file, is logged and left out.
    """
    folder = runtime_folder()
    records = {os.path.realpath(record.connection_file): record for record in read_records(folder)}
    processes = _processes_by_connection_file()
    kernels: list[RunningKernel] = []
    with suppress(OSError):  # there is no such folder: there are no kernels
        for name in os.listdir(folder):
            if (match := _CONNECTION_FILE.fullmatch(name)) is not None:
                path = os.path.join(folder, name)
                if not is_own_file(path):
                    if os.path.lexists(path):  # it has not just been removed
                        leave_alone(path, "it is not a regular file of this user")
                    continue
                record = records.get(os.path.realpath(path))
                with suppress(OSError):  # it has just ended
                    kernels.append(_describe(match[1], path, record, processes))
    return sorted(kernels, key=lambda kernel: kernel.started)


async def with_states(kernels: list[RunningKernel]) -> list[RunningKernel]:
    """Return the same kernels, after asking each for a heartbeat."""
    known = {kernel.connection_file: kernel for kernel in kernels}
    limit = anyio.Semaphore(_ASKED_AT_ONCE)

    async def ask(kernel: RunningKernel) -> None:
        async with limit:
            known[kernel.connection_file] = replace(kernel, state=await _state(kernel))

    async with anyio.create_task_group() as tasks:
        for kernel in kernels:
            tasks.start_soon(ask, kernel)
    return list(known.values())


async def _state(kernel: RunningKernel) -> State:
    record, process = kernel.record, kernel.process
    if record is not None and process is None:
        return "dead" if record.owner.is_gone else "starting"
    if process is not None and process.is_gone:
        return "dead"
    if process is not None and not process.is_here:
        return "elsewhere"
    with anyio.move_on_after(_HEARTBEAT_SECONDS), suppress(KernelProtoError):
        async with open_client(read_connection_file(kernel.connection_file)) as client:
            await client.heartbeat()
            return "alive"
    # Without a process there is nobody to be found who could still answer.
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
    """Return what a process has in memory, in bytes."""
    if process.is_here and not process.is_gone:
        with suppress(OSError), open(f"/proc/{process.pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _processes_by_connection_file() -> dict[str, int]:
    """Return the processes of this user whose command line names a connection file."""
    found: dict[str, int] = {}
    with suppress(OSError):  # there is no such list on this system
        for name in filter(str.isdecimal, os.listdir("/proc")):
            with suppress(OSError):  # it has ended
                if os.stat(f"/proc/{name}").st_uid != os.geteuid():
                    continue  # any process may name any file
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    words = os.fsdecode(file.read()).split("\0")
                for word in words:
                    if _CONNECTION_FILE.fullmatch(os.path.basename(word)):
                        found.setdefault(os.path.realpath(word), int(name))
    return found
