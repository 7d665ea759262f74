"""Reading /proc: processes, sockets, and the state of this program, as Linux tells them.

Only this module of the package reads /proc for launch/. The programs in launch/programs/ import
nothing of the package and have functions of their own; the package uses some of those of
programs/watchdog.py, such as start_time() and belongs_to_kernel().

On a system without /proc the answers are empty. A lack of file descriptors raises OSError, except
in functions that ignore errors.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

from kernelproto.launch.programs.watchdog import start_time

# The file does not exist, as opposed to a file that cannot be opened just now.
_NOT_THERE = (FileNotFoundError, NotADirectoryError, PermissionError)
_ENDED = (FileNotFoundError, ProcessLookupError)

_LISTENING = "0A"

# How long to wait for the end of a killed process, and how often to look.
_KILL_SECONDS = 1.0
_LOOK_SECONDS = 0.005


def boot_id() -> str:
    """Return the id of this boot of the machine; "" if unknown."""
    return _read("/proc/sys/kernel/random/boot_id").decode("ascii").strip()


def pid_namespace() -> str:
    """Return the name of this process' pid namespace; "" if unknown."""
    with suppress(*_NOT_THERE):
        return os.readlink("/proc/self/ns/pid")
    return ""


def oom_kills() -> int | None:
    """Return how many processes this system has killed for lack of memory; None if unknown.

    Errors are ignored.
    """
    try:
        found = re.search(rb"^oom_kill (\d+)$", _read("/proc/vmstat"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


# The state of the calling thread: processes inherit that of the thread that starts them.


def thread_status() -> dict[bytes, bytes]:
    """Return the lines of the calling thread's status, by their names."""
    lines = (line.partition(b":") for line in _read("/proc/thread-self/status").splitlines())
    return {name: value.strip() for name, _, value in lines}


def thread_namespaces() -> tuple[str, ...]:
    """Return the names of the calling thread's namespaces."""
    folder = "/proc/thread-self/ns"
    with suppress(*_NOT_THERE):
        return tuple(os.readlink(f"{folder}/{name}") for name in os.listdir(folder))
    return ()


def thread_control_groups() -> bytes:
    """Return the control groups of the calling thread."""
    return _read("/proc/thread-self/cgroup")


def oom_score_adj() -> str | None:
    """Return how likely the system is to kill this process for lack of memory; None if unknown."""
    return _read("/proc/self/oom_score_adj").decode().strip() or None


# Other processes.


def wait_for_ends(pids: Iterable[int]) -> None:
    """Wait at most a second for the ends of processes that were killed.

    A killed process frees its memory before it ends. It may also hang in a system call.

    Raises:
        OSError: there are too few file descriptors to examine the processes.
    """
    deadline = time.monotonic() + _KILL_SECONDS
    for pid in pids:
        while start_time(pid) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)


def command_line(pid: int) -> bytes:
    """Return the arguments of a process, each followed by a zero byte; b"" on any error."""
    with suppress(OSError):
        return _read(f"/proc/{pid}/cmdline")
    return b""


def children(pid: int) -> list[int]:
    """Return the child processes of a process; none on any error."""
    found: list[int] = []
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    return found


def sockets_of_group(group: int) -> set[str]:
    """Return the sockets of all processes in a group, or in the session of the same number.

    Raises:
        PermissionError: one of these processes belongs to another user.
    """
    return {file for pid in _members(group) for file in _open_files(pid)}


def tcp_listeners() -> Iterator[tuple[IPv4Address | IPv6Address, int, str]]:
    """Yield the address, the port and the socket of every tcp socket that listens.

    IPv4 addresses that are mapped to IPv6 are given as IPv4. Errors are ignored.
    """
    for table in ("tcp", "tcp6"):
        with suppress(OSError), open(f"/proc/net/{table}", encoding="ascii") as lines:
            next(lines)
            for line in lines:
                # sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...
                fields = line.split()
                if fields[3] == _LISTENING:
                    address, port = fields[1].split(":")
                    yield _address(address), int(port, 16), _socket(fields[9])


def unix_sockets() -> Iterator[tuple[str, str]]:
    """Yield the path and the socket of every unix socket with a path. Errors are ignored."""
    with suppress(OSError), open("/proc/net/unix", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            # Num RefCount Protocol Flags Type St Inode Path
            fields = line.rstrip("\n").split(maxsplit=7)
            if len(fields) == 8:
                yield fields[7], _socket(fields[6])


def _socket(inode: str) -> str:
    """Return the name of a socket in the links of /proc/PID/fd."""
    return f"socket:[{inode}]"


def _address(digits: str) -> IPv4Address | IPv6Address:
    """Read an address of /proc/net: words of 32 bits, each in the byte order of the machine."""
    words = (int(digits[start : start + 8], 16) for start in range(0, len(digits), 8))
    packed = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    if len(packed) == 4:
        return IPv4Address(packed)
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _members(group: int) -> Iterator[int]:
    """Yield the processes of a group, or of the session of the same number."""
    try:
        names = os.listdir("/proc")
    except _NOT_THERE:
        return
    for pid in map(int, filter(str.isdecimal, names)):
        with suppress(*_ENDED):
            # pid (name) state ppid pgrp session ...
            stat = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
            if str(group).encode() in stat[2:4]:
                yield pid


def _open_files(pid: int) -> Iterator[str]:
    with suppress(*_ENDED):
        for descriptor in os.scandir(f"/proc/{pid}/fd"):
            with suppress(*_ENDED):
                yield os.readlink(descriptor.path)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read() or b""
    except _NOT_THERE:
        return b""
