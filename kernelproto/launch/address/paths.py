"""The paths of a kernel's files, which follow from the id and from Jupyter's runtime folder.

A record or a connection file that names another path is not trusted.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import suppress

from jupyter_core.paths import jupyter_runtime_dir

from kernelproto.launch.own_files import folder_fault

# The suffix of a draft. A complete draft replaces the file.
DRAFT = ".new"

# The paths of sockets must be short, so the name of a folder of sockets has only a part of the
# kernel's id.
_ID_LENGTH = 8

# The name of each socket is this, a hyphen and the number of the channel, one digit.
SOCKET_NAME = "kernel"

# sockaddr_un.sun_path without the terminating zero.
_LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107

_UUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_RECORD = re.compile(rf"({_UUID})\.json(?:{re.escape(DRAFT)})?")
_CLAIM = re.compile(rf"{_UUID}\.claim-\d{{1,18}}")
_CONNECTION_FILE = re.compile(rf"kernel-({_UUID})\.json")
_CONNECTION_DRAFT = re.compile(rf"{_CONNECTION_FILE.pattern}{re.escape(DRAFT)}")


def runtime_folder() -> str:
    """Return the absolute path of Jupyter's runtime folder.

    In a container the home folder is often read-only or missing. Then kernels use a private folder
    in the temporary folder, unless JUPYTER_RUNTIME_DIR is set.
    """
    folder = os.path.abspath(jupyter_runtime_dir())
    if os.environ.get("JUPYTER_RUNTIME_DIR") or os.name != "posix" or _can_be_made(folder):
        return folder
    return _private_temporary_folder() or folder


def _can_be_made(folder: str) -> bool:
    """Return whether this user may write to the folder, or may make the folder."""
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


def _private_temporary_folder() -> str | None:
    """Make the folder that replaces the runtime folder; return None for an untrusted folder."""
    try:
        folder = os.path.join(tempfile.gettempdir(), f"kernelproto-{os.geteuid()}")
    except OSError:  # no temporary folder can be written to
        return None
    with suppress(OSError):
        os.mkdir(folder, mode=0o700)
    # If another user has made the folder, that user could replace the files there.
    trusted = os.path.isdir(folder) and folder_fault(folder, private=True) is None
    return folder if trusted else None


def connection_file_name(kernel_id: str) -> str:
    """Return the name of a kernel's connection file, which is in the runtime folder."""
    return f"kernel-{kernel_id}.json"


def kernel_of_connection_file(path: str) -> str | None:
    """Return the kernel id in the name of a connection file in the runtime folder.

    None means that the file has another name, or is in another folder.
    """
    folder, name = os.path.split(os.path.abspath(path))
    match = _CONNECTION_FILE.fullmatch(name)
    return match[1] if match and folder == runtime_folder() else None


def kernel_of_record(name: str) -> str | None:
    """Return the kernel id in the name of a record or a draft; None for other names."""
    match = _RECORD.fullmatch(name)
    return None if match is None else match[1]


def is_record_draft(name: str) -> bool:
    """Return whether *name* is the name of the draft of a record."""
    return name.endswith(DRAFT) and kernel_of_record(name) is not None


def is_claim(name: str) -> bool:
    """Return whether *name* is the name of a claim on a kernel, see leftovers/claims.py."""
    return _CLAIM.fullmatch(name) is not None


def is_connection_draft(name: str) -> bool:
    """Return whether *name* is the name of the draft of a connection file."""
    return _CONNECTION_DRAFT.fullmatch(name) is not None


def socket_folder_name(kernel_id: str) -> str:
    """Return the name of the folder of a kernel's ipc sockets."""
    return f"kernel-{kernel_id[:_ID_LENGTH]}"


def socket_folders(kernel_id: str, folder: str) -> list[str]:
    """Return the possible paths of the folder of a kernel's ipc sockets.

    Args:
        kernel_id: a UUID.
        folder: the runtime folder.
    """
    name = socket_folder_name(kernel_id)
    try:
        temporary_folder = [os.path.abspath(tempfile.gettempdir())]
    except OSError:  # no temporary folder can be written to
        temporary_folder = []
    return [os.path.join(parent, name) for parent in [folder, *temporary_folder]]


def choose_socket_folder(kernel_id: str) -> str | None:
    """Return the path of the folder for a kernel's ipc sockets; always the same for one kernel.

    So a record can name the folder before the folder is made. None means that neither the runtime
    folder nor the temporary folder (TMPDIR) can hold sockets: their paths are too long, or are not
    valid UTF-8, as a connection file has to be.
    """
    for folder in socket_folders(kernel_id, runtime_folder()):
        if _can_be_socket_address(os.path.join(folder, f"{SOCKET_NAME}-0")):
            return folder
    return None


def is_text(path: str) -> bool:
    """Return whether a path is valid UTF-8, as JSON has to be."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _can_be_socket_address(path: str) -> bool:
    return len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH and is_text(path)
