"""The files that a kernel in a sandbox sees, as mounts. Linux only.

sandbox.py loads this file, which imports nothing of kernelproto.
"""

from __future__ import annotations

import os
import stat
from typing import Any

# One quota holds for all of these.
TMP = "/tmp"
HOME = "/tmp/home"
SHARED_MEMORY = "/tmp/.shm"

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}

# Bytes of a private folder for each file there.
BYTES_PER_FILE = 4096

Plan = dict[str, Any]

# The module namespaces.py, set by sandbox.py.
linux: Any = None


def mount_files(plan: Plan) -> None:
    """Mount the files that the kernel sees."""
    umask = os.umask(0o022)
    linux.keep_mounts_private()
    connection_file: str | None = plan["connection_file"]
    connection = b""
    if connection_file is not None:
        with open(connection_file, "rb", buffering=0) as file:
            connection = file.read()
    devices = {name: os.open(f"/dev/{name}", os.O_PATH) for name in DEVICES}
    # Opened before anything covers them: mounts are made from these descriptors.
    shown = {path: os.open(path, os.O_PATH) for path in plan["visible"]}
    written = {path: os.open(path, os.O_PATH) for path in plan["writable"]}
    folder = plan["socket_folder"]
    sockets: int | None = None if folder is None else os.open(folder, os.O_PATH)
    if folder is not None and os.geteuid() == 0:
        os.chown(folder, -1, plan["gid"])
        os.chmod(folder, 0o770)
    read_only = linux.ATTR_RDONLY if plan["read_only"] else 0
    linux.set_attributes("/", read_only | linux.ATTR_NOSUID | linux.ATTR_NODEV, recursive=True)
    if not read_only and os.path.ismount("/sys"):  # the kernel may own control groups
        linux.set_attributes("/sys", linux.ATTR_RDONLY, recursive=True)
    # The order puts a folder before its files. Covers have the opposite order, so that a folder
    # which is shown again shows no hidden subfolder.
    covers = sorted(plan["hidden"], reverse=True)
    for path in covers:
        cover(path, devices["null"])
    mount_private(TMP, plan["tmp"], "1777")
    for path, mode in ((HOME, 0o700), (SHARED_MEMORY, 0o1777)):
        os.mkdir(path)
        os.chmod(path, mode)
    if os.geteuid() == 0:
        os.chown(HOME, plan["uid"], plan["gid"])
    for path in sorted({*shown, *written}):
        is_writable = path in written
        bind((written if is_writable else shown)[path], path, is_writable=is_writable)
        if not is_writable:
            linux.set_attributes(path, linux.ATTR_RDONLY, recursive=True)
    for path, size in sorted(plan["private"].items()):
        make_place(path, is_folder=True)
        mount_private(path, size, "1777")
    if connection_file is not None:
        place(connection_file, connection, plan)
    if folder is not None and sockets is not None:
        bind(sockets, folder, is_writable=True)
        os.close(sockets)
    mount_devices(devices)
    for path in set(covers) - {*written, *plan["private"]}:  # there another mount hides the cover
        if os.path.isdir(path) and os.path.ismount(path):
            linux.set_attributes(path, linux.ATTR_RDONLY)
    linux.mount("proc", "/proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for descriptor in (*devices.values(), *shown.values(), *written.values()):
        os.close(descriptor)
    os.umask(umask)


def cover(path: str, null: int) -> None:
    """Hide a file or a folder."""
    try:
        mode = os.stat(path).st_mode
    except PermissionError:  # hidden already: the kernel has no more rights than this process
        return
    if stat.S_ISDIR(mode):
        options = f"size=1m,nr_inodes={BYTES_PER_FILE},mode=0755"
        linux.mount("tmpfs", path, linux.MS_NOSUID | linux.MS_NODEV, options)
    else:
        bind(null, path)  # without the device, and so not even readable


def mount_private(path: str, size: int, mode: str) -> None:
    """Mount an empty folder with a quota."""
    files = max(size // BYTES_PER_FILE, 64)
    linux.mount(
        "tmpfs",
        path,
        linux.MS_NOSUID | linux.MS_NODEV,
        f"size={size},nr_inodes={files},mode={mode}",
    )


def mount_devices(devices: dict[str, int]) -> None:
    """Mount a /dev with harmless devices only."""
    shared_memory = os.open(SHARED_MEMORY, os.O_PATH)
    linux.mount("tmpfs", "/dev", linux.MS_NOSUID | linux.MS_NOEXEC, "size=64k,mode=0755")
    for name, descriptor in devices.items():
        bind(descriptor, f"/dev/{name}")
        linux.set_attributes(f"/dev/{name}", 0, clear=linux.ATTR_NODEV)
    for name, target in LINKS.items():
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/dev/pts")
    linux.mount(
        "devpts",
        "/dev/pts",
        linux.MS_NOSUID | linux.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )
    os.symlink("pts/ptmx", "/dev/ptmx")
    bind(shared_memory, "/dev/shm", is_writable=True)
    os.close(shared_memory)
    linux.set_attributes("/dev", linux.ATTR_RDONLY)


def place(path: str, content: bytes, plan: Plan) -> None:
    """Write a file that the kernel may read, into a folder that was covered."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(content)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), plan["uid"], plan["gid"])


def bind(descriptor: int, path: str, *, is_writable: bool = False) -> None:
    """Mount an open file or folder at a path."""
    source = f"/proc/self/fd/{descriptor}"  # even if another mount covers the path
    make_place(path, is_folder=os.path.isdir(source))
    linux.bind(source, path)
    if is_writable:
        linux.set_attributes(path, 0, clear=linux.ATTR_RDONLY, recursive=True)


def make_place(path: str, *, is_folder: bool) -> None:
    """Make a file or folder as a mount point, unless it exists."""
    if os.path.lexists(path):
        return
    try:
        os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
        if not is_folder:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o444))
    except OSError as error:
        raise OSError(error.errno, f"{path!r} cannot be made: {error.strerror}") from error
