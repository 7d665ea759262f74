"""From a command line to a kernel's process, with all that belongs to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.address.connection_file import ConnectionFile
from kernelproto.launch.address.paths import is_text
from kernelproto.launch.leftovers.records import Record
from kernelproto.launch.leftovers.watchdog import Watch
from kernelproto.launch.local import InterruptMode, LocalKernelManager
from kernelproto.launch.output.file import OutputFile
from kernelproto.launch.output.forward import Forwarder, open_forwarder, open_output
from kernelproto.launch.process.interface import Spawn, StartedProcess
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.process.open_files import lower_open_files
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.programs.watchdog import KERNEL_ID_VARIABLE

if sys.platform == "win32":
    from functools import partial

    from kernelproto.launch.process.windows import JobProcess, SystemWin32
    from kernelproto.launch.process.windows import ThreadedTail as OutputTail

    ProcessGroup = partial(JobProcess, win32=SystemWin32())
else:
    from kernelproto.launch.output.tail import OutputTail
    from kernelproto.launch.process.posix import ProcessGroup

_PARENT_VARIABLE = "JPY_PARENT_PID"


@dataclass(frozen=True)
class ProcessOptions:
    """What there is to decide about a kernel's process.

    Args:
        kernel_name: the kernel type, for people.
        interrupt_mode: ``"signal"`` or ``"message"``.
        limits: what the process may use.
        detached: whether it outlives this program.
        output: where standard output and standard error go, besides the tail of them that is kept:
            a callable that takes bytes and is called in a thread, a descriptor or an open file, or
            a path. For a detached kernel there is no other tail than that of the file at this path,
            and it cannot be a callable.
        spawn: starts the process; by default as a program of its own.
    """

    kernel_name: str
    interrupt_mode: InterruptMode
    limits: Limits | None = None
    detached: bool = False
    output: object = None
    spawn: Spawn | None = None


async def start_process(
    kernel_id: str,
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: str | None,
    files: ConnectionFile,
    options: ProcessOptions,
) -> LocalKernelManager:
    """Start the process of a kernel; record it, limit it, and have it watched.

    Whoever gets the manager calls its cleanup(). When this raises, nothing is left of the attempt
    but the connection file, which is the caller's until then.

    Args:
        kernel_id: a UUID.
        command: the command line, filled in.
        env: the kernel's environment; JPY_PARENT_PID and KERNELPROTO_KERNEL_ID are added.
        cwd: the working directory; None means the caller's.
        files: the connection file and what belongs to it.
        options: all the rest.

    Raises:
        LaunchError: a limit cannot be set, the output is nothing to write to, or the record cannot
            be written.
        OSError: the command cannot be run.
        RuntimeError: no thread can be started.
        ValueError: an argument or a variable cannot be handed to a program.
    """
    limits, detached = options.limits, options.detached
    if limits is not None:
        limits.check()
    record = Record(
        kernel_id=kernel_id,
        kernel_name=options.kernel_name,
        command=tuple(map(_readable, command)),
        interrupt_mode=options.interrupt_mode,
        connection_file=files.path,
        socket_folder=files.socket_folder,
        output=_path(options.output) if detached else None,
        detached=detached,
        owner=ProcessId.of(os.getpid()),
    )
    with ExitStack() as undo:
        undo.callback(record.remove)
        record.write()
        forwarder: Forwarder | None = None
        kept: OutputTail | OutputFile
        if detached:
            kept = _open_file(options.output)
        else:
            if options.output is not None:
                forwarder = open_forwarder(options.output)
                undo.callback(forwarder.end)
            kept = OutputTail(forwarder)
        undo.callback(kept.close)
        watch = None
        if sys.platform != "win32" and not detached:
            watch = Watch(record.charge())
            undo.callback(watch.close)
        with kept.write_end:
            variables = _environment(env, kernel_id, detached=detached)
            process: StartedProcess
            if options.spawn is None:
                process = ProcessGroup(command, env=variables, cwd=cwd, output=kept.write_end)
            else:
                process = await options.spawn(
                    command, env=variables, cwd=cwd, output=kept.write_end
                )
        undo.callback(process.abort)
        lower_open_files(process.pid)
        if limits is not None:
            limits.apply(process.pid)
        identity = ProcessId.of(process.pid)
        if watch is not None:
            watch.group_started(identity.pid, identity.started)
            process.before_reaping = watch.group_ended
        record = record.of_process(identity)
        record.write()
        undo.pop_all()
    return LocalKernelManager(
        record,
        process=process,
        output=kept,
        connection_file=files,
        interrupt_mode=options.interrupt_mode,
        watch=watch,
        limits=limits,
        forwarder=forwarder,
    )


def _environment(env: Mapping[str, str], kernel_id: str, *, detached: bool) -> dict[str, str]:
    environment = {**env, KERNEL_ID_VARIABLE: kernel_id, _PARENT_VARIABLE: str(os.getpid())}
    if detached:
        del environment[_PARENT_VARIABLE]
    return environment


def _open_file(output: object) -> OutputFile:
    """Open what a detached kernel writes to: a file, not a pipe to this program."""
    if callable(output):
        raise InvalidLaunchParameter(
            "launch parameter 'output' cannot be a callable for a detached kernel, which outlives "
            "this program; give it a file or a path"
        )
    return OutputFile(_path(output), open_output(os.devnull if output is None else output))


def _path(output: object) -> str | None:
    if not isinstance(output, str):
        return None
    path = os.path.abspath(output)
    if not is_text(path):
        raise InvalidLaunchParameter(
            f"launch parameter 'output' must be a path that is valid UTF-8, not {path!r}: it is "
            "written to the record of the kernel"
        )
    return path


def _readable(argument: str) -> str:
    """Return an argument as text, which a file name need not be."""
    return os.fsencode(argument).decode("utf-8", "replace")
