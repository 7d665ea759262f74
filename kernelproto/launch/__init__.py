"""Finding kernel types and starting kernels: the only part that starts processes.

``finder.py`` asks the providers, ``providers.py`` and ``environments/`` have the built-in ones,
``spec/plan.py`` plans a launch, ``launcher.py`` performs the plan, and ``local.py`` is the handle
on the process. Nothing here talks to a kernel; that begins with the ConnectionInfo that a launch
returns.
"""

import importlib
import typing

if typing.TYPE_CHECKING:
    from kernelproto.launch.batch.provider import SlurmProvider
    from kernelproto.launch.container.provider import ContainerProvider
    from kernelproto.launch.environments.provider import EnvironmentProvider
    from kernelproto.launch.finder import PlansLaunch
    from kernelproto.launch.launcher import launch
    from kernelproto.launch.providers import (
        ForkServerProvider,
        IPykernelProvider,
        KernelSpecProvider,
    )
    from kernelproto.launch.spec.plan import LaunchPlan
    from kernelproto.launch.warm import WarmProvider

__all__ = [
    "ContainerProvider",
    "EnvironmentProvider",
    "ForkServerProvider",
    "IPykernelProvider",
    "KernelSpecProvider",
    "LaunchPlan",
    "PlansLaunch",
    "SlurmProvider",
    "WarmProvider",
    "launch",
]

_LAZY = {
    "ContainerProvider": "container.provider",
    "EnvironmentProvider": "environments.provider",
    "ForkServerProvider": "providers",
    "IPykernelProvider": "providers",
    "KernelSpecProvider": "providers",
    "LaunchPlan": "spec.plan",
    "PlansLaunch": "finder",
    "SlurmProvider": "batch.provider",
    "WarmProvider": "warm",
    "launch": "launcher",
}


def __getattr__(name: str) -> object:
    # Loaded on first use: a program that lists kernel types needs a small part.
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
