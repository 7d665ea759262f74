"""The server may open more files than its kernels."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="prlimit is Linux's own")

PROGRAM = """
import resource, subprocess, sys
from kernelproto.launch.process.open_files import lower_open_files, raise_open_files

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
lower_open_files(child.pid)  # nothing was raised yet
assert raise_open_files() == raise_open_files() == hard
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
assert resource.prlimit(other.pid, resource.RLIMIT_NOFILE) == (hard, hard)
lower_open_files(other.pid)
for process in (child, other):
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (100, hard)
    process.communicate(b"\\n")
lower_open_files(other.pid)  # it has ended
"""


def test_kernels_keep_the_limit_that_the_program_had_at_its_start() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
