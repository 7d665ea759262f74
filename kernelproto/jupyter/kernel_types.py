"""The kernel types that Jupyter's programs ask for by the names of kernelspecs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import msgspec

from kernelproto.launch import KernelSpecProvider, LaunchPlan
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.process.interpreter import interpreter_settings, own_ipykernel


def jupyter_kernels() -> KernelFinder:
    """Return a finder of all kernel types that forks where ForkingKernelSpecProvider can.

    Raises:
        LaunchError: there are too few file descriptors left to look for providers.
    """
    return KernelFinder.from_entrypoints(ForkingKernelSpecProvider())


class ForkingKernelSpecProvider(KernelSpecProvider):
    """Finds ``spec/NAME``, and forks the ipykernel of the running Python.

    So a notebook that asks for ``python3`` gets a kernel as fast as ``fork/kernel``.
    """

    def plan(
        self,
        name: str,
        *,
        cwd: str | None = None,
        launch_params: Mapping[str, object] | None = None,
    ) -> LaunchPlan:
        return with_own_ipykernel(super().plan(name, cwd=cwd, launch_params=launch_params))


def with_own_ipykernel(
    plan: LaunchPlan, *, fork: bool = True, preload: Sequence[str] = ()
) -> LaunchPlan:
    """Return a plan that runs the ipykernel of the running Python by programs/ipykernel.py.

    The kernel is forked, unless this system cannot fork, the kernel is detached, or its interpreter
    would read other settings than this program's. A plan for another kernel is returned unchanged.

    Args:
        plan: the plan.
        fork: whether the kernel may be forked.
        preload: modules that the fork server loads in advance.
    """
    argv = own_ipykernel(plan.argv)
    if argv is None:
        return plan
    plan = msgspec.structs.replace(plan, argv=tuple(argv))
    settings = interpreter_settings(plan.environment(os.environ))
    if (
        fork
        and hasattr(os, "fork")
        and not plan.detached
        and settings == interpreter_settings(os.environ)
    ):
        return msgspec.structs.replace(plan, spawn="fork", preload=tuple(preload))
    return plan
