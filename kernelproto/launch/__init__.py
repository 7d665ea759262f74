"""Finding kernel types and starting kernels: the only place that starts processes.

``finder.py`` asks the providers, ``providers.py`` says which kernel types there are, and
``launcher.py`` turns one of them into a running process, which ``local.py`` has the handle on.
Nothing here talks to a kernel; that begins with the ConnectionInfo that a launch returns.
"""

from kernelproto.launch.providers import (
    ForkServerProvider,
    IPykernelProvider,
    KernelSpecProvider,
)
from kernelproto.launch.warm import WarmProvider

__all__ = ["ForkServerProvider", "IPykernelProvider", "KernelSpecProvider", "WarmProvider"]
