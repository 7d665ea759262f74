"""Launches on another machine that are interrupted when the host there has the kernel already."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import msgspec
import pytest
from anyio.abc import ByteStream

from kernelproto import KernelFinder, KernelPool
from kernelproto.host import launch as host_launch
from kernelproto.host.far_manager import _Greeted
from kernelproto.registry import SQLiteRegistry
from kernelproto.ssh import HostOptions, SSHProvider, launch
from kernelproto.ssh.connect import SSHConnect
from kernelproto.ssh.connection import connection_to
from tests.ssh.sshd import Sshd

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 100

# Longer than any test: if a kernel ends, a program has ended it.
LINGER_SECONDS = 3600.0

# It stops before it stores a handle.
INTERRUPTED = """
import sys

import anyio
import msgspec

from kernelproto import KernelFinder, KernelPool
from kernelproto.registry import SQLiteRegistry
from kernelproto.ssh import HostOptions, SSHProvider
from kernelproto.ssh.connection import connection_to

path, number = sys.argv[1], int(sys.argv[2])
options = msgspec.json.decode(sys.argv[3], type=HostOptions)

class Slow(SQLiteRegistry):
    async def set_handle(self, kernel_id, fence, handle):
        global number
        number -= 1
        if number:
            return await super().set_handle(kernel_id, fence, handle)
        print(kernel_id, connection_to("far", options)._master.pid, flush=True)
        await anyio.sleep_forever()

async def main():
    finder = KernelFinder([SSHProvider({"far": options}, linger=3600)])
    async with (
        Slow(path) as registry,
        KernelPool(kernel_type="ssh/far/python3", finder=finder, registry=registry) as pool,
    ):
        kernel = await pool.get("ada")
        await kernel.restart()

anyio.run(main)
"""


class Killed(NamedTuple):
    """A program that was killed."""

    kernel_id: str
    master: int


@pytest.fixture
def finder(sshd: Sshd) -> KernelFinder:
    return KernelFinder([SSHProvider({"far": sshd.options}, linger=LINGER_SECONDS)])


async def killed_at_handle(path: Path, number: int, options: HostOptions) -> Killed:
    """Kill a program before it stores the handle of a kernel for the given time."""
    settings = msgspec.json.encode(options).decode()
    command = [sys.executable, "-c", INTERRUPTED, str(path), str(number), settings]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220
    with program:
        kernel_id, master = (await anyio.to_thread.run_sync(program.stdout.readline)).split()
        program.kill()
    return Killed(kernel_id, int(master))


@asynccontextmanager
async def next_pool(path: Path, finder: KernelFinder) -> AsyncGenerator[KernelPool]:
    async with (
        SQLiteRegistry(path) as registry,
        KernelPool(kernel_type="ssh/far/python3", finder=finder, registry=registry) as pool,
    ):
        yield pool


def far_kernels(sshd: Sshd) -> list[int]:
    found: list[int] = []
    for pid in sshd.far_processes():
        with suppress(OSError):
            if b"ipykernel_launcher" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


async def until_nothing_is_left(sshd: Sshd) -> None:
    while sshd.far_processes():  # noqa: ASYNC110 - no event tells of their end
        await anyio.sleep(0.02)


async def test_next_pool_ends_the_kernel_of_an_interrupted_launch(
    tmp_path: Path, finder: KernelFinder, sshd: Sshd
) -> None:
    path = tmp_path / "kernels.sqlite"
    with anyio.fail_after(GUARD_SECONDS):
        killed = await killed_at_handle(path, 1, sshd.options)
        assert len(far_kernels(sshd)) == (1 if os.geteuid() == 0 else 0)
        async with next_pool(path, finder) as pool:
            assert pool.kernels() == []
            assert far_kernels(sshd) == []
        async with SQLiteRegistry(path) as registry:
            assert await registry.kernels() == []
        os.kill(killed.master, signal.SIGKILL)
        await until_nothing_is_left(sshd)


async def test_next_pool_goes_on_with_the_kernel_of_an_interrupted_restart(
    tmp_path: Path, finder: KernelFinder, sshd: Sshd
) -> None:
    path = tmp_path / "kernels.sqlite"
    with anyio.fail_after(GUARD_SECONDS):
        killed = await killed_at_handle(path, 2, sshd.options)
        before = far_kernels(sshd)
        async with next_pool(path, finder) as pool:
            assert pool.counts == {"restored": 1}
            kernel = await pool.get("ada")
            assert kernel.kernel_id == killed.kernel_id
            pid = int((await kernel.execute("import os; os.getpid()")).text)
            assert before in ([pid], [])
            await pool.release("ada")
        os.kill(killed.master, signal.SIGKILL)
        await until_nothing_is_left(sshd)


async def test_next_launch_ends_the_kernel_of_a_launch_whose_reply_was_lost(
    finder: KernelFinder, sshd: Sshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("the processes of the far side are told apart by their user")
    monkeypatch.setattr(host_launch, "_UNDO_SECONDS", 0.1)
    with anyio.fail_after(GUARD_SECONDS):
        async with connection_to("far", sshd.options).held() as connection:
            with anyio.CancelScope() as launching:

                class Stopped(_Greeted):
                    """The reply of the host stays on the way; then the caller gives up."""

                    async def receive(self, max_bytes: int = 65536) -> bytes:
                        if self._first:
                            return await super().receive(max_bytes)
                        while not far_kernels(sshd):  # noqa: ASYNC110 - no event tells
                            await anyio.sleep(0.01)
                        sshd.signal_sessions(signal.SIGSTOP)
                        launching.cancel()
                        await anyio.sleep_forever()
                        raise AssertionError

                class StoppedConnect(SSHConnect):
                    async def __call__(self) -> ByteStream:
                        stream = await super().__call__()
                        assert isinstance(stream, _Greeted)
                        return Stopped(stream._stream, stream._first)

                with monkeypatch.context() as patch:
                    patch.setattr(launch, "SSHConnect", StoppedConnect)
                    await finder.launch("ssh/far/python3")
            assert launching.cancelled_caught
            sshd.signal_sessions(signal.SIGKILL)
            (lost,) = far_kernels(sshd)
            assert len(connection.unended) == 1
            _, manager = await finder.launch("ssh/far/python3")
            assert connection.unended == {}
            assert lost not in far_kernels(sshd)
            await manager.cleanup()
        await until_nothing_is_left(sshd)
