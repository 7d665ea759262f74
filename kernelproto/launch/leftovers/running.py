"""Kernels that run already, found by their connection files."""

from __future__ import annotations

import glob
import os

from kernelproto.exceptions import DiscoveryError
from kernelproto.launch.address.paths import runtime_folder
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.own_files import is_own_file, read_regular_file
from kernelproto.wire.connection import ConnectionInfo


def read_connection_file(name: str) -> ConnectionInfo:
    """Read the connection file that *name* means.

    Args:
        name: as for find_connection_file().

    Raises:
        DiscoveryError: there is no such file, or it cannot be read.
        RemoteProtocolError: it is no connection file.
    """
    path = find_connection_file(name)
    try:
        return ConnectionInfo.from_json(read_regular_file(path))
    except OSError as error:
        raise DiscoveryError(
            f"cannot read the connection file {path!r}: {error.strerror}"
        ) from error


def find_connection_file(name: str) -> str:
    """Return the path of the connection file that *name* means.

    Args:
        name: its path; or the name of a file in the Jupyter runtime folder; or a pattern, such as
            ``"kernel-*.json"``, of which the file that was changed last is taken; or a part of the
            name; or a part of the id that a kernel is listed under. In the runtime folder only
            regular files that belong to this user are found, no symbolic links.

    Raises:
        DiscoveryError: there is no such file.
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
