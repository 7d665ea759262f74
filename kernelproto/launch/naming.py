"""What kernel types are called, and what to tell somebody who asked for one that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher

from kernelproto.exceptions import NoSuchKernel

# Not only dots, because a name becomes a folder.
_SIMPLE_NAME = re.compile(r"(?!\.+\Z)[a-z0-9._-]+", re.IGNORECASE | re.ASCII)


_COMPARED_CHARACTERS = 100


def is_simple_name(name: object) -> bool:
    """Return whether *name* is fit for a provider or kernelspec: ASCII letters, digits, ``._-``."""
    return isinstance(name, str) and _SIMPLE_NAME.fullmatch(name) is not None


def nearest_first(name: str, candidates: Iterable[str]) -> list[str]:
    """Return *candidates* sorted by how much they look like *name*, upper and lower case alike.

    Those that do so equally are sorted by name. Of *name* only the beginning counts: the comparison
    takes quadratic time, and a client of the server chooses the name.
    """
    beginning = name[:_COMPARED_CHARACTERS].lower()

    def unlikeness(candidate: str) -> tuple[float, str]:
        return -SequenceMatcher(None, beginning, candidate.lower()).ratio(), candidate

    return sorted(candidates, key=unlikeness)


def check_kernel_type(name: str, available: Iterable[str], *, remedy: str) -> None:
    """Make sure that there is a kernel type, by any of the names that it is launched by.

    Some providers take upper and lower case alike, so it is the launch that may still say no.

    Args:
        name: what is asked for, with or without its provider.
        available: the kernel types there are, with their providers.
        remedy: what to do where it is not among them, as an order.

    Raises:
        NoSuchKernel: it is not.
    """
    there = list(available)
    names = there if "/" in name else [known.partition("/")[2] for known in there]
    if name.lower() not in map(str.lower, names):
        raise no_such_kernel(name, there, remedy=remedy)


def no_such_kernel(name: str, available: Iterable[str], *, remedy: str) -> NoSuchKernel:
    """Return the exception for an unknown kernel type.

    Args:
        name: what was asked for.
        available: the kernel types there are, in any order.
        remedy: what to do about it, as an order.
    """
    there = nearest_first(name, available)
    there_are = f"there are {', '.join(there)}" if there else "there are none"
    return NoSuchKernel(
        f"no kernel type {name!r}; {there_are}; {remedy}", name=name, available=there
    )
