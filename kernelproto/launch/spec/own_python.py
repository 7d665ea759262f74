"""The kernelspecs of the running interpreter's ipykernel, and the launches that can fork.

A forked kernel has the interpreter of the fork server, which has started already. So a kernelspec
must name the same interpreter with the same options. Variables that Python, the C library or the
modules of the fork server read when they start must have the values of this program.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from typing import cast

import msgspec

from kernelproto.launch.process.interpreter import own_ipykernel_arguments
from kernelproto.launch.spec.kernelspec import KernelSpec
from kernelproto.launch.spec.parameters import with_this_python
from kernelproto.launch.spec.plan import LaunchPlan

# "0" in this variable of the launching program means that no kernelspec is forked.
_SWITCH = "KERNELPROTO_FORK_PYTHON3"

_READ_AT_START = re.compile(
    r"HOME|LANG|LANGUAGE|"
    r"(PYTHON|LC_|LD_|DYLD_|GLIBC_|MALLOC_|DEBUGPY_|PYDEVD_|OMP_|MKL_|OPENBLAS_|NUMEXPR_|CUDA_).*"
)


def own_arguments(kernelspec: KernelSpec, python: str) -> tuple[str, ...] | None:
    """Return the arguments that a kernelspec gives to the ipykernel of the running interpreter.

    Args:
        kernelspec: any kernelspec.
        python: the path of the running interpreter.

    Returns:
        The arguments after the name of ipykernel's program; None if a forked kernel would
        differ from the kernelspec.
    """
    if not can_inherit(kernelspec.env) or kernelspec.launch_fault() is not None:
        return None
    return own_ipykernel_arguments(with_this_python(kernelspec.argv, python), python)


def forks_kernelspecs() -> bool:
    """Return whether kernelspecs of the running interpreter's ipykernel are forked here.

    Windows cannot fork, and the libraries of macOS are not safe after a fork.
    """
    return hasattr(os, "fork") and sys.platform != "darwin" and os.environ.get(_SWITCH) != "0"


def can_fork(launch_params: Mapping[str, object] | None) -> bool:
    """Return whether a forked kernel can have these launch parameters."""
    env = (launch_params or {}).get("env")
    return not isinstance(env, Mapping) or can_inherit(cast(Mapping[str, object], env))


def can_inherit(env: Mapping[str, object]) -> bool:
    """Return whether a forked kernel can have these variables.

    Variables that are read when a program starts must have the values that they have here.
    """
    return all(
        os.environ.get(name) == value
        for name, value in env.items()
        if _READ_AT_START.fullmatch(name)
    )


def can_fork_plan(plan: LaunchPlan) -> bool:
    """Return whether a forked kernel can have all variables and other options of a plan."""
    # Without variables of its own, the plan has the environment of the fork server.
    bare = msgspec.structs.replace(plan, kernelspec_env={}, env={}, unset=(), inherited=None)
    # A program of Jupyter expects that an independent kernel is a process of its own.
    return not plan.detached and _read_at_start(plan.environment(os.environ)) == _read_at_start(
        bare.environment(os.environ)
    )


def _read_at_start(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if _READ_AT_START.fullmatch(name)}
