"""Finding the connection files of running kernels."""

from __future__ import annotations

import glob
import os

from kernelproto.exceptions import DiscoveryError
from kernelproto.launch.address.paths import runtime_folder
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.own_files import is_own_file, read_regular_file
from kernelproto.wire.connection import ConnectionInfo


def read_connection_file(name: str) -> ConnectionInfo:
    """Find and read a connection file.

    Args:
        name: as for find_connection_file().

    Raises:
        DiscoveryError: the file does not exist or cannot be read.
        RemoteProtocolError: the file is not a connection file.
    """
    path = find_connection_file(name)
    try:
        return ConnectionInfo.from_json(read_regular_file(path))
    except OSError as error:
        raise DiscoveryError(
            f"cannot read the connection file {path!r}: {error.strerror}"
        ) from error


def find_connection_file(name: str) -> str:
    """Return the path of a connection file.

    Args:
        name: the path; or the name of a file in the Jupyter runtime folder, a part of the name, or
            a pattern such as ``"kernel-*.json"``, which means the newest of these files; or a part
            of the id under which a kernel is listed. In the runtime folder, only regular files of
            this user are found, no symbolic links.

    Raises:
        DiscoveryError: no file was found.
    """
    if os.path.exists(name):
        return name
    folder = runtime_folder()
    for pattern in (name, f"*{name}*"):
        found = [path for path in glob.glob(os.path.join(folder, pattern)) if is_own_file(path)]
        if found:
            return max(found, key=os.path.getmtime)
    for record in read_records(folder):
        if name in record.listed_as:
            return record.connection_file
    raise DiscoveryError(f"no connection file {name!r}, neither here nor in {folder!r}")
