"""Files of another user, opened with the rights of that user. Linux only, for a process of root.

Code of a user can replace a folder by a link at any time. A process of root follows such a link to
the files of every other user. So the thread that opens a user's files gives up the rights of root
to files meanwhile, and Linux checks each access as one of the user.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

_UNCHANGED = 2**32 - 1


class Owner(NamedTuple):
    """The numbers of a user and of the user's group."""

    uid: int
    gid: int


@contextmanager
def rights_of(owner: Owner | None) -> Generator[None]:
    """Access files in the block as another user, who also owns the new files.

    This applies only to the calling thread, and to threads that it starts in the block. The thread
    keeps the supplementary groups of the process, so run a server of root without such groups.

    Args:
        owner: the user; None means the user of this process.

    Raises:
        PermissionError: this process is not root.
    """
    if owner is None:
        yield
        return
    own = Owner(os.geteuid(), os.getegid())
    try:
        _become(owner)
        yield
    finally:
        _become(own)


def _become(owner: Owner) -> None:
    calls = _calls()
    calls.setfsgid(owner.gid)
    calls.setfsuid(owner.uid)
    # These calls report no errors. They return the number that was set before.
    if (calls.setfsuid(_UNCHANGED), calls.setfsgid(_UNCHANGED)) != owner:
        raise PermissionError(f"only a process of root can access files as user {owner.uid}")


@cache
def _calls() -> Any:
    calls = ctypes.CDLL(None)
    for call in (calls.setfsuid, calls.setfsgid):
        call.argtypes = [ctypes.c_uint32]
        call.restype = ctypes.c_uint32
    return calls
