"""Processes that SIGKILL does not end: they wait for a file system that does not answer.

The file system is a FUSE without a program behind it, in a mount namespace of its own, so other
programs do not see it. Linux gives up waiting for it when its descriptor is closed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

SERVE = """
import ctypes, os, struct, sys

def check(failed):
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

libc = ctypes.CDLL(None, use_errno=True)
fuse = os.open("/dev/fuse", os.O_RDWR)
check(libc.unshare(0x20000))  # CLONE_NEWNS
check(libc.mount(b"none", b"/", None, 0x44000, None))  # MS_REC | MS_PRIVATE
options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0".encode()
check(libc.mount(b"hangs", sys.argv[1].encode(), b"fuse", 0, options))
print("mounted", flush=True)
_, _, number = struct.unpack_from("=IIQ", os.read(fuse, 1 << 20))  # FUSE_INIT
answer = struct.pack("=IIIIHHI", 7, 12, 0, 0, 12, 12, 4096)
os.write(fuse, struct.pack("=IiQ", 16 + len(answer), 0, number) + answer)
while os.read(fuse, 1 << 20):
    print("hangs", flush=True)
"""

HANG = """
import ctypes, os
namespace = os.open("/proc/{pid}/ns/mnt", os.O_RDONLY)
assert ctypes.CDLL(None).setns(namespace, 0) == 0
os.listdir({folder!r})
"""


class Hanging:
    """A file system that does not answer.

    Attributes:
        code: Python code that hangs.
    """

    def __init__(self, program: subprocess.Popen[str], folder: str) -> None:
        self.code = HANG.format(pid=program.pid, folder=folder)
        self._program = program

    def wait(self) -> None:
        """Wait until a process that runs the code hangs."""
        assert self._read() == "hangs"

    def end(self) -> None:
        """Let all processes go on; those that were killed end."""
        self._program.kill()

    def _read(self) -> str:
        assert self._program.stdout is not None
        return self._program.stdout.readline().strip()


@contextmanager
def hanging() -> Iterator[Hanging]:
    """Give a file system that does not answer, or skip the test."""
    if sys.platform != "linux" or os.getuid() != 0 or not os.path.exists("/dev/fuse"):
        pytest.skip("only root can mount a file system that hangs, with FUSE on Linux")
    with (
        tempfile.TemporaryDirectory(prefix="kp-hangs-") as folder,
        subprocess.Popen(
            [sys.executable, "-c", SERVE, folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as program,
    ):
        found = Hanging(program, folder)
        try:
            if found._read() != "mounted":
                assert program.stderr is not None
                pytest.skip(f"FUSE cannot be used here: {program.stderr.read()[-200:]}")
            yield found
        finally:
            found.end()
