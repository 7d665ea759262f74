from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from kernelproto import KernelDied, run_kernel
from kernelproto.launch.process.forkserver import ForkServer
from kernelproto.launch.programs import forkserver
from tests.launch.process.forks import children_of, evaluate, finder, fork

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left")]

GUARD_SECONDS = 60


def sockets_of(pid: int) -> set[str]:
    links = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.add(str(descriptor.readlink()))
    return {link for link in links if link.startswith("socket:")}


async def test_loaded_modules_and_open_descriptors() -> None:
    async with run_kernel("fork/kernel", finder=finder("wave")) as kernel:
        assert await evaluate(kernel, "import os, sys; 'wave' in sys.modules")
        server = await evaluate(kernel, "os.getppid()")
        kernels = sockets_of(kernel.manager.pid)
        assert kernels
        assert not kernels & (sockets_of(server) | sockets_of(os.getpid()))


async def test_kernels_inherit_descriptors_of_modules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "opens_something.py").write_text("file = open(__file__)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    async with run_kernel("fork/kernel", finder=finder("opens_something")) as kernel:
        assert (
            await evaluate(kernel, "import opens_something; opens_something.file.read(4)") == "file"
        )


async def test_kernel_that_dies(runtime_dir: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with run_kernel("fork/kernel", finder=finder()) as kernel:
            with pytest.raises(KernelDied, match="exit status 3"):
                await kernel.execute("import os; os._exit(3)")
            await kernel.restart()
            await kernel.manager.signal(signal.SIGKILL)  # which the fork server sends
            with pytest.raises(KernelDied, match="SIGKILL"):
                await kernel.execute("import time; time.sleep(60)")


async def test_server_that_has_no_descriptors_left_keeps_its_kernels(tmp_path: Path) -> None:
    """The last descriptor may be missing for the working directory or for the output."""
    server = ForkServer.running([])
    process = await fork(server, "-f", str(tmp_path / "kernel.json"))
    used = set(map(int, os.listdir(f"/proc/{server.pid}/fd")))
    unused = [number for number in range(100) if number not in used]
    limits = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    for number in unused[:4]:
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (number, limits[1]))
        with pytest.raises(OSError, match="Too many open files"):
            await fork(server, "-f", str(tmp_path / "other.json"))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, limits)
    other = await fork(server, "--version")
    assert await other.wait() == 0
    other.close()
    assert not process.poll()
    process.abort()


def test_end_of_a_kernel_takes_the_same_steps_with_any_number_of_kernels() -> None:
    program = f"""
import os, runpy, signal, socket, types
names = runpy.run_path({forkserver.__file__!r})
counts = []
for number in (1, 20):
    _, end = socket.socketpair()
    server = names["Server"](end, types.SimpleNamespace(), None)
    module_child = os.fork() or os._exit(0)
    for _ in range(number):
        server.kernels.add(os.fork() or signal.pause())
    last = max(server.kernels)
    os.kill(last, signal.SIGKILL)
    waitid, calls = os.waitid, []
    os.waitid = lambda *args: calls.append(1) or waitid(*args)
    while last in server.kernels:
        calls.clear()
        server.reap()
    os.waitid = waitid
    counts.append(len(calls))
    assert len(server.kernels) == number - 1
    for pid in server.kernels:
        os.kill(pid, signal.SIGKILL)
    while server.kernels:
        server.reap()
print(max(counts))
"""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, check=True, capture_output=True, timeout=GUARD_SECONDS)
    assert int(ran.stdout) <= 3  # the kernel, the child of a module, and no more


@pytest.mark.parametrize(
    "end",
    [
        "server.leave()",
        'server.signal({"pid": pid, "signal": 9, "number": 1, "by": time.monotonic() + 60})',
    ],
)
def test_end_of_a_process_that_has_no_group_of_its_own_yet(end: str) -> None:
    program = f"""
import os, runpy, signal, socket, time, types
names = runpy.run_path({forkserver.__file__!r})
_owner, end = socket.socketpair()
server = names["Server"](end, types.SimpleNamespace(), None)
pid = os.fork() or signal.pause()
server.kernels.add(pid)
{end}
print(os.waitpid(pid, 0)[1])
"""
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, check=True, capture_output=True, timeout=GUARD_SECONDS)
    assert int(ran.stdout) == signal.SIGKILL


async def test_kernel_that_hangs_does_not_block_others(hanging: str, until_gone) -> None:
    server = ForkServer.running([])
    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(fork, server, "-f", "kernel.json", TZ=hanging))
            process = await fork(server, "--version")
            assert await process.wait() == 0
            process.close()
            (pid,) = children_of(server.pid)
            tasks.cancel_scope.cancel()
        await anyio.to_thread.run_sync(until_gone, pid)
        assert not server.dead
