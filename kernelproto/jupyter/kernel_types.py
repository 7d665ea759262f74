"""The kernel types that Jupyter's programs ask for by the names of kernelspecs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from kernelproto.launch import KernelSpecProvider, LaunchPlan
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.process.interpreter import own_ipykernel
from kernelproto.launch.spec.own_python import can_fork_plan, forks_kernelspecs


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

    The kernel is forked under the conditions that ``fork/python3`` has. A plan for another kernel
    is returned unchanged.

    Args:
        plan: the plan.
        fork: whether the kernel may be forked.
        preload: modules that the fork server loads in advance.
    """
    argv = own_ipykernel(plan.argv)
    if argv is None:
        return plan
    plan = msgspec.structs.replace(plan, argv=tuple(argv))
    if fork and forks_kernelspecs() and can_fork_plan(plan):
        return msgspec.structs.replace(plan, spawn="fork", preload=tuple(preload))
    return plan
