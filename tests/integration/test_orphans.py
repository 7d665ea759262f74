"""A program that gets the orphans of its kernels, as process 1 of a container does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

GUARD_SECONDS = 100

PROGRAM = """
import ctypes, os, sys
import anyio
from kernelproto import run_kernel

SUBREAPER = 36
assert ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0) == 0

async def main():
    async with run_kernel(sys.argv[1]) as kernel:
        await kernel.execute(
            "import subprocess\\n"
            "subprocess.run(['sh', '-c', '(setsid sleep 1000 &) ; (sleep 1000 &)'])"
        )
        await kernel.restart()

def zombies():
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, parent = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state == "Z":
            yield pid

anyio.run(main, backend=sys.argv[2])
print(list(zombies()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl and /proc")
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("kind", ["pyimport/kernel", "fork/kernel"])
def test_orphans_are_reaped(kind: str, backend: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind, backend],
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        env=os.environ,
    )
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
