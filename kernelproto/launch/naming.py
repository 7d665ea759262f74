"""What kernel types are called, and what to tell somebody who asked for one that is not there."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

from kernelproto.exceptions import NoSuchKernel


def no_such_kernel(name: str, available: Iterable[str], *, remedy: str) -> NoSuchKernel:
    """Return the exception for an unknown kernel type.

    Args:
        name: what was asked for.
        available: the kernel types there are, in any order.
        remedy: what to do about it, as an order.
    """

    def likeness(candidate: str) -> float:
        return SequenceMatcher(None, name.lower(), candidate.lower()).ratio()

    nearest_first = sorted(available, key=likeness, reverse=True)
    there_are = f"there are {', '.join(nearest_first)}" if nearest_first else "there are none"
    return NoSuchKernel(
        f"no kernel type {name!r}; {there_are}; {remedy}", name=name, available=nearest_first
    )
