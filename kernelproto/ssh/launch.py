"""Launching and adopting kernels on other machines."""

from __future__ import annotations

import base64
import logging
import secrets
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import anyio.to_thread
import msgspec

from kernelproto.exceptions import InvalidLaunchParameter, KernelProtoError
from kernelproto.host.facts import Facts
from kernelproto.host.far_manager import FarKernelManager
from kernelproto.host.inquiry import ask_host
from kernelproto.host.launch import adopt_hosted, host_fault, start_on
from kernelproto.host.link import LOST, HostGone, RequestRefused
from kernelproto.interfaces import KernelHandle, KernelManager
from kernelproto.launch.host_program import archive
from kernelproto.launch.launcher import launch_errors
from kernelproto.launch.spec.naming import SSH
from kernelproto.launch.spec.plan import LaunchPlan, plan_launch
from kernelproto.ssh.connect import SSHConnect
from kernelproto.ssh.connection import Connection
from kernelproto.ssh.failures import host_error
from kernelproto.ssh.far_host import FarHost
from kernelproto.startup_clock import waiting_in_queue
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

# The name of the connection file in a command line, which the host fills in.
_CONNECTION_FILE = "{connection_file}"

_KEY_BYTES = 32

# More kernels whose launches have failed are left to their linger time.
_MOST_UNENDED = 100


class Place(msgspec.Struct):
    """The place in a handle of a kernel on another machine."""

    machine: str
    folder: str
    kernel: str


async def launch_far(
    connection: Connection,
    kernel: str,
    *,
    cwd: str | None,
    launch_params: Mapping[str, object] | None,
    linger: float | None,
) -> tuple[ConnectionInfo, KernelManager]:
    """Start a kernel; see SSHProvider.launch.

    Args:
        connection: to the machine.
        kernel: the name of the kernel type there.
        cwd: the working directory there.
        launch_params: the launch parameters.
        linger: seconds after which the host ends a kernel that no program owns.
    """
    host = connection.host
    async with _held_until_success(connection):
        with waiting_in_queue():
            far = await _start_host(connection)
            await _end_unended(connection, far.folder)
        plan = plan_launch(
            SSH,
            far.kernelspec(host, kernel),
            far.facts(),
            cwd=cwd,
            launch_params={"transport": "ipc", **(launch_params or {})},
        )
        if plan.limits is not None and far.system != "linux":
            raise InvalidLaunchParameter(f"launch parameter 'limits': {host!r} is not Linux")
        plan = msgspec.structs.replace(plan, kernel_type=f"{SSH}/{host}/{kernel}")
        fault = host_fault(plan)
        if fault is not None or plan.output is not None:
            fault = fault or "no file can get its output"
            raise InvalidLaunchParameter(f"{plan.kernel_type}: {fault}")
        return await _start(connection, far, plan, linger)


async def adopt_far(
    connection: Connection, handle: KernelHandle, place: Place, *, replays: bool
) -> tuple[ConnectionInfo, KernelManager]:
    """Adopt a kernel; see SSHProvider.adopt and adopt_messages."""
    async with _held_until_success(connection):
        await connection.open()
        connect = SSHConnect(connection, place.folder)
        info, hosted = await adopt_hosted(handle, connect, replays=replays)
        return info, FarKernelManager(hosted, connect)


async def find_far(connection: Connection, kernel_type: str, kernel_id: str) -> KernelHandle | None:
    """Return the handle of the kernel that is listed under an id; None without one.

    Args:
        connection: to the machine.
        kernel_type: the kernel type of the launch.
        kernel_id: the launch parameter ``listed_as`` of the launch.
    """
    async with connection.held():
        host = await connection.ask("listens")
        if not host.get("listens"):
            return None
        folder = str(host["folder"])
        connect = SSHConnect(connection, folder)
        try:
            await _end_unended(connection, folder)
            kernels = (await ask_host(connect, "list"))["kernels"]
        except HostGone:
            return None
        except LOST as error:
            words = str(error) or "the connection was lost"
            raise host_error(connection.host, "unreachable", words) from error
    found = [
        each["kernel"]
        for each in kernels
        if each.get("listed_as") == kernel_id and each["ended"] is None
    ]
    if not found:
        return None
    # A restart ends the old process first, so there is one; of several, the last one counts.
    place = Place(machine=connection.host, folder=folder, kernel=found[-1])
    return KernelHandle(
        host=SSH,
        kernel_type=kernel_type,
        kernel_id=kernel_id,
        place=msgspec.to_builtins(place),
    )


async def _end_unended(connection: Connection, folder: str) -> None:
    """End the kernels that the host may have started although their launches have failed.

    If the connection is lost, that is logged, and the next use of the host tries again.
    """
    connect = SSHConnect(connection, folder)
    while connection.unended:
        kernel_id, claim = connection.unended.popitem()
        try:
            await ask_host(connect, "end", kernel=kernel_id, claim=claim)
        except (HostGone, RequestRefused) as error:
            logger.debug("kernel %s is not there any more: %s", kernel_id, error)
        except BaseException as error:
            connection.unended[kernel_id] = claim
            if not isinstance(error, (*LOST, KernelProtoError)):
                raise
            logger.warning("kernel %s may go on for its linger time: %s", kernel_id, error)
            return


async def _start(
    connection: Connection, far: FarHost, plan: LaunchPlan, linger: float | None
) -> tuple[ConnectionInfo, KernelManager]:
    kernel_id = str(uuid.uuid4())
    command = plan.command(connection_file=_CONNECTION_FILE, kernel_id=kernel_id)
    facts = Facts(
        kernel_type=plan.kernel_type,
        command=tuple(command),
        interrupt_mode=plan.interrupt_mode,
        limits=plan.limits,
    )
    first = {
        "op": "start",
        "argv": command,
        "env": plan.environment(far.environ),
        "cwd": plan.cwd,
        "linger": linger,
        "connection_info": {
            "key": secrets.token_hex(_KEY_BYTES),
            "signature_scheme": "hmac-sha256",
            "kernel_name": plan.kernel_type,
        },
        "limits": [] if plan.limits is None else list(plan.limits.amounts()),
        "parent_variable": False,
        "record": {"listed_as": plan.listed_as},
        "facts": msgspec.to_builtins(facts),
    }
    place = Place(machine=connection.host, folder=far.folder, kernel=kernel_id)
    handle = KernelHandle(
        host=SSH,
        kernel_type=plan.kernel_type,
        kernel_id=kernel_id,
        place=msgspec.to_builtins(place),
    )
    connect = SSHConnect(connection, far.folder, partial(_start_host, connection))
    claim = secrets.token_hex(_KEY_BYTES)
    try:
        with launch_errors(command, plan.cwd):
            hosted = await start_on(connect, handle, first, claim=claim)
    except BaseException:
        # start_on() has ended the kernel, unless the connection was lost.
        if len(connection.unended) < _MOST_UNENDED:
            connection.unended[kernel_id] = claim
        raise
    connect.start = None
    manager = FarKernelManager(hosted, connect)
    return hosted.connection_info, manager


@asynccontextmanager
async def _held_until_success(connection: Connection) -> AsyncGenerator[None]:
    """Hold a connection; a manager releases it if the block succeeds."""
    connection.hold()
    try:
        yield
    except BaseException:
        await connection.release()
        raise


async def _start_host(connection: Connection) -> FarHost:
    """Start the program of the host unless running, and return the facts of the host."""
    program = await anyio.to_thread.run_sync(archive)
    answer = await connection.ask("start", program=base64.b64encode(program).decode())
    return FarHost.of(connection.host, answer)
