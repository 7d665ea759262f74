"""Launching and adopting kernels of the host of this machine."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import uuid
from collections.abc import Mapping
from typing import Any

import anyio
import msgspec

from kernelproto.concurrency.turns import turn
from kernelproto.exceptions import (
    DiscoveryError,
    InvalidLaunchParameter,
    KernelInUse,
    KernelProtoError,
    LaunchError,
)
from kernelproto.host.facts import Facts
from kernelproto.host.link import Connect, HostGone, Link, RequestRefused
from kernelproto.host.local import LocalConnect, host_folder
from kernelproto.host.manager import HostedKernelManager
from kernelproto.interfaces import KernelHandle, KernelManager
from kernelproto.launch.address.connection_file import require_socket_folder
from kernelproto.launch.address.paths import connection_file_name, runtime_folder
from kernelproto.launch.failures import shortages_named
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.launcher import launch_errors, readable
from kernelproto.launch.leftovers.records import Record, sweep
from kernelproto.launch.process.interpreter import PYTHON_OPTION, interpreter_settings
from kernelproto.launch.process.limits import lower_open_files
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.programs import ipykernel
from kernelproto.launch.spec.configuration import place_in
from kernelproto.launch.spec.naming import HOST
from kernelproto.launch.spec.plan import LaunchPlan
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

_TOKEN_BYTES = 32

# The linger time until a kernel is ready. If this program is killed before, no program has the
# handle of the kernel.
_UNREADY_SECONDS = 60.0

# Time to end a kernel after a cancelled launch.
_UNDO_SECONDS = 5.0


def host_fault(plan: LaunchPlan) -> str | None:
    """Return why a host cannot perform a plan, or None."""
    if os.name != "posix":
        return "a host needs the sockets of POSIX"
    if plan.sandbox is not None:
        return "a host starts no kernels in a sandbox"
    if plan.transport != "ipc":
        return "a host needs ipc sockets: set transport to 'ipc' if the kernel supports them"
    if plan.encrypted:
        return "a host connects without encryption: set encryption to 'disabled'"
    if plan.connection_file is not None:
        return "a host writes the connection file itself"
    if plan.output is not None and not isinstance(plan.output, str):
        return "the output of a kernel that outlives this program can only go to a path"
    return None


async def launch_hosted(
    plan: LaunchPlan, *, linger: float | None = None
) -> tuple[ConnectionInfo, HostedKernelManager]:
    """Start a kernel in the host of this machine, which is started if necessary.

    Args:
        plan: how the kernel is launched.
        linger: the seconds without an owner after which the host ends the kernel; None means never.

    Raises:
        KernelExitedEarly: the command cannot be run.
        InvalidLaunchParameter: the host cannot perform the plan, or a parameter is invalid.
        LaunchError: the host cannot be started, or has no room.
    """
    if fault := host_fault(plan):
        raise InvalidLaunchParameter(f"{plan.kernel_type or plan.argv[0]}: {fault}")
    if plan.limits is not None:
        plan.limits.check()
    await turn()
    kernel_id = str(uuid.uuid4())
    folder = host_folder()
    with shortages_named():
        sweep()
        first, command = _start_request(plan, kernel_id, folder, linger)
        connect = LocalConnect(folder, starts=True)
        handle = KernelHandle(
            host=HOST,
            kernel_type=plan.kernel_type,
            kernel_id=kernel_id,
            place={"folder": folder, "kernel": kernel_id},
        )
        with launch_errors(command, first["cwd"]):
            manager = await start_on(connect, handle, first)
        connect.starts = False
        lower_open_files(manager.pid)
    return manager.connection_info, manager


async def launch_outliving(
    finder: KernelFinder,
    kernel_type: str,
    *,
    cwd: str | None,
    launch_params: Mapping[str, object],
    host: bool | None = None,
    linger: float | None = None,
    must_linger: bool = True,
) -> tuple[ConnectionInfo, KernelManager]:
    """Start a kernel that outlives this program: in a host, or as a process without one.

    Args:
        finder: finds the kernel type.
        kernel_type: the kernel type.
        cwd: the working directory; None means the caller's.
        launch_params: the launch parameters.
        host: whether a host runs the kernel; None means if possible.
        linger: as for launch_hosted(); needs a host.
        must_linger: whether a kernel with *linger* that no host can run is refused; otherwise no
            program ends it.

    Raises:
        InvalidLaunchParameter: the kernel needs a host, and no host can run the kernel.
        LaunchError: the kernel cannot be started.
        NoSuchKernel: there is no such kernel type.
    """
    params = {**launch_params, "detached": True}
    needs_host = host or (linger is not None and must_linger)
    if host is not False:
        try:
            plan = await finder.plan(kernel_type, cwd=cwd, launch_params=params)
        except (InvalidLaunchParameter, DiscoveryError):
            raise
        except LaunchError:  # the provider is another package's, and has no plans
            if needs_host:
                raise
        else:
            if host_fault(plan) is None or needs_host:
                return await launch_hosted(plan, linger=linger)
    elif needs_host:
        raise InvalidLaunchParameter("linger needs a host: without one no program ends the kernel")
    return await finder.launch(kernel_type, cwd=cwd, launch_params=params)


async def adopt(
    finder: KernelFinder, handle: KernelHandle, *, replays: bool = False
) -> tuple[ConnectionInfo, KernelManager]:
    """Adopt a kernel by its handle: that of a host here, all others with the finder.

    Args:
        finder: adopts the kernels that no host here runs.
        handle: the handle.
        replays: as for adopt_hosted(), if the host or the provider keeps messages.

    Raises:
        KernelInUse: a running program owns the kernel, perhaps this one.
        DiscoveryError: the kernel has ended, or cannot be adopted.
        LaunchError: the provider is broken.
    """
    if handle.host == HOST:
        return await adopt_hosted(handle, replays=replays)
    return await finder.adopt(handle, replays=replays)


async def start_on(
    connect: Connect, handle: KernelHandle, first: Mapping[str, Any], *, claim: str = ""
) -> HostedKernelManager:
    """Send a request to start a kernel to a host.

    A kernel without a linger time has one of a minute until an owner notes that the kernel is
    ready, or detaches from the kernel.

    Args:
        connect: connects to the host.
        handle: the handle of the new kernel.
        first: the request, see programs/host/requests.py; "facts" are those of Facts, as JSON.
        claim: the secret of the owner; "" for a new one.

    Raises:
        OSError: the command cannot be run.
        ValueError: an argument or a variable cannot be handed to a program.
        LaunchError: the host refuses, or has ended.
    """
    if first["linger"] is None:
        facts = {**first["facts"], "lifts_linger": True}
        first = {**first, "linger": _UNREADY_SECONDS, "facts": facts}
    link = Link(
        connect,
        kernel_id=str(handle.place["kernel"]),
        claim=claim or secrets.token_hex(_TOKEN_BYTES),
        first=first,
    )
    try:
        return _manager(link, handle, await link.first_answer())
    except RequestRefused as refused:
        await link.aclose()
        raise _launch_error(refused) from None
    except HostGone as error:
        await link.aclose()
        raise LaunchError(f"the kernel could not be started: {error}") from None
    except BaseException:
        with anyio.move_on_after(_UNDO_SECONDS, shield=True):
            try:
                await link.request("end")  # the host may have started the kernel
            except KernelProtoError as error:
                logger.debug("kernel %s was not ended: %s", link.kernel_id, error)
        with anyio.CancelScope(shield=True):
            await link.aclose()
        raise


async def adopt_hosted(
    handle: KernelHandle, connect: Connect | None = None, *, replays: bool = False
) -> tuple[ConnectionInfo, HostedKernelManager]:
    """Adopt a kernel of a host, so that this program owns the kernel.

    The manager continues behind the last message that an owner has acknowledged.

    Args:
        handle: the handle of the kernel.
        connect: connects to the host; by default to the one of this machine that the handle names.
        replays: whether the manager begins with the oldest message that the host still has, even if
            acknowledged, and holds all of them; see ``KeepsMessages.hold``.

    Raises:
        KernelInUse: a running program owns the kernel, perhaps this one.
        DiscoveryError: the kernel has ended, or the handle is not valid.
    """
    place = place_in(handle, _Place)
    link = Link(
        connect or LocalConnect(place.folder, starts=False),
        kernel_id=place.kernel,
        claim=secrets.token_hex(_TOKEN_BYTES),
        first={"op": "attach", "after": 0 if replays else None},
        replays=replays,
    )
    try:
        answer = await link.first_answer()
        manager = _manager(link, handle, answer)
    except RequestRefused as refused:
        await link.aclose()
        raise _adoption_error(place.kernel, refused) from None
    except HostGone as error:
        await link.aclose()
        raise DiscoveryError(f"the kernel {place.kernel} has ended: {error}") from None
    except BaseException:
        with anyio.CancelScope(shield=True):
            await link.aclose()
        raise
    if answer.get("ended"):
        await manager.cleanup()
        raise DiscoveryError(f"the kernel {place.kernel} has ended")
    return manager.connection_info, manager


class _Place(msgspec.Struct):
    """The place in a handle of a host; one on another machine needs no folder here."""

    kernel: str
    folder: str = ""


def _manager(link: Link, handle: KernelHandle, answer: Mapping[str, Any]) -> HostedKernelManager:
    facts = msgspec.convert(answer["facts"], Facts)
    return HostedKernelManager(
        link,
        ConnectionInfo.from_json(msgspec.json.encode(answer["connection_info"])),
        handle,
        pid=int(answer["pid"]),
        connection_file=str(answer["connection_file"]),
        command=facts.command,
        interrupt_mode=facts.interrupt_mode,
        limits=facts.limits,
        lifts_linger=facts.lifts_linger,
    )


def _start_request(
    plan: LaunchPlan, kernel_id: str, folder: str, linger: float | None
) -> tuple[dict[str, Any], list[str]]:
    """Return the request to start a kernel on this machine, and the command line."""
    from kernelproto.launch.process.program_state import program_state  # not on Windows

    runtime = runtime_folder()
    socket_folder = require_socket_folder(kernel_id)
    connection_file = os.path.join(runtime, connection_file_name(kernel_id))
    os.makedirs(runtime, mode=0o700, exist_ok=True)
    command = plan.command(connection_file=connection_file, kernel_id=kernel_id)
    output = None if plan.output is None else os.path.abspath(str(plan.output))
    this_program = ProcessId.of(os.getpid())
    record = Record(
        kernel_id=kernel_id,
        kernel_name=plan.kernel_type,
        command=tuple(map(readable, command)),
        interrupt_mode=plan.interrupt_mode,
        connection_file=connection_file,
        socket_folder=socket_folder,
        output=output,
        owner=this_program,  # the host replaces this
        listed_as=plan.listed_as,
        host=folder,
    )
    facts = Facts(
        kernel_type=plan.kernel_type,
        command=record.command,
        interrupt_mode=plan.interrupt_mode,
        limits=plan.limits,
    )
    fork = _fork(plan) if plan.spawn == "fork" else None
    return {
        "op": "start",
        "argv": command if fork is None else command[command.index(ipykernel.__file__) :],
        "fork": fork,
        "env": plan.environment(os.environ),
        "cwd": os.path.abspath(plan.cwd or os.curdir),
        "linger": linger,
        "connection_info": {
            "key": secrets.token_hex(_TOKEN_BYTES),
            "signature_scheme": "hmac-sha256",
            "kernel_name": plan.kernel_type,
        },
        "output": output,
        "limits": [] if plan.limits is None else list(plan.limits.amounts()),
        "state": program_state(),
        "paths": {
            "connection_file": connection_file,
            "sockets": socket_folder,
            "record": record.path,
        },
        "record": msgspec.json.decode(record.to_json()),
        "machine": msgspec.to_builtins(this_program.machine),
        "facts": msgspec.to_builtins(facts),
    }, command


def _fork(plan: LaunchPlan) -> dict[str, Any]:
    """Return how a fork server forks the kernel of a plan."""
    from kernelproto.launch.programs import forkserver  # not on Windows

    modules = sorted(set(plan.preload))
    settings = sorted(interpreter_settings(os.environ).items())
    return {
        "command": [sys.executable, PYTHON_OPTION, forkserver.__file__],
        "modules": modules,
        "key": json.dumps([sys.executable, modules, settings]),
    }


def _launch_error(refused: RequestRefused) -> Exception:
    """Return the exception for a launch that the host has refused."""
    error = refused.error
    reason = str(error.get("reason"))
    if refused.kind != "launch":
        return LaunchError(
            f"the host of this machine cannot start the kernel: {reason}; it has the rights and "
            "limits of the program that has started it: end its kernels, or start the kernel "
            "without a host"
        )
    if error.get("errno") is None:
        return ValueError(reason)
    return OSError(error["errno"], reason, error.get("file"))


def _adoption_error(kernel_id: str, refused: RequestRefused) -> DiscoveryError:
    """Return the exception for an adoption that the host has refused."""
    if refused.kind == "in_use":
        owner = refused.error.get("owner")
        by = f"the running program {owner}" if owner else "another running program"
        return KernelInUse(
            f"the kernel {kernel_id} is in use by {by}: it can be adopted once that program has "
            "detached from it or has ended",
            pid=owner if isinstance(owner, int) else 0,
        )
    if refused.kind == "no_such_kernel":
        return DiscoveryError(f"the kernel {kernel_id} has ended")
    return refused
