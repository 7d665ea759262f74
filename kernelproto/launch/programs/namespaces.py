"""The system calls of Linux that make a sandbox; each raises an error if refused.

sandbox.py loads this file, which imports nothing of kernelproto.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from typing import Any

if sys.platform != "win32":  # the package imports this file on all platforms
    import fcntl
    import pwd

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
ISOLATED = NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWPID
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442  # the same number on all architectures that Python supports
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP = 1, 4, 23, 24
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
KEYCTL_JOIN_SESSION_KEYRING = 1
SYS_KEYCTL = {
    "aarch64": 219,
    "armv7l": 311,
    "i686": 288,
    "loongarch64": 219,
    "ppc64le": 271,
    "riscv64": 219,
    "s390x": 280,
    "x86_64": 250,
}
CAPABILITY_VERSION = 0x20080522
# How many numbers of a range of users are tried.
MOST_CLAIMS = 2**16
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


class MountAttributes(ctypes.Structure):
    """The ``struct mount_attr`` of Linux."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


class Filter(ctypes.Structure):
    """The ``struct sock_fprog`` of Linux."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def unshare(name: str, flags: int) -> None:
    """Enter new namespaces."""
    check(name, libc.unshare(flags))


def fork_first() -> int | None:
    """Fork a process that is the first one of a new pid namespace; return as os.fork() does.

    Return None without a fork if this process may not do so.

    Raises:
        OSError: it cannot be forked.
        SystemExit: this process cannot return to its own pid namespace, so it has to end.
    """
    own = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        if libc.setns(own, NEWPID) < 0 or libc.unshare(NEWPID) < 0:
            return None
        pid = -1
        try:
            pid = os.fork()
        finally:
            if pid and libc.setns(own, NEWPID) < 0:
                raise SystemExit("cannot return to the pid namespace of this process")
        return pid
    finally:
        os.close(own)


def prctl(option: int, value: int) -> None:
    """Set an option of this process."""
    check(f"option {option} of the process", libc.prctl(option, value, 0, 0, 0))


def keep_mounts_private() -> None:
    """Let no mount of this namespace reach another one."""
    check("private mounts", libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))


def bind(source: str, path: str) -> None:
    """Mount a file or folder, with all mounts below, at a path."""
    flags = MS_BIND | MS_REC
    check(f"mount of {path!r}", libc.mount(source.encode(), os.fsencode(path), None, flags, None))


def mount(kind: str, path: str, flags: int, options: str = "") -> None:
    """Mount a file system of the kernel of Linux."""
    name = kind.encode()
    check(
        f"mount of {kind} at {path!r}",
        libc.mount(name, os.fsencode(path), name, flags, options.encode()),
    )


def unmount(path: str) -> None:
    """Remove the mount at a path."""
    check(f"end of the mount of {path!r}", libc.umount2(os.fsencode(path), 0))


def set_attributes(path: str, add: int, *, clear: int = 0, recursive: bool = False) -> None:
    """Change the attributes of a mount, or of all mounts below."""
    attributes = MountAttributes(add, clear, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    flags = AT_RECURSIVE if recursive else 0
    check(
        f"mount attributes of {path!r}",
        libc.syscall(
            SYS_MOUNT_SETATTR,
            AT_FDCWD,
            os.fsencode(path),
            flags,
            ctypes.byref(attributes),
            size,
        ),
    )


def enter_user_namespace() -> None:
    """Enter a new user namespace as the same user, with all capabilities there."""
    user, group = os.geteuid(), os.getegid()
    unshare("new user namespace", NEWUSER)
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{user} {user} 1")
    write("/proc/self/gid_map", f"{group} {group} 1")


def claim_user(first: int, last: int) -> tuple[int, socket.socket]:
    """Choose a number of a range of users; the number is claimed while the socket is open.

    All programs in this network namespace know the name of the socket, so no two kernels get the
    same number. A program that takes the names can only prevent kernels.
    """
    uids = range(first, last + 1)
    start = int.from_bytes(os.urandom(8), "big")
    claim = socket.socket(socket.AF_UNIX)
    for index in range(min(len(uids), MOST_CLAIMS)):
        uid = uids[(start + index) % len(uids)]
        try:
            pwd.getpwuid(uid)
        except KeyError:
            try:
                claim.bind(f"\0kernelproto-user-{uid}")
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return uid, claim
    claim.close()
    raise OSError(errno.EBUSY, f"every user of {first}-{last} has an account or a kernel")


def drop_capabilities() -> None:
    """Give up all capabilities of this process and of its later programs."""
    capability = 0
    while libc.prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0:
        check("capability", libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
        capability += 1
    header = struct.pack("Ii", CAPABILITY_VERSION, 0)
    check("capabilities", libc.capset(header, bytes(24)))
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def filter_system_calls(program: bytes) -> None:
    """Filter the system calls of this process and of its later programs."""
    pointer = ctypes.byref(Filter(len(program) // 8, program))
    check(
        "filter of system calls",
        libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, pointer, 0, 0),
    )


def leave_keyring() -> None:
    """Replace the session keyring of the caller by an empty one, if Linux has keyrings."""
    machine = os.uname().machine
    number = SYS_KEYCTL.get(machine)
    if number is None:
        raise OSError(errno.ENOSYS, f"new keyring: unknown machine {machine!r}")
    result = libc.syscall(number, KEYCTL_JOIN_SESSION_KEYRING, None)
    if result < 0 and ctypes.get_errno() != errno.ENOSYS:
        check("new keyring", result)


def bring_up_loopback() -> None:
    """Bring up the loopback interface of this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def write(path: str, text: str) -> None:
    """Write to a file of /proc."""
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(text.encode())
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from error


def check(name: str, result: int) -> None:
    """Raise an OSError with the name of a step, if the call of the C library has failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
