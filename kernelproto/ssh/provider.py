"""SSHProvider: the kernel types of other machines, ``ssh/HOST/NAME``."""

from __future__ import annotations

import base64
import logging
import os
import secrets
import sys
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import msgspec

from kernelproto.exceptions import (
    DiscoveryError,
    InvalidLaunchParameter,
    KernelProtoError,
    LaunchError,
    NoSuchKernel,
)
from kernelproto.host.launch import Facts, adopt_hosted, host_fault, start_on
from kernelproto.interfaces import KernelAttributes, KernelHandle, KernelManager
from kernelproto.launch.host_program import archive
from kernelproto.launch.launcher import launch_errors
from kernelproto.launch.spec.naming import SSH
from kernelproto.launch.spec.plan import LaunchPlan, plan_launch
from kernelproto.ssh.connection import Connection, HostOptions, connection_to
from kernelproto.ssh.far_host import FarHost
from kernelproto.ssh.manager import FarConnect, FarKernelManager
from kernelproto.ssh.names import is_host, split_name
from kernelproto.startup_clock import waiting_in_queue
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

_VARIABLE = "KERNELPROTO_SSH_HOSTS"

# The host ends a kernel that no program has wanted for so long.
_LINGER_SECONDS = 3600.0

# The name of the socket in the folder of a host, and the name of the connection file in a command
# line, which the host fills in.
_SOCKET = "socket"
_CONNECTION_FILE = "{connection_file}"

_KEY_BYTES = 32

# A search in all hosts does not wait longer for those that do not answer.
_SEARCH_SECONDS = 20.0

# A server lists its kernel types again and again.
_KEPT_SECONDS = 60.0


class Configuration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The configuration of this provider.

    Args:
        hosts: the hosts, with or without options.
        linger: see SSHProvider.
    """

    hosts: tuple[str, ...] | dict[str, HostOptions] = ()
    linger: float | None = _LINGER_SECONDS


class SSHProvider:
    """Runs kernels on other machines over SSH: ``ssh/HOST/NAME``.

    With *hosts*, only these can be used, and they are searched for kernel types. Without them,
    every host can be used by its name, and none is searched: no connection is made to a host that
    nobody has named.

    Args:
        hosts: the names of the hosts, or their options by name; by default those in the environment
            variable KERNELPROTO_SSH_HOSTS, separated by commas.
        linger: the seconds after which a host ends a kernel that no program owns; None means never.

    Raises:
        ValueError: a name cannot be that of a host.
    """

    id = SSH

    def __init__(
        self,
        hosts: Sequence[str] | Mapping[str, HostOptions] | None = None,
        *,
        linger: float | None = _LINGER_SECONDS,
    ) -> None:
        if hosts is None:
            hosts = [name.strip() for name in os.environ.get(_VARIABLE, "").split(",")]
            hosts = [name for name in hosts if is_host(name)]
        self._hosts = _checked(hosts)
        self._is_open = not self._hosts
        self._linger = linger
        self._found: dict[str, tuple[float, FarHost]] = {}

    def load_config(self, config: Mapping[str, object] | None) -> None:
        """Take ``{"hosts": [...], "linger": SECONDS}``; then only these hosts can be used.

        Raises:
            ValueError: *config* has another form.
        """
        if config is None:
            return
        try:
            loaded = msgspec.convert(config, Configuration)
        except msgspec.ValidationError as error:
            raise ValueError(f"the configuration of 'ssh' is not valid: {error}") from error
        self._hosts = _checked(loaded.hosts)
        self._is_open = False
        self._linger = loaded.linger

    async def find_kernels(self) -> AsyncIterator[tuple[str, KernelAttributes]]:
        """Yield the kernel types of the hosts; a host that cannot be used is logged and skipped."""
        found: dict[str, FarHost] = {}
        if sys.platform != "win32":
            with anyio.move_on_after(_SEARCH_SECONDS):
                async with anyio.create_task_group() as tasks:
                    for host in self._hosts:
                        tasks.start_soon(self._search, host, found)
        for host in self._hosts:
            if host in found:
                for spec in found[host].kernelspecs():
                    attributes = spec.attributes()
                    attributes["display_name"] = f"{spec.display_name} ({host})"
                    attributes["resources"] = {}  # their files are on the host
                    yield f"{host}/{spec.name}", attributes

    async def _search(self, host: str, found: dict[str, FarHost]) -> None:
        kept = self._found.get(host)
        now = anyio.current_time()
        if kept is not None and kept[0] + _KEPT_SECONDS > now:
            found[host] = kept[1]
            return
        try:
            async with connection_to(host, self._hosts[host]).held() as connection:
                found[host] = FarHost.of(host, await connection.ask("kernels"))
        except KernelProtoError as error:
            logger.warning("the kernel types of a host are left out: %s", error)
        else:
            self._found[host] = now, found[host]

    async def launch(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        """Start a kernel on another machine.

        Args:
            name: ``HOST/NAME``.
            cwd: the working directory there; None means the user's home folder.
            launch_params: as for a kernelspec, but for ``sandbox``, ``output``, ``ip`` and tcp.

        Raises:
            NoSuchKernel: the host has no such kernel type, or is not among *hosts*.
            RemoteHostError: the host cannot be used; ``fault`` has the kind.
            InvalidLaunchParameter: a parameter is not valid, or the host cannot do it.
            LaunchError: the kernel could not be started; nothing is left of the attempt.
        """
        host, kernel = split_name(name)
        connection = connection_to(host, self._options(host))
        async with _held_until_success(connection):
            with waiting_in_queue():
                far = await _start_host(connection)
            plan = plan_launch(
                self.id,
                far.kernelspec(host, kernel),
                far.facts(),
                cwd=cwd,
                launch_params={"transport": "ipc", **(launch_params or {})},
            )
            if plan.limits is not None and far.system != "linux":
                raise InvalidLaunchParameter(f"launch parameter 'limits': {host!r} is not Linux")
            plan = msgspec.structs.replace(plan, kernel_type=f"{self.id}/{name}")
            fault = host_fault(plan)
            if fault is not None or plan.output is not None:
                fault = fault or "its output goes to no file, but into errors alone"
                raise InvalidLaunchParameter(f"{plan.kernel_type}: {fault}")
            return await self._start(connection, far, plan)

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over a kernel of another machine.

        Raises:
            KernelInUse: a running program owns the kernel, perhaps this one.
            DiscoveryError: the kernel has ended, or its host is not among *hosts*.
            LaunchError: the host cannot be reached now.
        """
        try:
            place = msgspec.convert(handle.place, _Place)
        except msgspec.ValidationError as error:
            raise DiscoveryError(
                f"the handle of kernel {handle.kernel_id!r} is not valid: {error}"
            ) from None
        connection = connection_to(place.machine, self._options(place.machine))
        async with _held_until_success(connection):
            await connection.open()
            connect = FarConnect(connection, f"{place.folder}/{_SOCKET}")
            info, hosted = await adopt_hosted(handle, connect)
            return info, FarKernelManager(hosted, connect)

    async def _start(
        self, connection: Connection, far: FarHost, plan: LaunchPlan
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
            "linger": self._linger,
            "connection_info": {
                "key": secrets.token_hex(_KEY_BYTES),
                "signature_scheme": "hmac-sha256",
                "kernel_name": plan.kernel_type,
            },
            "limits": [] if plan.limits is None else list(plan.limits.amounts()),
            "parent_variable": False,
            "facts": msgspec.to_builtins(facts),
        }
        place = _Place(machine=connection.host, folder=far.folder, kernel=kernel_id)
        handle = KernelHandle(
            host=self.id,
            kernel_type=plan.kernel_type,
            kernel_id=kernel_id,
            place=msgspec.to_builtins(place),
        )
        connect = FarConnect(connection, f"{far.folder}/{_SOCKET}")
        with launch_errors(command, plan.cwd):
            hosted = await start_on(connect, handle, first)
        manager = FarKernelManager(hosted, connect)
        return hosted.connection_info, manager

    def _options(self, host: str) -> HostOptions:
        if sys.platform == "win32":
            raise LaunchError(
                "kernels on other machines need Linux or macOS here: use connect_kernel"
            )
        options = self._hosts.get(host)
        if options is not None:
            return options
        if self._is_open:
            return HostOptions()
        known = ", ".join(self._hosts) or "none"
        raise NoSuchKernel(
            f"the host {host!r} is not among those of this program ({known}): add it to 'hosts'",
            name=host,
            available=list(self._hosts),
        )


class _Place(msgspec.Struct):
    """The place in a handle of this provider."""

    machine: str
    folder: str
    kernel: str


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
    """Start the program of the host unless it runs, and return what there is."""
    program = await anyio.to_thread.run_sync(archive)
    answer = await connection.ask("start", program=base64.b64encode(program).decode())
    return FarHost.of(connection.host, answer)


def _checked(hosts: Sequence[str] | Mapping[str, HostOptions]) -> dict[str, HostOptions]:
    checked = dict(hosts) if isinstance(hosts, Mapping) else dict.fromkeys(hosts, HostOptions())
    for name in checked:
        if not is_host(name):
            raise ValueError(
                f"{name!r} cannot be the name of a host: it needs ASCII letters, digits and ._- "
                "alone; give other destinations as the target of its options"
            )
    return checked
