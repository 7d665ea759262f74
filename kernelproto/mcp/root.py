"""The root folder of the conversations: one that the user names, or a temporary one."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress

from anyio import to_thread

from kernelproto.concurrency.shield import to_the_end
from kernelproto.folder_removal import remove_folder

_PREFIX = "kernelproto-mcp-"
_LOCK = ".lock"

# A new temporary folder of another server may not be locked yet.
_SETTLED_SECONDS = 60.0

# How long the removal of the files may take at the end.
_REMOVE_SECONDS = 10.0


@asynccontextmanager
async def root_folder(path: str | None) -> AsyncGenerator[str]:
    """Give the root folder for the block, and do not block the event loop.

    Args:
        path: as for ``open_root``.

    Raises:
        OSError: the folder cannot be made.
    """
    opened = open_root(path)
    folder = await to_thread.run_sync(opened.__enter__)
    try:
        yield folder
    finally:
        await to_the_end(
            lambda: to_thread.run_sync(opened.__exit__, None, None, None, abandon_on_cancel=True),
            seconds=_REMOVE_SECONDS,
        )


@contextmanager
def open_root(path: str | None) -> Generator[str]:
    """Yield the root folder; its functions block.

    A temporary folder is removed at the end. If the server is killed, the next server removes the
    folder: each server locks a file in its folder, and the system unlocks the file when the server
    ends.

    Args:
        path: the path of the folder; a missing folder is made; None means a temporary folder.

    Raises:
        OSError: the folder cannot be made.
    """
    if path is not None:
        os.makedirs(path, mode=0o700, exist_ok=True)
        yield path
        return
    remove_abandoned()
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    try:
        with open(os.path.join(folder, _LOCK), "xb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
    finally:
        with suppress(OSError):
            remove_folder(folder)


def remove_abandoned(settled_seconds: float = _SETTLED_SECONDS) -> None:
    """Remove the temporary folders of servers of this user that were killed."""
    with os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            with suppress(OSError):  # another server removes the folder as well
                if entry.name.startswith(_PREFIX) and entry.is_dir(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    old = status.st_mtime < time.time() - settled_seconds
                    if status.st_uid == os.geteuid() and old and not _locked(entry.path):
                        remove_folder(entry.path)


def _locked(folder: str) -> bool:
    try:
        with open(os.path.join(folder, _LOCK), "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
