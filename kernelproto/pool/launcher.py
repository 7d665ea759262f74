"""PoolLauncher: launches the kernels of a pool, and keeps warm kernels ready."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypedDict

import msgspec
from anyio import AsyncContextManagerMixin

from kernelproto.host.launch import launch_outliving
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.spec.naming import check_kernel_type, launch_names
from kernelproto.launch.warm import WarmProvider
from kernelproto.pool.limits import LeaseLimits
from kernelproto.run import RunOptions, launch_params_of
from kernelproto.supervise.instance import Launch, Launched


class StartOptions(TypedDict, total=False):
    """Options for the start of one kernel; the pool's own options are the defaults.

    Keys:
        kernel_type: the kernel type.
        cwd: the working directory.
        env: environment variables, added to those of the pool.
        launch_params: launch parameters, instead of those of the pool.
        kernel_id: the id of the kernel, a UUID; a random one by default.
        lease_limits: limits of the user and of this kernel, instead of those of the pool.
        kept: whether the kernel outlives a pool with a registry; true by default.
    """

    kernel_type: str | None
    cwd: str | os.PathLike[str] | None
    env: Mapping[str, str] | None
    launch_params: Mapping[str, object] | None
    kernel_id: str | None
    lease_limits: LeaseLimits | None
    kept: bool


class WarmKernels(msgspec.Struct, frozen=True):
    """Kernels of one type that a pool keeps started for the next requests.

    Args:
        count: the number of kernels.
        launch_params: their launch parameters, instead of those of the pool.
    """

    count: int
    launch_params: Mapping[str, object] | None = None


class PoolLauncher(AsyncContextManagerMixin):
    """Launches kernels with the options of the pool; keeps warm kernels ready during the block.

    Args:
        finder: finds the kernel types.
        kernel_type: the default kernel type.
        warm: the number of warm kernels of the default type, or the number for each type.
        options: the default options.
        detached: whether the kernels outlive this program, except those with ``kept`` false.
        host: whether a host runs detached kernels; None means if possible.
        linger: the seconds without a program after which a host ends a detached kernel; None means
            never.
        must_linger: whether a kernel that no host can run is refused if *linger* is given.
    """

    def __init__(
        self,
        finder: KernelFinder,
        kernel_type: str,
        warm: int | Mapping[str, int | WarmKernels],
        options: RunOptions,
        *,
        detached: bool = False,
        host: bool | None = None,
        linger: float | None = None,
        must_linger: bool = True,
    ) -> None:
        self._finder = finder
        self._kernel_type = kernel_type
        self._options = options
        self._detached = detached
        self._host = host
        self._linger = linger
        self._must_linger = must_linger
        self._must_exist = not isinstance(warm, int)
        by_type = {kernel_type: warm} if isinstance(warm, int) else warm
        self._warm = {
            name: self._provider(name, spares)
            for name, value in by_type.items()
            if (spares := WarmKernels(value) if isinstance(value, int) else value).count
        }
        # Each name of a kernel type, in lower case -> its key in self._warm.
        self._keys: dict[str, str] = {}

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[PoolLauncher]:
        if self._warm:
            self._keys = self._find_names([name async for name, _ in self._finder.find_kernels()])
        async with AsyncExitStack() as stack:
            for provider in self._warm.values():
                await stack.enter_async_context(provider)
            yield self

    def kernel_type(self, start: StartOptions) -> str:
        """Return the kernel type that ``launch`` would start."""
        return start.get("kernel_type") or self._kernel_type

    def launch(self, start: StartOptions) -> tuple[Launch, str | None]:
        """Return the function that launches such a kernel, and the working directory.

        The function takes a warm kernel if there is one with the same options.
        """
        kernel_type = self.kernel_type(start)
        key = self._keys.get(kernel_type.lower(), kernel_type)

        async def launch(*, env: Mapping[str, str], cwd: str | None) -> Launched:
            params = self._launch_params(start, env)
            if self._detached and start.get("kept", True):
                # A later program finds the kernel by this id if this program is killed while
                # launching.
                params["listed_as"] = start.get("kernel_id") or ""
                return await launch_outliving(
                    self._finder,
                    key,
                    cwd=cwd,
                    launch_params=params,
                    host=self._host,
                    linger=self._linger,
                    must_linger=self._must_linger,
                )
            return await self._warm.get(key, self._finder).launch(
                key, cwd=cwd, launch_params=params
            )

        return launch, _path(start.get("cwd") or self._options.get("cwd"))

    def _provider(self, kernel_type: str, spares: WarmKernels) -> WarmProvider:
        return WarmProvider(
            _OneProvider(self._finder),
            kernel_type,
            warm=spares.count,
            cwd=_path(self._options.get("cwd")),
            launch_params=self._launch_params(StartOptions(launch_params=spares.launch_params), {}),
        )

    def _find_names(self, available: list[str]) -> dict[str, str]:
        names = launch_names(available)
        keys: dict[str, str] = {}
        for key in self._warm:
            kernel_type = names.get(key.lower(), key)
            if self._must_exist:
                check_kernel_type(key, available, remedy="install it, or remove it from warm")
            if keys.setdefault(kernel_type, key) != key:
                raise ValueError(f"warm: {keys[kernel_type]!r} and {key!r} are one kernel type")
        return {name: keys[known] for name, known in names.items() if known in keys}

    def _launch_params(self, start: StartOptions, changes: Mapping[str, str]) -> dict[str, object]:
        env = {**(self._options.get("env") or {}), **(start.get("env") or {}), **changes}
        params = start.get("launch_params")
        if params is None:
            params = self._options.get("launch_params")
        return launch_params_of(RunOptions(env=env or None, launch_params=params))


class _OneProvider:
    """All the providers of a finder as one, whose kernel types have their full names."""

    id = "pool"

    def __init__(self, finder: KernelFinder) -> None:
        self.find_kernels = finder.find_kernels
        self.launch = finder.launch


def _path(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)
