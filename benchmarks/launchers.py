"""The contenders that start kernels: kernelproto cold, forked and warm, and the others."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.jupyter import JupyterBlockingLauncher, JupyterLauncher
from benchmarks.peers.jupyverse import JupyverseLauncher
from benchmarks.peers.ours import KernelprotoLauncher, WarmLauncher
from benchmarks.peers.peer import Launcher

_LOOPS = ("asyncio", "trio")

COLD: Sequence[Launcher] = [KernelprotoLauncher(loop, "pyimport/kernel") for loop in _LOOPS]
FORKED: Sequence[Launcher] = [
    KernelprotoLauncher(loop, "fork/kernel", prepared=True) for loop in _LOOPS
]
WARM: Sequence[Launcher] = [WarmLauncher(loop) for loop in _LOOPS]

JUPYTER: Launcher = JupyterLauncher()
JUPYVERSE: Launcher = JupyverseLauncher()

LAUNCHERS: Sequence[Launcher] = [
    *COLD,
    *FORKED,
    *WARM,
    JUPYTER,
    JupyterBlockingLauncher(),
    JUPYVERSE,
]
