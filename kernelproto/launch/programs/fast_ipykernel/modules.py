"""List the loaded modules in the fork server, not in each of its kernels.

A kernel lists their files when it starts, for the debugger, which shows no frames of the kernel's
own modules. IPython lists their names, because an aggressive reset removes all later modules.
Python counts the references to each object in the object, so a forked kernel that looks at all
modules copies about six hundred pages of memory, an eighth of all that it copies, and for the names
one hundred and fifty.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Set
from functools import cached_property
from itertools import takewhile
from typing import Any

from .hook import KERNEL, Hook, Need, find

IPKERNEL = "ipykernel.ipkernel"
SHELL_APPLICATION = "IPython.core.shellapp"

# The number of modules in the fork server, their names, and their files; 0 in other kernels.
_number = 0
_names: list[str] = []
_files: list[str] = []


def list_modules() -> None:
    """List the names and the files of all modules; called in a fork server."""
    global _number
    _number = len(sys.modules)
    _names[:] = sys.modules
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


class LoadedModules(Set[str]):
    """The names of the modules of the fork server, and of those that this kernel has loaded.

    Args:
        loaded: the names of all loaded modules, in the order in which they were loaded.
    """

    def __init__(self, loaded: Any) -> None:
        self._later = list(takewhile(_names[-1].__ne__, reversed(loaded)))

    @classmethod
    def _from_iterable(cls, names: Iterable[Any]) -> Any:
        return set(names)  # the results of operations are ordinary sets

    @cached_property
    def _all(self) -> set[str]:
        return {*_names, *self._later}

    def __contains__(self, name: object) -> bool:
        return name in self._all

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


def list_later_modules(_: Any) -> None:
    """Have IPython make a LoadedModules where it makes a set, in a forked kernel."""
    if _number:
        vars(find(SHELL_APPLICATION))["set"] = LoadedModules


NAMES = Hook(
    name="loaded",
    needs=[
        Need(
            f"{SHELL_APPLICATION}:InteractiveShellApp.init_code",
            "self",
            "set sys modules keys _sys_modules_keys",
        ),
        Need(
            "IPython.core.interactiveshell:InteractiveShell.reset",
            None,
            "set sys modules keys _sys_modules_keys",
        ),
    ],
    install=list_later_modules,
)

FILES = Hook(
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
