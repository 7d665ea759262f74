"""List the files of the loaded modules in the fork server, not in each of its kernels.

A kernel lists them when it starts, for the debugger, which shows no frames of the kernel's own
modules. Python counts the references to each module in the module, so a forked kernel that looks at
all modules copies about six hundred pages of memory, an eighth of all that it copies.
"""

from __future__ import annotations

import sys
from typing import Any

from .hook import KERNEL, Hook, Need, find

IPKERNEL = "ipykernel.ipkernel"

# The number of modules in the fork server, and their files; 0 in other kernels.
_number = 0
_files: list[str] = []


def list_files() -> None:
    """List the files of all modules; called in a fork server."""
    global _number
    _number = len(sys.modules)
    _files[:] = filter(None, (getattr(module, "__file__", None) for module in sys.modules.values()))


class NoModules:
    """Stands for the module sys in the module of the kernel, but has no modules."""

    modules: dict[str, Any] = {}  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        return getattr(sys, name)


class TakeList:
    """The part of an IPythonKernel that lists the files of all modules."""

    def __init__(self: Any, **kwargs: Any) -> None:
        stock: Any = super()
        if len(sys.modules) != _number:  # not forked, or the configuration has imported a module
            stock.__init__(**kwargs)
            return
        kernel = find(IPKERNEL)
        kernel.sys = NoModules()
        try:
            stock.__init__(**kwargs)
        finally:
            kernel.sys = sys
        debugger: Any = getattr(self, "debugger", None)
        if getattr(debugger, "kernel_modules", None) is self._kernel_modules:
            debugger.kernel_modules = _files
        self._kernel_modules = _files


HOOK = Hook(
    name="modules",
    needs=[
        Need(
            f"{KERNEL}.__init__",
            "self, **kwargs",
            "sys modules values _kernel_modules debugger debugger_class",
        ),
    ],
    mixins={KERNEL: TakeList},
)
