"""A launch that fails for want of file descriptors says so, leaks nothing, and hits no kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GUARD_SECONDS = 300

PROGRAM = """
import os, resource
import anyio
from kernelproto import LaunchError, run_kernel

MOST = 256

async def inventory():
    found = []
    for folder, _, names in os.walk(os.environ["JUPYTER_RUNTIME_DIR"]):
        found += [os.path.join(folder, name) for name in names]
    return sorted(found), sorted(os.listdir("/proc/self/fd"))

def channels(state):
    with open("/proc/net/unix") as file:
        fields = [line.split() for line in file]
    folder = os.environ["JUPYTER_RUNTIME_DIR"]
    return {{line[7] for line in fields if line[5] == state and line[7:] and folder in line[7]}}

async def all_channels_are_connected():
    with anyio.fail_after(30):
        while channels("01") != channels("03"):  # listening, connected
            await anyio.sleep(0.01)

async def sweep(name, kernels):
    await all_channels_are_connected()
    before = await inventory()
    for free in range(0, 31, {stride}):
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            for _ in range(free):
                os.close(taken.pop())
        try:
            async with run_kernel(name) as kernel:
                print((await kernel.execute("6 * 7")).text)
        except LaunchError as error:
            print(error)
        finally:
            for descriptor in taken:
                os.close(descriptor)
        for kernel in kernels:
            assert (await kernel.execute("6 * 7")).text == "42"
        with anyio.fail_after(30):
            while await inventory() != before:
                await anyio.sleep(0.01)

async def main():
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, MOST))
    async with run_kernel("pyimport/kernel") as one, run_kernel("fork/kernel") as other:
        for name in ("pyimport/kernel", "fork/kernel"):
            await sweep(name, [one, other])

anyio.run(main, backend={backend!r})
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_sweep_of_free_descriptors(backend: str, runtime_dir: Path) -> None:
    """KERNELPROTO_SWEEP=1 in the environment sweeps every number from 0 to 30."""
    stride = int(os.environ.get("KERNELPROTO_SWEEP", "5"))
    program = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(backend=backend, stride=stride)],
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    lines = program.stdout.splitlines()
    failures = [line for line in lines if line != "42"]
    assert len(lines) == 2 * len(range(0, 31, stride))
    assert len(failures) < len(lines)
    assert "(open files: 256 of 256 in use)" in failures[0]
    for failure in failures:
        assert failure.startswith("the kernel could not be started: ")
        assert "file descriptors are left" in failure


@pytest.mark.parametrize("most", [16, 20])
def test_limit_that_is_too_low_for_any_kernel(most: int) -> None:
    """libzmq would end the program."""
    source = f"""
import resource
from kernelproto import LaunchError, run_kernel_blocking
with run_kernel_blocking():
    pass  # everything is loaded
resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))
try:
    with run_kernel_blocking():
        pass
except LaunchError as error:
    print(error)
"""
    program = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        timeout=GUARD_SECONDS,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    assert f" of {most} in use); close some, or raise the limit with ulimit -n" in program.stdout
