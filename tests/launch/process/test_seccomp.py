"""The filter of system calls, interpreted as Linux does it, for each architecture."""

from __future__ import annotations

import errno
import struct

import pytest

from kernelproto.launch.process.seccomp import REFUSED, seccomp_filter

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CALLS = {
    "x86_64": {
        "clone": 56,
        "socket": 41,
        "ioctl": 16,
        "personality": 135,
        "read": 0,
        "clone3": 435,
    },
    "aarch64": {
        "clone": 220,
        "socket": 198,
        "ioctl": 29,
        "personality": 92,
        "read": 63,
        "clone3": 435,
    },
}
ALLOWED, KILLED = "allowed", "killed"


def result(machine: str, number: int, *arguments: int, architecture: int | None = None) -> object:
    """Return what the filter does with a call: an error number, ALLOWED or KILLED."""
    data = struct.pack(
        "<iIQ6Q",
        number,
        ARCHITECTURES[machine] if architecture is None else architecture,
        0,
        *(argument % 2**64 for argument in (*arguments, *[0] * 6)[:6]),
    )
    program = list(struct.iter_unpack("<HBBI", seccomp_filter(machine)))
    position, word = 0, 0
    while True:
        operation, yes, no, value = program[position]
        position += 1
        match operation:
            case 0x20:
                [word] = struct.unpack_from("<I", data, value)
            case 0x06:
                match value:
                    case 0x7FFF0000:
                        return ALLOWED
                    case 0x80000000:
                        return KILLED
                    case _:
                        assert value >> 16 == 5
                        return value & 0xFFFF
            case _:
                tests = {0x15: word == value, 0x25: word > value, 0x35: word >= value}
                tests[0x45] = bool(word & value)
                position += yes if tests[operation] else no


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_and_their_arguments(machine: str) -> None:
    calls = CALLS[machine]
    for name, numbers in REFUSED.items():
        number = numbers[list(ARCHITECTURES).index(machine)]
        if number is not None:
            assert result(machine, number) == errno.EPERM, name
    assert result(machine, calls["read"]) == ALLOWED
    assert result(machine, 466) == ALLOWED
    assert result(machine, 467) == result(machine, calls["clone3"]) == errno.ENOSYS
    assert result(machine, -1) == result(machine, 0x40000000) == KILLED
    assert result(machine, calls["read"], architecture=0x40000003) == KILLED
    for flag in (17, 25, 26, 27, 28, 29, 30):  # CLONE_NEW*
        assert result(machine, calls["clone"], 1 << flag | 17) == errno.EPERM
    assert result(machine, calls["clone"], 0x1200011) == ALLOWED  # fork() of glibc
    assert result(machine, calls["clone"], 0x3D0F00) == ALLOWED  # a thread
    for family in range(50):
        wanted = ALLOWED if family in (1, 2, 10, 16) else errno.EAFNOSUPPORT
        assert result(machine, calls["socket"], family, 1, 0) == wanted
    assert result(machine, calls["socket"], 16, 3, 9) == errno.EPROTONOSUPPORT  # NETLINK_AUDIT
    assert result(machine, calls["ioctl"], 0, 0x5412) == errno.EPERM
    # Linux ignores the upper half of the request.
    assert result(machine, calls["ioctl"], 0, 1 << 32 | 0x5412) == errno.EPERM
    assert result(machine, calls["ioctl"], 0, 0x5413) == ALLOWED
    assert result(machine, calls["personality"], 0xFFFFFFFF) == ALLOWED
    assert result(machine, calls["personality"], 0x40000) == errno.EPERM


def test_an_unknown_architecture_has_no_filter() -> None:
    with pytest.raises(
        ValueError, match=r"no filter of system calls for 'riscv64', only for x86_64"
    ):
        seccomp_filter("riscv64")
