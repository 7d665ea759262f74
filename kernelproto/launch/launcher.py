"""Performing a LaunchPlan: the files, the process, the registration."""

from __future__ import annotations

import os
import shlex
import sys
import uuid
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import anyio
import anyio.to_thread
import msgspec

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.concurrency.turns import turn
from kernelproto.exceptions import InvalidLaunchParameter, KernelExitedEarly, LaunchError
from kernelproto.launch.address.connection_file import (
    LOOPBACK,
    ConnectionFile,
    new_registration,
    require_socket_folder,
)
from kernelproto.launch.address.paths import (
    choose_socket_folder,
    is_text,
    kernel_of_connection_file,
)
from kernelproto.launch.failures import (
    NOT_REGISTERED,
    exited_early,
    not_ready,
    shortages_named,
)
from kernelproto.launch.leftovers.records import Record, sweep
from kernelproto.launch.leftovers.watchdog import Watch
from kernelproto.launch.local import LocalKernelManager
from kernelproto.launch.output.file import OutputFile
from kernelproto.launch.output.forward import Forwarder, open_forwarder, open_output
from kernelproto.launch.process.interface import StartedProcess
from kernelproto.launch.process.limits import Limits, lower_open_files
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.process.sandbox import SandboxLimits
from kernelproto.launch.programs.watchdog import KERNEL_ID_VARIABLE
from kernelproto.launch.spec.plan import Host, LaunchPlan
from kernelproto.transport.curve import has_curve
from kernelproto.transport.registration import RegistrationSocket, listen_for_registration
from kernelproto.wire.connection import ConnectionInfo
from kernelproto.wire.registration import Registration

if TYPE_CHECKING:
    from kernelproto.launch.process.control_groups import ControlGroups  # Linux only

if sys.platform == "win32":
    from functools import partial

    from kernelproto.launch.process.windows import JobProcess, SystemWin32
    from kernelproto.launch.process.windows import ThreadedTail as OutputTail

    ProcessGroup = partial(JobProcess, win32=SystemWin32())
else:
    from kernelproto.launch.output.tail import OutputTail
    from kernelproto.launch.process.posix import ProcessGroup

_PARENT_VARIABLE = "JPY_PARENT_PID"

# For callers without a deadline of their own. A kernel loads libraries before registering.
_REGISTRATION_SECONDS = 120.0

# The launch gives up this long before the caller's deadline, so that the error has the reason.
_MARGIN_SECONDS = 0.05

# All ids have the same length, so there is room for the sockets of every kernel or of none.
_ANY_KERNEL_ID = "0" * 36


def this_host() -> Host:
    """Return the facts of this machine and this program that a plan depends on."""
    return Host(
        python=sys.executable,
        prefix=sys.prefix,
        has_ipc=os.name == "posix" and choose_socket_folder(_ANY_KERNEL_ID) is not None,
        has_curve=has_curve(),
    )


async def launch(plan: LaunchPlan) -> tuple[ConnectionInfo, LocalKernelManager]:
    """Start a kernel as a process on this machine; the kernel need not be ready on return.

    The caller has to call the manager's cleanup(). If this raises, nothing is left of the attempt.
    A kernel that registers has done so when this returns; the launch fails after 2 minutes without
    a registration, or just before the caller's deadline.

    Args:
        plan: how the kernel is launched. JPY_PARENT_PID and KERNELPROTO_KERNEL_ID are added to the
            environment.

    Raises:
        KernelExitedEarly: the command cannot be run, or the process ended before the registration.
        KernelNotReady: the kernel did not register in time.
        InvalidLaunchParameter: the working directory cannot be entered, an argument or variable
            cannot be passed to a program, the ip is not an address of this machine, a limit cannot
            be set, or the output cannot be written to.
        LaunchError: the connection file or the record cannot be written.
        DiscoveryError: the connection file of the plan cannot be read.
        RemoteProtocolError: the connection file of the plan is not valid.
    """
    await turn()
    if plan.sandbox is not None:
        from kernelproto.launch.process.confinement import is_known_possible, require_sandbox

        if not is_known_possible(plan.sandbox):
            await anyio.to_thread.run_sync(require_sandbox, plan.sandbox)
    # A program that has written the file knows the kernel by the id in the file name.
    known_id = kernel_of_connection_file(plan.connection_file) if plan.connection_file else None
    kernel_id = known_id or str(uuid.uuid4())
    with shortages_named(), ExitStack() as undo:
        sweep()
        launch = _Launch.begin(plan, kernel_id, undo)
        if plan.connection_file is not None:
            files = ConnectionFile.given(kernel_id, plan.connection_file)
            launched = files.info, await _start(launch, files)
        # Other programs can take tcp ports, but not the sockets in the kernel's own folder.
        elif plan.registers and plan.transport == "tcp":
            launched = await _start_and_register(launch)
        else:
            files = ConnectionFile.create(
                kernel_id,
                transport=plan.transport,
                ip=plan.ip,
                encrypted=plan.encrypted,
                kernel_name=plan.kernel_type,
            )
            launched = files.info, await _start(launch, files)
        undo.pop_all()
    return launched


class _Launch(NamedTuple):
    """A launch that has begun: the kernel is watched and recorded, and has no files yet.

    Attributes:
        plan: how the kernel is launched.
        record: the record, without a process.
        groups: the control groups of the sandbox, not made yet; None without a sandbox.
        watch: has the watchdog end the kernel with this program; None if the kernel goes on.
    """

    plan: LaunchPlan
    record: Record
    groups: ControlGroups | None
    watch: Watch | None

    @classmethod
    def begin(cls, plan: LaunchPlan, kernel_id: str, undo: ExitStack) -> _Launch:
        """Begin to watch the kernel, and write the record.

        If this program is killed, the watchdog removes everything that is made afterwards. Without
        a watchdog, the next program does so, by the record.
        """
        makes_sockets = plan.transport == "ipc" and plan.connection_file is None
        groups = _control_groups(plan, kernel_id)
        record = Record.of_launch(
            kernel_id,
            socket_folder=require_socket_folder(kernel_id) if makes_sockets else None,
            control_groups=() if groups is None else groups.paths,
            listed_as=plan.listed_as,
        )
        watch = None
        if sys.platform != "win32" and not plan.detached:
            watch = Watch(record.watched())
            undo.callback(watch.close)
        record.reserve()
        undo.callback(record.remove)
        return cls(plan, record, groups, watch)


async def _start(launch: _Launch, files: ConnectionFile) -> LocalKernelManager:
    """Start the process, with a record and limits.

    If this raises, nothing is left of the process, and the files are removed.
    """
    plan, record, groups, watch = launch
    kernel_id = record.kernel_id
    command = plan.command(connection_file=files.path, kernel_id=kernel_id)
    with ExitStack() as undo, launch_errors(command, plan.cwd):
        undo.callback(files.remove)
        if plan.limits is not None:
            plan.limits.check()
        record = msgspec.structs.replace(
            record,
            kernel_name=plan.kernel_type,
            command=tuple(map(readable, command)),
            interrupt_mode=plan.interrupt_mode,
            output=_path(plan.output) if plan.detached else None,
            detached=plan.detached,
        )
        record.write()
        forwarder: Forwarder | None = None
        kept: OutputTail | OutputFile
        if plan.detached:
            kept = _open_file(plan.output)
        else:
            if plan.output is not None:
                forwarder = open_forwarder(plan.output)
                undo.callback(forwarder.end)
            kept = OutputTail(forwarder)
        undo.callback(kept.close)
        confined = None
        if groups is not None:
            groups.make()
            undo.callback(groups.remove)
            confined = _confine(plan, command, files, groups.paths)
        with kept.write_end:
            env = {**plan.environment(os.environ), KERNEL_ID_VARIABLE: kernel_id}
            if plan.detached or confined is not None:  # in a sandbox this number means nothing
                env.pop(_PARENT_VARIABLE, None)
            else:
                env[_PARENT_VARIABLE] = str(os.getpid())
            process: StartedProcess
            if plan.spawn == "fork":
                # Imported here, because Windows cannot import it.
                from kernelproto.launch.process.forkserver import fork_kernel

                process = await fork_kernel(
                    plan.preload,
                    command,
                    env=env,
                    cwd=plan.cwd,
                    output=kept.write_end,
                    sandbox=confined,
                )
            elif confined is not None:
                from kernelproto.launch.process.confinement import wrapped

                process = ProcessGroup(
                    wrapped(command, confined), env=env, cwd="/", output=kept.write_end
                )
            else:
                process = ProcessGroup(command, env=env, cwd=plan.cwd, output=kept.write_end)
        undo.callback(process.abort)
        if confined is None:  # a sandboxed kernel sets its limits before running
            lower_open_files(process.pid)
            if plan.limits is not None:
                plan.limits.apply(process.pid)
        identity = ProcessId.of(process.pid)
        if watch is not None:
            watch.group_started(identity.pid, identity.started)
            process.before_reaping = watch.group_ended
        record = record.of_process(identity)
        record.write()
        if plan.detached:
            process.outlive()
        undo.pop_all()
    return LocalKernelManager(
        record,
        process=process,
        output=kept,
        connection_file=files,
        interrupt_mode=plan.interrupt_mode,
        watch=watch,
        limits=_limits(plan),
        control_groups=groups,
        forwarder=forwarder,
    )


async def _start_and_register(launch: _Launch) -> tuple[ConnectionInfo, LocalKernelManager]:
    plan = launch.plan
    registration = new_registration(
        launch.record.kernel_id,
        ip=plan.ip,
        encrypted=plan.encrypted,
        kernel_name=plan.kernel_type,
    )
    with ExitStack() as stack:
        try:
            socket = stack.enter_context(listen_for_registration())
        except OSError as error:
            raise LaunchError(
                f"cannot listen for the registration of a kernel: {error.strerror}"
            ) from error
        files = ConnectionFile.create_for_registration(registration, ip=LOOPBACK, port=socket.port)
        manager = await _start(launch, files)
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
    callers_deadline = anyio.current_effective_deadline() - _MARGIN_SECONDS
    with anyio.CancelScope(deadline=min(began + _REGISTRATION_SECONDS, callers_deadline)):
        async with background_tasks() as tasks:
            tasks.start_soon(fail_at_the_end)
            return await socket.answer_first(registration.receive)
    seconds = round(anyio.current_time() - began, 2)
    raise not_ready(manager, "registration", seconds, remedy=NOT_REGISTERED)


def _control_groups(plan: LaunchPlan, kernel_id: str) -> ControlGroups | None:
    """Return the control groups of a sandbox, which may be none; None without a sandbox."""
    if plan.sandbox is None:
        return None
    from kernelproto.launch.process.control_groups import ControlGroups

    return ControlGroups(kernel_id, plan.sandbox)


def _confine(
    plan: LaunchPlan,
    command: Sequence[str],
    files: ConnectionFile,
    control_groups: tuple[str, ...],
) -> dict[str, Any]:
    """Return the plan of the sandbox for one launch."""
    from kernelproto.launch.process.confinement import confine

    assert plan.sandbox is not None
    return confine(
        plan.sandbox,
        command,
        sockets=files.sockets,
        limits=plan.limits,
        connection_file=files.path,
        resources=plan.values.get("resource_dir", ""),
        cwd=plan.cwd,
        control_groups=control_groups,
        detached=plan.detached,
    )


def _limits(plan: LaunchPlan) -> Limits | None:
    """Return every limit that may end the kernel."""
    if plan.sandbox is None:
        return plan.limits
    return SandboxLimits.of(plan.sandbox, plan.limits)


def _open_file(output: object) -> OutputFile:
    """Open the output of a detached kernel: a file, not a pipe to this program."""
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


def readable(argument: str) -> str:
    """Return an argument as text; a file name need not be valid UTF-8."""
    return os.fsencode(argument).decode("utf-8", "replace")


@contextmanager
def launch_errors(command: Sequence[str], cwd: str | None) -> Generator[None]:
    """Raise the LaunchError that names the part of the launch that the system refused."""
    try:
        yield
    except LaunchError:
        raise
    except ValueError as error:
        raise InvalidLaunchParameter(f"{shlex.join(command)!r} cannot be run: {error}") from error
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and cwd is not None and error.filename == cwd:
            raise InvalidLaunchParameter(
                f"the working directory {cwd!r} cannot be entered: {error.strerror}"
            ) from error
        reason = error.strerror if isinstance(error, OSError) else str(error)
        remedy = (
            "; see that it is installed, executable and on PATH"
            if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
            else ""
        )
        raise KernelExitedEarly(
            f"cannot run {command[0]!r}: {reason}{remedy} (command line: {shlex.join(command)})",
            command=command,
        ) from error
