"""The options of each start of a kernel: limits, sandbox and home folder of the user."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from starlette.exceptions import HTTPException

from kernelproto.file_owner import Owner
from kernelproto.interfaces import User
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.pool import KernelPool
from kernelproto.pool.launcher import StartOptions
from kernelproto.server.isolation import Isolation, user_variables
from kernelproto.server.limits import StartLimits
from kernelproto.server.sandboxes import tightened, with_process_limit
from kernelproto.server.settings import Settings

if TYPE_CHECKING:
    from kernelproto.server.homes import Home  # not on Windows


class Start(NamedTuple):
    """The options of a start, before the working directory is known.

    Attributes:
        options: the options for ``KernelPool.get``.
        root: the folder that the client's paths are relative to.
        owner: the user whose rights open files in the root; None means the user of the server.
        shows_folder: whether the sandbox has to show the working directory, hidden by default.
    """

    options: StartOptions
    root: str
    owner: Owner | None
    shows_folder: bool

    def in_folder(self, folder: str) -> StartOptions:
        """Return the options for a kernel with this working directory."""
        options = StartOptions(**self.options)
        options["cwd"] = folder
        if self.shows_folder:
            params: Any = options.get("launch_params")
            sandbox = params["sandbox"]
            writable = {**sandbox.get("writable", {}), folder: None}
            options["launch_params"] = {**params, "sandbox": {**sandbox, "writable": writable}}
        return options


class Starts:
    """Combines the settings of the server with the request for a kernel.

    Args:
        settings: the settings.
        pool: the pool that starts the kernels.
        finder: finds the kernel types of the pool.
    """

    def __init__(self, settings: Settings, pool: KernelPool, finder: KernelFinder) -> None:
        self._pool = pool
        self._root = settings.root_dir
        self._limits = StartLimits(settings.limits, pool, finder, settings.kernel)
        self._isolation = Isolation(settings.isolation) if settings.isolate == "users" else None

    def max_kernels(self, user: User) -> int:
        """Return how many kernels a user may have at the same time."""
        return self._limits.max_kernels(user)

    async def home(self, user: User) -> Home | None:
        """Return the home folder of an isolated user; None if users are not isolated.

        Raises:
            HTTPException: as ``Isolation.home`` does.
        """
        return None if self._isolation is None else await self._isolation.home(user)

    async def plan(
        self,
        user: User,
        kernel_type: str | None,
        kernel_id: str,
        *,
        base: Sandbox | None = None,
        wanted: Mapping[str, object] | None = None,
    ) -> Start:
        """Return the options of a start.

        Args:
            user: the user.
            kernel_type: the kernel type; None for the default of the pool.
            kernel_id: the id of the kernel.
            base: the sandbox that the tables of limits change; None for that of isolated users, or
                of the pool.
            wanted: the settings of the sandbox that a client requests, or None.

        Raises:
            HTTPException: 400, the client requests a weaker sandbox; others as for ``home``.
            NoSuchKernel: as for ``StartLimits.options``.
        """
        options, table = await self._limits.options(user, kernel_type)
        options["kernel_type"] = kernel_type or None
        options["kernel_id"] = kernel_id
        home = await self.home(user)
        params = options.get("launch_params") or self._pool.launch_params
        is_changed = any(given is not None for given in (base, table, wanted))
        if home is not None or is_changed:
            sandbox, limits = self._sandbox(base, params, table, wanted)
            if self._isolation is not None and home is not None:
                sandbox = self._isolation.sandbox_of(home, sandbox)
            options["launch_params"] = {**params, "limits": limits, "sandbox": sandbox}
        if home is None:
            root = os.fspath(options.get("cwd") or self._root)
            return Start(options, root, None, shows_folder=is_changed)
        options["env"] = user_variables(user, home)
        return Start(options, home.path, home.owner, shows_folder=False)

    def _sandbox(
        self,
        base: Sandbox | None,
        params: Mapping[str, Any],
        table: Mapping[str, object] | None,
        wanted: Mapping[str, object] | None,
    ) -> tuple[dict[str, object], dict[str, object]]:
        """Return the settings of a sandbox, and the limits that the sandbox does not enforce."""
        if base is None and self._isolation is not None:
            base = self._isolation.sandbox
        given = params.get("sandbox") if base is None else msgspec.to_builtins(base)
        is_confined = given is not None or table is not None
        sandbox, limits = with_process_limit(given or {}, params.get("limits") or {})
        sandbox |= table or {}
        if wanted is None:
            return sandbox, limits
        try:
            return tightened(sandbox, wanted, is_confined=is_confined), limits
        except ValueError as error:
            raise HTTPException(400, f"launch_params: {error}") from None
