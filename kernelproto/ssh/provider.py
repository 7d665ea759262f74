"""SSHProvider: the kernel types of other machines, ``ssh/HOST/NAME``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence

import anyio
import msgspec

from kernelproto.exceptions import (
    KernelProtoError,
    LaunchError,
    NoSuchKernel,
)
from kernelproto.interfaces import KernelAttributes, KernelHandle, KernelManager
from kernelproto.launch.spec.configuration import configuration, place_in
from kernelproto.launch.spec.naming import SSH
from kernelproto.ssh.connection import HostOptions, connection_to
from kernelproto.ssh.far_host import FarHost
from kernelproto.ssh.names import is_host, split_name
from kernelproto.wire.connection import ConnectionInfo

logger = logging.getLogger(__name__)

_VARIABLE = "KERNELPROTO_SSH_HOSTS"

# The host ends a kernel that no program has wanted for so long.
_LINGER_SECONDS = 3600.0

# A search in all hosts does not wait longer for those that do not answer.
_SEARCH_SECONDS = 20.0

# A server lists kernel types again and again.
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
    every host can be used by name, and none is searched: connections are made only to named hosts.

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
        loaded = configuration(config, Configuration, self.id)
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
            InvalidLaunchParameter: a parameter is not valid, or not possible on the host.
            LaunchError: the kernel could not be started; nothing is left of the attempt.
        """
        from kernelproto.ssh.launch import launch_far  # loads zmq, without which a search is faster

        host, kernel = split_name(name)
        connection = connection_to(host, self._options(host))
        return await launch_far(
            connection, kernel, cwd=cwd, launch_params=launch_params, linger=self._linger
        )

    async def adopt(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over a kernel of another machine.

        Raises:
            KernelInUse: a running program owns the kernel, perhaps this one.
            DiscoveryError: the kernel has ended, or the host is not among *hosts*.
            LaunchError: the host cannot be reached now.
        """
        return await self._adopt(handle, replays=False)

    async def adopt_messages(self, handle: KernelHandle) -> tuple[ConnectionInfo, KernelManager]:
        """Take over a kernel with all messages that its host still has; see ``AdoptsMessages``."""
        return await self._adopt(handle, replays=True)

    async def _adopt(
        self, handle: KernelHandle, *, replays: bool
    ) -> tuple[ConnectionInfo, KernelManager]:
        from kernelproto.ssh.launch import Place, adopt_far

        place = place_in(handle, Place)
        connection = connection_to(place.machine, self._options(place.machine))
        return await adopt_far(connection, handle, place, replays=replays)

    async def find_launched(self, name: str, kernel_id: str) -> KernelHandle | None:
        """Return the handle of the kernel that is listed under an id; see FindsLaunched.

        Raises:
            LaunchError: the host cannot be reached now.
        """
        from kernelproto.ssh.launch import find_far

        try:
            host, _ = split_name(name)
            connection = connection_to(host, self._options(host))
        except NoSuchKernel:  # none was launched by this provider
            return None
        return await find_far(connection, f"{SSH}/{name}", kernel_id)

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


def _checked(hosts: Sequence[str] | Mapping[str, HostOptions]) -> dict[str, HostOptions]:
    checked = dict(hosts) if isinstance(hosts, Mapping) else dict.fromkeys(hosts, HostOptions())
    for name in checked:
        if not is_host(name):
            raise ValueError(
                f"{name!r} cannot be the name of a host: it needs ASCII letters, digits and ._- "
                "alone; give other destinations as the target of its options"
            )
    return checked
