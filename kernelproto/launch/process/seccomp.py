"""The filter of system calls of a sandbox, as a program for seccomp. PURE.

The filter refuses the calls in a table and lets all others pass, because a kernel runs any program.
Calls that are newer than the table are refused as if Linux did not have them. Calls of another
architecture have other numbers, and end the process.

Most calls in the table also need a capability, which a sandboxed kernel does not have. The filter
refuses them before the code for them runs in Linux, which often had faults.

Specification: "Seccomp BPF" in the documentation of Linux; linux/filter.h and linux/seccomp.h.
"""

from __future__ import annotations

import errno
import struct
from typing import NamedTuple

# The calls that are refused with EPERM: their numbers on x86_64 and on aarch64.
REFUSED: dict[str, tuple[int, int | None]] = {
    # Mounts and the root folder.
    "chroot": (161, 51),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "pivot_root": (155, 41),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "sysfs": (139, None),
    "umount2": (166, 39),
    "ustat": (136, None),
    # Namespaces.
    "setns": (308, 268),
    "unshare": (272, 97),
    # Other processes.
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    # Large parts of Linux with many faults in the past.
    "add_key": (248, 217),
    "bpf": (321, 280),
    "fanotify_init": (300, 262),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "keyctl": (250, 219),
    "perf_event_open": (298, 241),
    "request_key": (249, 218),
    "userfaultfd": (323, 282),
    # The machine.
    "acct": (163, 89),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "init_module": (175, 105),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "modify_ldt": (154, None),
    "reboot": (169, 142),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "settimeofday": (164, 170),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    # Calls of old versions of Linux.
    "_sysctl": (156, None),
    "create_module": (174, None),
    "get_kernel_syms": (177, None),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "query_module": (178, None),
    "uselib": (134, None),
}

# removexattrat, of Linux 6.13. Newer calls have not been examined.
_LAST_CALL = 466

# Programs fall back to clone, whose arguments a filter can read.
_CLONE3 = 435

# The x32 calls of x86_64.
_X32 = 0x40000000

_NEW_NAMESPACES = 0x7E020000  # CLONE_NEW*
_AF_NETLINK, _NETLINK_ROUTE = 16, 0
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
_TERMINAL_INPUT = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_PERSONALITIES = (0, 0xFFFFFFFF)  # the usual personality, and a query

# Operations of BPF, on a 32-bit word.
_LOAD, _IF_EQUAL, _IF_GREATER, _IF_AT_LEAST, _IF_ANY, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06

# The offsets of a call's number, the architecture and the lower halves of the arguments.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, (16, 24, 32)

_ALLOW, _KILL = 0x7FFF0000, 0x80000000


class _Machine(NamedTuple):
    """The numbers of an architecture."""

    column: int
    architecture: int
    clone: int
    socket: int
    ioctl: int
    personality: int


_MACHINES = {
    "x86_64": _Machine(0, 0xC000003E, clone=56, socket=41, ioctl=16, personality=135),
    "aarch64": _Machine(1, 0xC00000B7, clone=220, socket=198, ioctl=29, personality=92),
}

Program = list[tuple[int, int, int, int]]


def seccomp_filter(machine: str) -> bytes:
    """Return the filter as an array of ``struct sock_filter``.

    Args:
        machine: the architecture, as in ``os.uname().machine``.

    Raises:
        ValueError: the numbers of this architecture's calls are unknown.
    """
    if machine not in _MACHINES:
        raise ValueError(
            f"there is no filter of system calls for {machine!r}, only for {', '.join(_MACHINES)}"
        )
    of = _MACHINES[machine]
    numbers = [calls[of.column] for calls in REFUSED.values()]
    program: Program = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 1, 0, of.architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_if(_IF_AT_LEAST, _X32, _KILL),
        *_if(_IF_GREATER, _LAST_CALL, _refuse(errno.ENOSYS)),
        *_if(_IF_EQUAL, _CLONE3, _refuse(errno.ENOSYS)),
    ]
    for number in numbers:
        if number is not None:
            program += _if(_IF_EQUAL, number, _refuse(errno.EPERM))
    program += _call(of.clone, 0, _if(_IF_ANY, _NEW_NAMESPACES, _refuse(errno.EPERM)), _ALLOW)
    netlink = _call(
        _AF_NETLINK, 2, _if(_IF_EQUAL, _NETLINK_ROUTE, _ALLOW), _refuse(errno.EPROTONOSUPPORT)
    )
    families = [part for family in _FAMILIES for part in _if(_IF_EQUAL, family, _ALLOW)]
    program += _call(of.socket, 0, [*families, *netlink], _refuse(errno.EAFNOSUPPORT))
    inputs = [
        part
        for request in _TERMINAL_INPUT
        for part in _if(_IF_EQUAL, request, _refuse(errno.EPERM))
    ]
    program += _call(of.ioctl, 1, inputs, _ALLOW)
    usual = [part for value in _PERSONALITIES for part in _if(_IF_EQUAL, value, _ALLOW)]
    program += _call(of.personality, 0, usual, _refuse(errno.EPERM))
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *instruction) for instruction in program)


def _refuse(number: int) -> int:
    return 0x00050000 | number


def _if(test: int, value: int, result: int) -> Program:
    """Return a result if the loaded word passes a test; otherwise go on."""
    return [(test, 0, 1, value), (_RETURN, 0, 0, result)]


def _call(value: int, argument: int, tests: Program, otherwise: int) -> Program:
    """If the loaded word has a value, test an argument of the call, and return in any case."""
    inner = [(_LOAD, 0, 0, _ARGUMENTS[argument]), *tests, (_RETURN, 0, 0, otherwise)]
    return [(_IF_EQUAL, 0, len(inner), value), *inner]
