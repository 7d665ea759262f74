"""Folders: the working directory that a client asks for, bounded and looked for in a thread."""

from __future__ import annotations

import os
from collections.abc import Mapping

import anyio
from anyio import to_thread
from starlette.exceptions import HTTPException

# PATH_MAX of Linux. A longer path cannot be opened.
MOST_PATH_BYTES = 4096

# The file system is asked about each part, and each part may be a link.
MOST_PATH_PARTS = 200

# A network file system without its server does not answer at all.
FOLDER_SECONDS = 10

_SEPARATORS = "".join(filter(None, ("/", os.sep, os.altsep)))


def check_path(path: str) -> None:
    """Make sure that a path from a client can be looked up with bounded work.

    Raises:
        ValueError: the path is too long, or has too many parts.
    """
    size = len(path.encode(errors="replace"))
    if size > MOST_PATH_BYTES:
        raise ValueError(f"a path of {size} bytes; at most {MOST_PATH_BYTES} bytes are allowed")
    parts = 1 + sum(map(path.count, set(_SEPARATORS)))
    if parts > MOST_PATH_PARTS:
        raise ValueError(f"a path of {parts} parts; at most {MOST_PATH_PARTS} parts are allowed")


async def find_folder(root: str, path: str, env: Mapping[str, str]) -> str:
    """Return the working directory for a kernel.

    The file system is asked in a worker thread, so a slow file system delays this request only.

    Args:
        root: where all paths begin.
        path: of the document or folder that the client names; empty where it names none.
        env: the variables that the client sends; KERNEL_WORKING_DIR counts where *path* is empty.

    Raises:
        HTTPException: 503, the file system has not answered within FOLDER_SECONDS.
    """

    def find() -> str:
        return working_directory(root, path or gateway_path(root, env))

    try:
        with anyio.fail_after(FOLDER_SECONDS):
            return await to_thread.run_sync(find, abandon_on_cancel=True)
    except TimeoutError:
        message = f"the file system has not answered within {FOLDER_SECONDS} s: try again later"
        raise HTTPException(503, message) from None


def gateway_path(root: str, env: Mapping[str, str]) -> str:
    """Return the folder that a gateway's client wants, relative to the root; "" for none.

    A jupyter_server that uses this server as its gateway names the folder of a notebook on its own
    machine, which often is the same one.
    """
    folder = env.get("KERNEL_WORKING_DIR", "").replace("\0", "")
    return folder and os.path.relpath(os.path.realpath(folder), os.path.realpath(root))


def working_directory(root: str, path: str) -> str:
    """Return the folder that a document is in, or the nearest existing one above it.

    Args:
        root: where all paths begin; no path leads out of it, not even through a link.
        path: of a document or a folder, with slashes.
    """
    root = os.path.realpath(root)
    folder = os.path.realpath(os.path.join(root, path.lstrip("/").replace("\0", "")))
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder if os.path.commonpath([root, folder]) == root else root
