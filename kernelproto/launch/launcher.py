"""Launching a kernel as a process on this machine."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack

import anyio

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.concurrency.turns import turn
from kernelproto.exceptions import InvalidLaunchParameter, KernelExitedEarly, LaunchError
from kernelproto.launch.address.connection_file import (
    LOOPBACK,
    ConnectionFile,
    Transport,
    new_registration,
    require_socket_folder,
)
from kernelproto.launch.failures import (
    NOT_REGISTERED,
    exited_early,
    not_ready,
    shortages_named,
)
from kernelproto.launch.leftovers.records import Record, sweep
from kernelproto.launch.local import InterruptMode, LocalKernelManager
from kernelproto.launch.process.interface import Spawn
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.spec.parameters import fill_in
from kernelproto.launch.start import ProcessOptions, start_process
from kernelproto.transport.registration import RegistrationSocket, listen_for_registration
from kernelproto.wire.connection import ConnectionInfo
from kernelproto.wire.registration import Registration

# For callers that set no deadline of their own. Until then a kernel loads its libraries.
_REGISTRATION_SECONDS = 120.0

# Giving up so long before the caller's deadline is what lets the caller know why.
_LAST_WORDS_SECONDS = 0.05


async def launch_local(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None = None,
    transport: Transport = "tcp",
    ip: str = LOOPBACK,
    encrypted: bool = False,
    registers: bool = False,
    interrupt_mode: InterruptMode = "signal",
    kernel_name: str = "",
    values: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    detached: bool = False,
    output: object = None,
    spawn: Spawn | None = None,
) -> tuple[ConnectionInfo, LocalKernelManager]:
    """Start a kernel as a process on this machine; it is not ready yet when this returns.

    Whoever gets the manager calls its cleanup(). When this raises, nothing is left of the attempt.

    Args:
        argv: the command line; ``{connection_file}`` and ``{kernel_id}`` in it are filled in.
        env: the kernel's environment; ``start_process`` adds to it.
        cwd: the working directory; None means the caller's.
        transport: ``"tcp"`` or ``"ipc"``.
        ip: the IPv4 address that the kernel is to bind; it has no meaning with ipc.
        encrypted: whether the kernel gets CurveZMQ keys.
        registers: whether the kernel chooses its tcp ports by itself and registers them (JEP 66).
            This then returns when it has, and fails after 2 minutes in which it has not, or just
            before the caller's deadline.
        interrupt_mode: ``"signal"`` or ``"message"``, as the kernelspec says.
        kernel_name: the kernel type, for people.
        values: for other names in braces in *argv*.
        limits: what each process of the kernel may use.
        detached: whether the kernel outlives this program.
        output: where its output goes as well, see launch/forwarder.py.
        spawn: starts the process; by default as a program of its own.

    Raises:
        KernelExitedEarly: the command cannot be run, or the process has ended unregistered.
        KernelNotReady: the kernel has not registered in time.
        InvalidLaunchParameter: the working directory cannot be entered, an argument or variable
            holds what no program can be given, *ip* is no address of this machine, a limit cannot
            be set, or *output* is nothing to write to.
        LaunchError: the connection file or the record cannot be made.
    """
    await turn()
    options = ProcessOptions(kernel_name, interrupt_mode, limits, detached, output, spawn)
    kernel_id = str(uuid.uuid4())

    async def start(files: ConnectionFile) -> LocalKernelManager:
        names = {**(values or {}), "connection_file": files.path, "kernel_id": kernel_id}
        return await _start(kernel_id, fill_in(argv, names), env, cwd, files, options)

    with shortages_named(), ExitStack() as undo:
        sweep()
        # First of all: by its record is found what is left if this program is killed.
        folder = require_socket_folder(kernel_id) if transport == "ipc" else None
        undo.callback(Record.reserve(kernel_id, socket_folder=folder).remove)
        if registers and transport == "tcp":  # sockets in a folder of its own nobody can take away
            registration = new_registration(
                kernel_id, ip=ip, encrypted=encrypted, kernel_name=kernel_name
            )
            launched = await _start_and_register(start, registration)
        else:
            files = ConnectionFile.create(
                kernel_id, transport=transport, ip=ip, encrypted=encrypted, kernel_name=kernel_name
            )
            launched = files.info, await start(files)
        undo.pop_all()
    return launched


async def _start(
    kernel_id: str,
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: str | None,
    files: ConnectionFile,
    options: ProcessOptions,
) -> LocalKernelManager:
    """Start the process; its files are removed if that fails."""
    with ExitStack() as undo:
        undo.callback(files.remove)
        try:
            manager = await start_process(kernel_id, command, env, cwd, files, options)
        except LaunchError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise _launch_error(error, command, cwd) from error
        undo.pop_all()
    return manager


async def _start_and_register(
    start: Callable[[ConnectionFile], Awaitable[LocalKernelManager]], registration: Registration
) -> tuple[ConnectionInfo, LocalKernelManager]:
    with ExitStack() as stack:
        try:
            socket = stack.enter_context(listen_for_registration())
        except OSError as error:
            raise LaunchError(
                f"cannot listen for the registration of a kernel: {error.strerror}"
            ) from error
        files = ConnectionFile.create_for_registration(registration, ip=LOOPBACK, port=socket.port)
        manager = await start(files)
        try:
            files.complete(await _wait_for_registration(manager, registration, socket))
        except BaseException:
            await manager.cleanup()
            raise
    return files.info, manager


async def _wait_for_registration(
    manager: LocalKernelManager, registration: Registration, socket: RegistrationSocket
) -> ConnectionInfo:
    async def fail_at_the_end() -> None:
        raise exited_early(manager, await manager.wait())

    began = anyio.current_time()
    callers_deadline = anyio.current_effective_deadline() - _LAST_WORDS_SECONDS
    with anyio.CancelScope(deadline=min(began + _REGISTRATION_SECONDS, callers_deadline)):
        async with background_tasks() as tasks:
            tasks.start_soon(fail_at_the_end)
            return await socket.answer_first(registration.receive)
    seconds = round(anyio.current_time() - began, 2)
    raise not_ready(manager, "registration", seconds, remedy=NOT_REGISTERED)


def _launch_error(error: Exception, command: Sequence[str], cwd: str | None) -> LaunchError:
    """Say which part of a launch the operating system did not like."""
    if isinstance(error, ValueError):
        return InvalidLaunchParameter(f"{shlex.join(command)!r} cannot be run: {error}")
    if isinstance(error, OSError) and cwd is not None and error.filename == cwd:
        return InvalidLaunchParameter(
            f"the working directory {cwd!r} cannot be entered: {error.strerror}"
        )
    reason = error.strerror if isinstance(error, OSError) else str(error)
    remedy = (
        "; see that it is installed, executable and on PATH"
        if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
        else ""
    )
    return KernelExitedEarly(
        f"cannot run {command[0]!r}: {reason}{remedy} (command line: {shlex.join(command)})",
        command=command,
    )
