"""Removal of folders that code of a user may have filled with any contents.

``shutil.rmtree`` opens one folder for each level of nesting. Code can nest folders so deep that
``rmtree`` reaches the limit of descriptors or of recursion, and the folder stays. Here a folder
that is too deep is first moved to the top.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
import uuid

# How many folders in one another are open at the same time.
MOST_OPEN = 32

_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0)


def remove_folder(path: str, *, parent: int | None = None) -> None:
    """Remove a folder with all contents; symbolic links are not followed. The call blocks.

    Args:
        path: the path of the folder.
        parent: the descriptor of the folder that the path is relative to; None means the working
            directory.

    Raises:
        OSError: a file cannot be removed. All others have been removed.
    """
    if sys.platform == "win32":
        shutil.rmtree(path)
        return
    failure: OSError | None = None
    failed: set[str] = set()
    top = os.open(path, _FOLDER, dir_fd=parent)
    try:
        while names := set(os.listdir(top)) - failed:
            for name in names:
                try:
                    _remove(name, top, top, 1)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    failed.add(name)
                    failure = failure or error
    finally:
        os.close(top)
    if failure is not None:
        raise failure
    os.rmdir(path, dir_fd=parent)


def _remove(name: str, outer: int, top: int, depth: int) -> None:
    """Remove a file or folder in an open folder; move folders that are too deep to the top."""
    if not _is_folder(name, outer):
        os.unlink(name, dir_fd=outer)
    elif depth == MOST_OPEN:
        os.rename(name, uuid.uuid4().hex, src_dir_fd=outer, dst_dir_fd=top)
    else:
        folder = os.open(name, _FOLDER, dir_fd=outer)
        try:
            for inner in os.listdir(folder):
                _remove(inner, folder, top, depth + 1)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=outer)


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
