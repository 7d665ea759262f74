"""The working directory for a client's kernel, found in a thread with bounded work."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import TypeVar

import anyio
from anyio import to_thread
from starlette.exceptions import HTTPException

from kernelproto.confined_folder import ConfinedFolder
from kernelproto.file_owner import Owner

T = TypeVar("T")

# PATH_MAX of Linux. A longer path cannot be opened.
MOST_PATH_BYTES = 4096

# Each part costs a system call, and may be a link.
MOST_PATH_PARTS = 200

# A network file system may never answer.
FOLDER_SECONDS = 10

_SEPARATORS = "".join(filter(None, ("/", os.sep, os.altsep)))


def check_path(path: str) -> None:
    """Check that a path from a client can be resolved with bounded work.

    Raises:
        ValueError: the path is too long or has too many parts.
    """
    size = len(path.encode(errors="replace"))
    if size > MOST_PATH_BYTES:
        raise ValueError(f"the path has {size} bytes; at most {MOST_PATH_BYTES} are allowed")
    parts = 1 + sum(map(path.count, set(_SEPARATORS)))
    if parts > MOST_PATH_PARTS:
        raise ValueError(f"the path has {parts} parts; at most {MOST_PATH_PARTS} are allowed")


async def find_folder(root: str, path: str, env: Mapping[str, str]) -> str:
    """Return the working directory for a kernel.

    A worker thread accesses the file system, so a slow file system delays only this request.

    Args:
        root: the folder that contains all paths.
        path: the path of the client's document or folder; may be empty.
        env: the client's variables. KERNEL_WORKING_DIR is used if *path* is empty.

    Raises:
        HTTPException: 503, the file system did not answer within FOLDER_SECONDS.
    """

    def find() -> str:
        return working_directory(root, path or gateway_path(root, env))

    return await _in_thread(find)


async def find_existing_folder(root: str, path: str) -> str:
    """Return a folder that a client names for a kernel.

    Args:
        root: the folder that contains all paths.
        path: the path of the folder, relative to *root*; may be empty.

    Raises:
        HTTPException: 400, there is no such folder in *root*; 503, the file system did not answer
            within FOLDER_SECONDS.
    """

    def find() -> str | None:
        base = os.path.realpath(root)
        folder = os.path.realpath(os.path.join(base, path.replace("\0", "")))
        inside = os.path.commonpath([base, folder]) == base
        return folder if inside and os.path.isdir(folder) else None

    folder = None if os.path.isabs(path) else await _in_thread(find)
    if folder is None:
        raise HTTPException(
            400,
            f"cwd: {path[:100]!r} is no folder here: name one relative to the root folder of the "
            "server",
        )
    return folder


def open_folder(root: str, path: str, owner: Owner | None) -> ConfinedFolder:
    """Open a folder that ``find_existing_folder`` has found; blocks.

    Meanwhile, code of the user's kernels may have put a link in place of a part of the path. Such a
    folder is refused.

    Args:
        root: the folder that contains all paths.
        path: the path of the folder.
        owner: the user whose rights open the folder and the files; None means the user of this
            process.

    Raises:
        Refused: the folder cannot be opened, or is no longer in the root.
    """
    base = os.path.realpath(root)
    with ConfinedFolder(base, owner=owner) as folder:
        return folder.folder(*PurePath(os.path.relpath(path, base)).parts)


async def _in_thread(find: Callable[[], T]) -> T:
    try:
        with anyio.fail_after(FOLDER_SECONDS):
            return await to_thread.run_sync(find, abandon_on_cancel=True)
    except TimeoutError:
        message = f"the file system did not answer within {FOLDER_SECONDS} s: try again later"
        raise HTTPException(503, message) from None


def gateway_path(root: str, env: Mapping[str, str]) -> str:
    """Return the folder in KERNEL_WORKING_DIR, relative to the root; "" without the variable.

    A jupyter_server with this server as the gateway sends the folder of a notebook on its own
    machine, often the same machine.
    """
    folder = env.get("KERNEL_WORKING_DIR", "").replace("\0", "")
    return folder and os.path.relpath(os.path.realpath(folder), os.path.realpath(root))


def working_directory(root: str, path: str) -> str:
    """Return the folder of a document, or the nearest parent folder that exists.

    Args:
        root: the folder that contains all paths; neither ``..`` nor a link leaves this folder.
        path: the path of a document or folder, with slashes.
    """
    root = os.path.realpath(root)
    folder = os.path.realpath(os.path.join(root, path.lstrip("/").replace("\0", "")))
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder if os.path.commonpath([root, folder]) == root else root
