"""A hook: one change to ipykernel, and the code of ipykernel on which the change depends."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import CodeType
from typing import Any, NamedTuple

# The classes that have subclasses here. An application uses each of them by another way.
IOPUB_THREAD = "ipykernel.iostream:IOPubThread"
OUT_STREAM = "ipykernel.iostream:OutStream"
SESSION = "jupyter_client.session:Session"
KERNEL = "ipykernel.ipkernel:IPythonKernel"
SHELL = "ipykernel.zmqshell:ZMQInteractiveShell"
SAVING_THREAD = "IPython.core.history:HistorySavingThread"
HISTORY_MANAGER = "IPython.core.history:HistoryManager"


class Need(NamedTuple):
    """A function of ipykernel that a hook replaces or calls.

    Args:
        place: the module, a colon and the name in it; a class and a method have a dot between them.
        parameters: the names of its parameters, separated by commas, with the stars; None if they
            do not matter.
        uses: the names that its code must contain: attributes and functions that the hook knows.
    """

    place: str
    parameters: str | None
    uses: str = ""


class Hook(NamedTuple):
    """One change to ipykernel that saves time and that users do not notice.

    Args:
        name: its name in the report and in the environment variable.
        needs: the code of ipykernel on which it depends.
        mixins: additions to classes: the place of each class, and a class without a base.
        install: called before the application initializes itself, with the application.
    """

    name: str
    needs: Sequence[Need]
    mixins: Mapping[str, type] = {}
    install: Callable[[Any], None] | None = None


def misfit(hook: Hook) -> str | None:
    """Return why the installed ipykernel does not fit a hook; None if it fits."""
    for need in hook.needs:
        try:
            code = code_at(need.place)
        except (ImportError, AttributeError):
            return f"{need.place} does not exist"
        if need.parameters not in (None, parameters_of(code)):
            return f"{need.place} has the parameters ({parameters_of(code)})"
        missing = set(need.uses.split()).difference(code.co_names, code.co_freevars)
        if missing:
            return f"{need.place} does not use {', '.join(sorted(missing))}"
    return None


def find(place: str) -> Any:
    """Return the object at a place; without a colon, the module.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such object.
    """
    module, _, path = place.partition(":")
    found: Any = import_module(module)
    for name in path.split(".") if path else ():
        found = getattr(found, name)
    return found


def code_at(place: str) -> CodeType:
    """Return the code of the function, method or property at a place.

    Raises:
        ImportError: there is no such module.
        AttributeError: the module has no such object, or it is no function written in Python.
    """
    found = find(place)
    code: CodeType = inspect.unwrap(getattr(found, "fget", found)).__code__
    return code


def parameters_of(code: CodeType) -> str:
    """Return the names of a function's parameters, separated by commas, with the stars."""
    positional, named = code.co_argcount, code.co_kwonlyargcount
    names = list(code.co_varnames[:positional])
    keywords = list(code.co_varnames[positional : positional + named])
    rest = list(code.co_varnames[positional + named :])
    if code.co_flags & inspect.CO_VARARGS:
        names.append(f"*{rest.pop(0)}")
    elif keywords:
        names.append("*")
    names += keywords
    if code.co_flags & inspect.CO_VARKEYWORDS:
        names.append(f"**{rest.pop(0)}")
    return ", ".join(names)
