"""The names of kernel types, and the error for an unknown one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

from kernelproto.exceptions import NoSuchKernel

# A name without a provider means a kernel type of the first of these providers that has it, or else
# of any other provider. "fork" has those kernelspecs that it can fork.
_FIRST_PROVIDERS = ("fork", "spec")

# Names without a provider never mean a kernel type of this provider: the names of environments
# depend on the working directory, and a notebook for "python3" must not run in a folder of this
# name.
ENVIRONMENTS = "env"

# The host in the handles of kernels that run as processes of this machine.
LOCAL = "local"

# The host in the handles of kernels that a host of this machine runs.
HOST = "host"

# The provider of the kernel types of other machines, ssh/HOST/NAME.
SSH = "ssh"

# The ipykernel of the running interpreter.
OWN_KERNEL = "pyimport/kernel"
OWN_PYTHON = ("python", "python3")

# How many characters of two names are compared, and how many names an error has.
_COMPARED = 100
_MOST_NAMED = 10

# Not only dots, because the name becomes that of a folder.
_SIMPLE_NAME = re.compile(r"(?!\.+\Z)[a-z0-9._-]+", re.IGNORECASE | re.ASCII)


def is_simple_name(name: object) -> bool:
    """Return whether *name* has nothing but ASCII letters, digits and ``._-``."""
    return isinstance(name, str) and _SIMPLE_NAME.fullmatch(name) is not None


def provider_rank(provider_id: str) -> int:
    """Return the place of a provider in the search for a name without one; less is earlier."""
    if provider_id in _FIRST_PROVIDERS:
        return _FIRST_PROVIDERS.index(provider_id)
    return len(_FIRST_PROVIDERS)


def means_own_python(name: str) -> bool:
    """Return whether a name stands for OWN_KERNEL where no provider has a kernel type of this name.

    jupyter_client starts this interpreter's ipykernel under these names, too.
    """
    return name.lower() in OWN_PYTHON


def nearest_first(name: str, candidates: Iterable[str]) -> list[str]:
    """Return *candidates* sorted by similarity to *name*, ignoring case, then by name.

    Only the first 100 characters are compared, because comparing takes quadratic time.
    """
    matcher = SequenceMatcher(None, "", _compared(name))

    def unlikeness(candidate: str) -> tuple[float, bool, str]:
        matcher.set_seq1(_compared(candidate))
        return -matcher.ratio(), candidate.lower() != name.lower(), candidate

    return sorted(candidates, key=unlikeness)


def check_kernel_type(name: str, available: Iterable[str], *, remedy: str) -> str:
    """Check that a kernel type exists; return the name with the provider.

    The check ignores case, but not every provider does, so the launch may still refuse the name.

    Args:
        name: any name of the kernel type, with or without the provider.
        available: the names of all kernel types, with their providers.
        remedy: the advice in the error, in the imperative.

    Raises:
        NoSuchKernel: the kernel type is not among them.
    """
    there = list(available)
    found = launch_names(there).get(name.lower())
    if found is None:
        raise no_such_kernel(name, there, remedy=remedy)
    return found


def launch_names(available: Iterable[str]) -> dict[str, str]:
    """Return all names under which kernel types can be launched, in lower case, with their types.

    Args:
        available: the names of all kernel types, with their providers.
    """
    there = sorted(available, key=lambda known: provider_rank(known.partition("/")[0]))
    names: dict[str, str] = {}
    for known in there:
        names.setdefault(known.lower(), known)
        provider, _, short = known.lower().partition("/")
        if "/" not in short and provider != ENVIRONMENTS:
            names.setdefault(short, known)
    if OWN_KERNEL in there:
        for short in OWN_PYTHON:
            names.setdefault(short, OWN_KERNEL)
    return names


def no_such_kernel(name: str, available: Iterable[str], *, remedy: str) -> NoSuchKernel:
    """Return the exception for an unknown kernel type, with the nearest ten names.

    Args:
        name: the unknown name.
        available: the names of all kernel types, in any order.
        remedy: the advice, in the imperative.
    """
    there = nearest_first(name, available)
    more = f" and {len(there) - _MOST_NAMED} more" if len(there) > _MOST_NAMED else ""
    there_are = f"there are {', '.join(there[:_MOST_NAMED])}{more}" if there else "there are none"
    shown = repr(name[:_COMPARED]) + ("..." if len(name) > _COMPARED else "")
    return NoSuchKernel(
        f"no kernel type {shown}; {there_are}; {remedy}", name=name, available=there
    )


def _compared(name: str) -> str:
    return name[:_COMPARED].lower()
