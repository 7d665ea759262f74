"""Limits for kernel types, groups and users, and their combination at a start."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from kernelproto.exceptions import InvalidLaunchParameter, InvalidSettings, NoSuchKernel
from kernelproto.interfaces import User
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.process.limits import Limits as ProcessLimits
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.spec.naming import check_kernel_type
from kernelproto.pool import KernelPool, LeaseLimits, WarmKernels
from kernelproto.pool.launcher import StartOptions

_Amount = Annotated[int, Meta(ge=0)]
_Seconds = Annotated[float, Meta(ge=0)]

_PROCESS_LIMITS = ProcessLimits.__struct_fields__
_LEASE_LIMITS = LeaseLimits.__struct_fields__
_SANDBOX = "sandbox"


class _Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of limits for kernels. 0 means no limit; an unset limit is left to other tables.

    Args:
        memory: bytes, for each process of a kernel.
        cpu_seconds: seconds of CPU time, for each process of a kernel.
        open_files: the number for each process of a kernel.
        processes: the number of processes and threads of the operating system's user that runs the
            server, all kernels included; of each kernel, if users are isolated.
        idle_timeout: seconds after which an idle kernel is shut down.
        max_age: seconds from the start of a kernel until its shutdown.
        cull_connected: whether idle kernels are shut down while clients are connected.
        sandbox: settings of the sandbox of a kernel. Each one replaces that of the tables before,
            and of the sandbox that the kernel has without the tables.

    Raises:
        ValueError: a setting of the sandbox is invalid.
    """

    memory: _Amount | UnsetType = UNSET
    cpu_seconds: _Amount | UnsetType = UNSET
    open_files: _Amount | UnsetType = UNSET
    processes: _Amount | UnsetType = UNSET
    idle_timeout: _Seconds | UnsetType = UNSET
    max_age: _Seconds | UnsetType = UNSET
    cull_connected: bool | UnsetType = UNSET
    sandbox: dict[str, Any] | UnsetType = UNSET

    def __post_init__(self) -> None:
        """Check the settings of the sandbox."""
        try:
            msgspec.convert(self.sandbox or {}, Sandbox)
        except msgspec.ValidationError as error:
            raise ValueError(f"sandbox: {error}") from None

    def values(self) -> dict[str, object]:
        """Return the limits that are set, without the sandbox; None means no limit."""
        values = {name: getattr(self, name) for name in self.__struct_fields__ if name != _SANDBOX}
        return {
            name: value if value or isinstance(value, bool) else None
            for name, value in values.items()
            if value is not UNSET
        }


class KernelLimits(_Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of limits for the kernels of a type.

    Args:
        warm: how many of these kernels are kept started; they have the other limits.
    """

    warm: _Amount | UnsetType = UNSET


class UserLimits(_Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of limits for users and their kernels.

    Args:
        max_per_user: the number of kernels that each user may have.
    """

    max_per_user: Annotated[int, Meta(ge=1)] | UnsetType = UNSET


class LimitTables(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits that differ from those of the server.

    For each limit, the user's table overrides the tables of the user's groups, which override the
    table of the kernel type.

    Args:
        kernels: the tables by kernel type.
        groups: the tables by group. If several groups of a user set a limit, the first one here
            applies.
        users: the tables by user.
    """

    kernels: dict[str, KernelLimits] = {}
    groups: dict[str, UserLimits] = {}
    users: dict[str, UserLimits] = {}

    def find(self, user: User, kernel_tables: Iterable[KernelLimits]) -> dict[str, object]:
        """Return the limits for a kernel of a user, given the tables of the kernel type."""
        tables = self._tables(user, kernel_tables)
        return {name: value for table in tables for name, value in table.values().items()}

    def tables(self) -> Iterator[tuple[str, str, _Limits]]:
        """Yield the kind, the name and the content of each table."""
        for kind in self.__struct_fields__:
            table: Mapping[str, _Limits] = getattr(self, kind)
            yield from ((kind, name, limits) for name, limits in table.items())

    def sandbox(
        self, user: User, kernel_tables: Iterable[KernelLimits]
    ) -> dict[str, object] | None:
        """Return the settings of the sandbox of a kernel; None if no table has a sandbox."""
        found = [
            table.sandbox
            for table in self._tables(user, kernel_tables)
            if table.sandbox is not UNSET
        ]
        if not found:
            return None
        return {name: value for sandbox in found for name, value in sandbox.items()}

    def _tables(self, user: User, kernel_tables: Iterable[KernelLimits]) -> list[_Limits]:
        """Return the tables for a kernel of a user; a later one overrides an earlier one."""
        return [
            *kernel_tables,
            *(limits for group, limits in reversed(self.groups.items()) if group in user.groups),
            *([self.users[user.name]] if user.name in self.users else []),
        ]


class StartLimits:
    """Computes the limits of each kernel start.

    Args:
        tables: the limits that differ from those of the pool.
        pool: the pool that starts the kernels.
        finder: finds the kernel types of the pool.
        kernel: the default kernel type.
    """

    def __init__(
        self, tables: LimitTables, pool: KernelPool, finder: KernelFinder, kernel: str
    ) -> None:
        self._tables = tables
        self._pool = pool
        self._finder = finder
        self._kernel = kernel

    async def options(
        self, user: User, kernel_type: str | None
    ) -> tuple[StartOptions, dict[str, object] | None]:
        """Return the options of a start for ``KernelPool.get``, and the settings of the sandbox.

        The settings are None if no table has a sandbox.

        Raises:
            NoSuchKernel: the kernel type does not exist, and some tables are for kernel types.
        """
        tables = await self._of_type(kernel_type or self._kernel)
        found = self._tables.find(user, tables)
        options = StartOptions()
        lease = {name: value for name, value in found.items() if name in _LEASE_LIMITS}
        if lease:
            limits = self._pool.limits
            own: dict[str, Any] = {name: getattr(limits, name) for name in _LEASE_LIMITS} | lease
            options["lease_limits"] = LeaseLimits(**own)
        params = _limited(self._pool.launch_params, found)
        if params is not None:
            options["launch_params"] = params
        return options, self._tables.sandbox(user, tables)

    def max_kernels(self, user: User) -> int:
        """Return how many kernels a user may have at the same time."""
        own: Any = self._tables.find(user, ()).get("max_per_user")
        limits = self._pool.limits
        return min(own or limits.max_per_user, limits.max_kernels)

    async def _of_type(self, name: str) -> list[KernelLimits]:
        if not self._tables.kernels:
            return []
        available = [kernel_type async for kernel_type, _ in self._finder.find_kernels()]
        wanted = check_kernel_type(name, available, remedy="choose one of these")
        return [
            limits
            for key, limits in self._tables.kernels.items()
            if _type_of(key, available) == wanted
        ]


async def warm_kernels(
    tables: LimitTables, finder: KernelFinder, *, kernel: str, warm: int
) -> dict[str, WarmKernels]:
    """Return the kernels that are started ahead of time, for ``KernelPool``.

    They have the limits of their kernel type, as a start has for a user without other limits.

    Args:
        tables: the limits; a kernel type's own ``warm`` replaces the argument.
        finder: the kernel types.
        kernel: the default kernel type.
        warm: how many kernels of the default type are started ahead of time.

    Raises:
        NoSuchKernel: there is no such kernel type.
    """
    counts = {kernel: warm} | {
        name: limits.warm for name, limits in tables.kernels.items() if limits.warm is not UNSET
    }
    if not any(counts.values()):
        return {}
    available = [kernel_type async for kernel_type, _ in finder.find_kernels()]
    known = partial(check_kernel_type, available=available, remedy="install it")
    tables_by_type = {known(name): limits for name, limits in tables.kernels.items()}
    found: dict[str, WarmKernels] = {}
    for name, count in counts.items():
        limits = tables_by_type.get(known(name), KernelLimits())
        found[known(name)] = WarmKernels(count, _limited({}, limits.values()))
    return {name: spares for name, spares in found.items() if spares.count}


async def check_limits(
    tables: LimitTables, finder: KernelFinder, *, has_groups: bool, isolated: bool = False
) -> None:
    """Check that this machine can enforce the limits.

    Args:
        tables: the limits.
        finder: finds the kernel types.
        has_groups: whether the authentication provides groups.
        isolated: whether users are isolated; then each sandbox has a limit for its processes.

    Raises:
        InvalidSettings: a kernel type does not exist, the authentication provides no groups, or the
            operating system does not have the limit, or has a lower one.
    """
    if tables.groups and not has_groups:
        raise InvalidSettings(
            "limits.groups: this authentication provides no groups: use file, hub, oidc, or proxy "
            "with proxy_groups_header"
        )
    available: list[str] = []
    if tables.kernels:
        available = [kernel_type async for kernel_type, _ in finder.find_kernels()]
    known: dict[str, str] = {}
    for key in tables.kernels:
        try:
            found = check_kernel_type(key, available, remedy="install it, or name another one")
        except NoSuchKernel as error:
            raise InvalidSettings(f"limits.kernels: {error}") from None
        if known.setdefault(found, key) != key:
            raise InvalidSettings(
                f"limits.kernels: {known[found]!r} and {key!r} are the same kernel "
                "type: remove one of them"
            )
    for kind, name, limits in tables.tables():
        values = limits.values()
        if isolated:
            values.pop("processes", None)
        _check_process_limits(f'limits.{kind}."{name}"', values)


def _limited(params: Mapping[str, object], found: Mapping[str, object]) -> dict[str, object] | None:
    """Return launch parameters with the limits for processes; None if there are no such limits."""
    process = {name: value for name, value in found.items() if name in _PROCESS_LIMITS}
    if not process:
        return None
    before: Any = params.get("limits") or {}
    return {**params, "limits": {**before, **process}}


def _check_process_limits(where: str, values: Mapping[str, object]) -> None:
    process: dict[str, Any] = {
        name: value for name, value in values.items() if name in _PROCESS_LIMITS and value
    }
    if not process:
        return
    try:
        ProcessLimits(**process).check()
    except InvalidLaunchParameter as error:
        raise InvalidSettings(f"{where}: {error}") from None
    if "processes" in process and os.geteuid() == 0:
        raise InvalidSettings(
            f"{where}: Linux does not limit the processes of root: run the server as another user, "
            "or remove processes from the table"
        )


def _type_of(key: str, available: list[str]) -> str | None:
    try:
        return check_kernel_type(key, available, remedy="")
    except NoSuchKernel:  # no start has this type
        return None
