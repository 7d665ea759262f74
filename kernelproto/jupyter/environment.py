"""The environment that a caller of jupyter_client gives to a kernel: all of it, not an addition."""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec

from kernelproto.interfaces import KernelManager
from kernelproto.launch import launch
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.spec.parameters import literal
from kernelproto.wire.connection import ConnectionInfo


def changes(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of *env* that this program lacks or has with another value, escaped."""
    return {name: literal(value) for name, value in env.items() if os.environ.get(name) != value}


def with_environment(finder: KernelFinder, env: Mapping[str, str]) -> KernelFinder:
    """Return a finder whose kernels inherit *env* and not the environment of this program.

    Args:
        finder: launches the kernels.
        env: the environment; an environment with all variables of this program returns *finder*.
    """
    return finder if os.environ.keys() <= env.keys() else _InheritingFinder(finder, env)


class _InheritingFinder(KernelFinder):
    """Launches kernels that inherit an environment of their own; the provider must have plans."""

    def __init__(self, finder: KernelFinder, env: Mapping[str, str]) -> None:
        super().__init__(())
        self._finder = finder
        self._env = dict(env)

    async def launch(
        self,
        kernel_type: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> tuple[ConnectionInfo, KernelManager]:
        plan = await self._finder.plan(kernel_type, cwd=cwd, launch_params=launch_params)
        return await launch(msgspec.structs.replace(plan, inherited=self._env))
