"""Nothing waits without a limit for a process that SIGKILL does not end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from kernelproto.launch import launcher, local
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.output.tail import OutputTail
from kernelproto.launch.process import forkserver_client, posix
from kernelproto.launch.process.forkserver import ForkServer
from kernelproto.launch.process.posix import ProcessGroup
from kernelproto.launch.spec.plan import LaunchPlan
from tests.launch.process.hanging import Hanging, hanging

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60

# It gives up on its kernel.
PROGRAM = """
import sys
import anyio
from kernelproto.launch import launcher, local
from kernelproto.launch.spec.plan import LaunchPlan

async def main():
    _, manager = await launcher.launch(LaunchPlan(argv=(sys.executable, "-c", sys.argv[1])))
    print(manager.pid, flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    await manager.cleanup()

local._KILL_SECONDS = 0.2
anyio.run(main)
"""


@pytest.fixture
def system() -> Iterator[Hanging]:
    with hanging() as system:
        yield system


def exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def true(output: OutputTail) -> ProcessGroup:
    return ProcessGroup(["/bin/true"], env={}, cwd=None, output=output.write_end)


async def test_abort_leaves_a_process_that_hangs_to_the_next_launch(
    system: Hanging, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(posix, "_ABORT_SECONDS", 0.2)
    output = OutputTail()
    command = [sys.executable, "-c", system.code]
    group = ProcessGroup(command, env=os.environ, cwd=None, output=output.write_end)
    await anyio.to_thread.run_sync(system.wait)
    group.abort()
    assert f"process {group.pid} still runs 0.2 s after SIGKILL" in caplog.text
    assert exists(group.pid)
    system.end()
    with anyio.fail_after(GUARD_SECONDS):
        await anyio.wait_readable(group._sign)
    assert exists(group.pid)
    true(output).abort()
    assert not exists(group.pid)
    output.write_end.close()
    output.close()


async def test_cleanup_leaves_the_record_of_a_kernel_that_hangs(
    system: Hanging, runtime_dir, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(local, "_KILL_SECONDS", 0.2)
    _, manager = await launcher.launch(LaunchPlan(argv=(sys.executable, "-c", system.code)))
    await anyio.to_thread.run_sync(system.wait)
    await manager.cleanup()
    assert f"process {manager.pid} still runs 0.2 s after SIGKILL" in caplog.text
    (record,) = read_records()
    assert record.process is not None
    assert record.process.pid == manager.pid
    system.end()
    with anyio.fail_after(GUARD_SECONDS):
        assert await manager.wait() == -9
    await manager.cleanup()
    assert not exists(manager.pid)
    assert os.listdir(runtime_dir) == []


async def test_kernel_that_hangs_is_removed_after_the_end_of_its_program(
    system: Hanging, runtime_dir: Path, until_gone
) -> None:
    command = [sys.executable, "-c", PROGRAM, system.code]
    with anyio.fail_after(GUARD_SECONDS):
        async with await anyio.open_process(command, stderr=subprocess.PIPE) as program:
            assert program.stdout is not None
            assert program.stdin is not None
            assert program.stderr is not None
            pid = int(await program.stdout.receive())
            await anyio.to_thread.run_sync(system.wait)
            await program.stdin.send(b"\n")
            assert await program.wait() == 0
            assert f"process {pid} still runs".encode() in await program.stderr.receive()
    assert exists(pid)
    system.end()
    await anyio.to_thread.run_sync(until_gone, pid)
    with anyio.fail_after(GUARD_SECONDS):
        while os.listdir(runtime_dir):  # noqa: ASYNC110 - the watchdog tells nothing
            await anyio.sleep(0.01)


async def test_cleanup_does_not_wait_for_a_read_of_proc_that_blocks(
    runtime_dir: Path, monkeypatch, caplog
) -> None:
    answers = threading.Event()
    calls: list[object] = []

    def kill_members(kernel_ids: set[bytes]) -> set[int]:
        calls.append(kernel_ids)
        answers.wait(GUARD_SECONDS)
        return set()

    code = "import signal; signal.pause()"
    _, manager = await launcher.launch(LaunchPlan(argv=(sys.executable, "-c", code)))
    with monkeypatch.context() as patch:
        patch.setattr(local, "_KILL_SECONDS", 0.2)
        patch.setattr(local, "kill_members", kill_members)
        await manager.cleanup()
        assert not answers.is_set()
        answers.set()
    assert len(calls) == 1
    assert f"KERNELPROTO_KERNEL_ID={manager.kernel_id} may still run" in caplog.text
    assert len(read_records()) == 1
    await manager.cleanup()
    assert os.listdir(runtime_dir) == []


@pytest.mark.usefixtures("no_servers_left")
async def test_fork_server_that_hangs_is_left_to_the_next_one(
    system: Hanging, tmp_path: Path, monkeypatch, caplog, until_gone: Callable[[int], None]
) -> None:
    tmp_path.joinpath("hangs.py").write_text(system.code)
    monkeypatch.setattr(forkserver_client, "_END_SECONDS", 0.2)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        server = ForkServer.running(["hangs"])
    await anyio.to_thread.run_sync(system.wait)
    await anyio.to_thread.run_sync(server.close)
    assert f"the fork server: process {server.pid} still runs 0.2 s" in caplog.text
    assert exists(server.pid)
    system.end()
    with anyio.fail_after(GUARD_SECONDS):
        while state(server.pid) != "Z":  # noqa: ASYNC110 - no descriptor shows the end
            await anyio.sleep(0.01)
    ForkServer.running([])
    assert not exists(server.pid)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
