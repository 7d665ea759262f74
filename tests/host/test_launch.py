from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import anyio
import pytest

from kernelproto.exceptions import (
    DiscoveryError,
    InvalidLaunchParameter,
    KernelExitedEarly,
    KernelInUse,
)
from kernelproto.host import link as link_module
from kernelproto.host.inquiry import ask_host
from kernelproto.host.launch import adopt_hosted, host_fault, launch_hosted
from kernelproto.host.local import LocalConnect
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.process.proc import children
from kernelproto.launch.spec.plan import LaunchPlan
from kernelproto.testing import check_adoption, check_kernel_manager

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("folder", "no_leaks")]

GUARD_SECONDS = 60

SLEEP = LaunchPlan(
    argv=("/bin/sh", "-c", "exec sleep 1000", "{connection_file}"),
    kernel_type="spec/sleep",
    transport="ipc",
)

# It is killed between the launch of a kernel and the first message of the kernel, which sends none.
KILLED = """
import os, signal
import anyio
from kernelproto.host import launch
from kernelproto.launch.spec.plan import LaunchPlan

launch._UNREADY_SECONDS = 0.2
argv = ("/bin/sh", "-c", "exec sleep 1000", "{connection_file}")

async def main():
    await launch.launch_hosted(LaunchPlan(argv=argv, transport="ipc"))
    os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main)
"""


def script(text: str, **options: object) -> LaunchPlan:
    return LaunchPlan(argv=("/bin/sh", "-c", text, "{connection_file}"), transport="ipc", **options)


class Adopting:
    async def adopt(self, handle):
        return await adopt_hosted(handle)


async def test_manager_keeps_the_contract() -> None:
    await check_kernel_manager(lambda: launch_hosted(SLEEP))


async def test_adoption_keeps_the_contract() -> None:
    await check_adoption(Adopting(), lambda: launch_hosted(SLEEP))


async def test_kernel_whose_launcher_is_killed_before_the_kernel_is_ready_ends() -> None:
    """The launch has no linger time; the fixture waits for the end of the host."""
    program = await anyio.run_process([sys.executable, "-c", KILLED], check=False, stderr=None)
    assert program.returncode == -signal.SIGKILL


async def linger_time(folder: str) -> float | None:
    (kernel,) = (await ask_host(LocalConnect(folder, starts=False), "list"))["kernels"]
    return kernel["linger"]


@pytest.mark.parametrize("adopts", [False, True])
async def test_kernel_without_a_linger_time_has_one_until_it_is_ready(folder, adopts) -> None:
    _, manager = await launch_hosted(SLEEP)
    if adopts:  # the first owner was killed before
        await manager.link.aclose()
        _, manager = await adopt_hosted(manager.handle())
    assert await linger_time(folder) == 60
    await manager.note_ready()
    assert await linger_time(folder) is None
    await manager.cleanup()


async def test_detached_kernel_without_a_linger_time_stays_without(folder) -> None:
    _, manager = await launch_hosted(SLEEP)
    await manager.detach()
    assert await linger_time(folder) is None
    _, manager = await adopt_hosted(manager.handle())
    await manager.cleanup()


async def test_linger_time_of_a_launch_stays_when_the_kernel_is_ready(folder) -> None:
    _, manager = await launch_hosted(SLEEP, linger=100)
    await manager.note_ready()
    assert await linger_time(folder) == 100
    await manager.cleanup()


async def test_files_and_record_are_there_until_the_end(folder, runtime_dir) -> None:
    info, manager = await launch_hosted(SLEEP)
    (record,) = read_records()
    assert record.process is not None
    assert (record.process.pid, record.host) == (manager.pid, folder)
    assert record.connection_file == manager.connection_file
    assert not record.is_abandoned
    assert os.stat(record.connection_file).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(info.ip)).st_mode & 0o777 == 0o700
    manager.list_as("mine")
    await manager.is_alive()
    assert read_records()[0].listed_as == "mine"
    await manager.cleanup()
    assert [path.name for path in runtime_dir.iterdir() if path.name != Path(folder).name] == []


async def test_exit_status_and_output() -> None:
    _, manager = await launch_hosted(script("echo hello; echo there >&2; exit 3"))
    with anyio.fail_after(GUARD_SECONDS):
        assert await manager.wait() == 3
    assert manager.output_tail() == "hello\nthere\n"
    assert not await manager.is_alive()
    await manager.cleanup()
    assert await manager.wait() == 3


async def test_output_to_a_file(tmp_path) -> None:
    output = tmp_path / "output"
    _, manager = await launch_hosted(script("echo hello; exit 1", output=str(output)))
    assert await manager.wait() == 1
    assert manager.output_tail() == "hello\n"
    await manager.cleanup()
    assert output.read_text() == "hello\n"


async def test_kernel_has_the_state_of_this_program(tmp_path) -> None:
    plan = script(
        "umask; pwd; echo $ONE; ulimit -n; trap", cwd=str(tmp_path), env={"ONE": "two words"}
    )
    before = os.umask(0o031)
    try:
        _, manager = await launch_hosted(plan)
    finally:
        os.umask(before)
    await manager.wait()
    lines = manager.output_tail().splitlines()
    assert lines[:3] == ["0031", str(tmp_path), "two words"]
    await manager.cleanup()


@pytest.mark.skipif(sys.platform != "linux", reason="limits work on Linux only")
async def test_limits(folder) -> None:
    plan = script("ulimit -n; while :; do :; done", limits=Limits(open_files=77, cpu_seconds=1))
    _, manager = await launch_hosted(plan)
    with anyio.fail_after(GUARD_SECONDS):
        assert await manager.wait() in (-signal.SIGXCPU, -signal.SIGKILL)
    assert manager.output_tail() == "77\n"
    assert "1 s of CPU time" in str(manager.death_reason())
    await manager.cleanup()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"argv": ("no-such-program", "{connection_file}")}, KernelExitedEarly, "no-such-program"),
        ({"argv": ("/etc/passwd",)}, KernelExitedEarly, "Permission denied"),
        ({"argv": ("a\0b",)}, InvalidLaunchParameter, "null byte"),
        ({"cwd": "/no/such/folder"}, InvalidLaunchParameter, "/no/such/folder"),
        ({"output": "/no/such/folder/file"}, KernelExitedEarly, "No such file"),
    ],
)
async def test_launch_that_the_system_refuses(changes, error, words) -> None:
    plan = LaunchPlan(**{"argv": ("sleep", "1000"), "transport": "ipc", **changes})
    with pytest.raises(error, match=words):
        await launch_hosted(plan)
    assert read_records() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transport": "tcp"}, "ipc"),
        ({"encrypted": True}, "encryption"),
        ({"output": print}, "path"),
        ({"connection_file": "/a"}, "connection file"),
    ],
)
async def test_plan_that_a_host_cannot_perform_is_refused(changes, words) -> None:
    plan = LaunchPlan(**{"argv": ("sleep", "1000"), "transport": "ipc", **changes})
    assert words in str(host_fault(plan))
    with pytest.raises(InvalidLaunchParameter, match=words):
        await launch_hosted(plan)


async def test_cancelled_launch_leaves_nothing() -> None:
    for delay in (0, 0.01, 0.05, 0.2):
        with anyio.move_on_after(delay):
            _, manager = await launch_hosted(SLEEP)
            await manager.cleanup()
        assert read_records() == []


async def test_two_programs_start_one_host(host_pid, host_and_guard) -> None:
    managers = []

    async def start() -> None:
        managers.append((await launch_hosted(SLEEP))[1])

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(start)
    assert len({host_pid()}) == 1
    assert {manager.pid for manager in managers} == set(children(host_pid())) - {
        host_and_guard()[1]
    }
    for manager in managers:
        await manager.cleanup()


async def test_second_owner_is_refused_until_the_first_has_left() -> None:
    _, manager = await launch_hosted(SLEEP)
    with pytest.raises(KernelInUse, match=str(os.getpid())) as caught:
        await adopt_hosted(manager.handle())
    assert caught.value.pid == os.getpid()
    await manager.detach()
    _, again = await adopt_hosted(manager.handle())
    assert again.pid == manager.pid
    assert again.command == manager.command
    await again.cleanup()
    with pytest.raises(DiscoveryError, match="has ended"):
        await adopt_hosted(manager.handle())


async def test_kernel_without_an_owner_ends_after_its_linger_time(until_gone) -> None:
    _, manager = await launch_hosted(SLEEP, linger=0.3)
    await manager.detach()
    _, again = await adopt_hosted(manager.handle())
    await anyio.sleep(0.6)
    assert await again.is_alive()
    await again.detach()
    await anyio.to_thread.run_sync(until_gone, manager.pid)


async def test_killed_host_takes_its_kernels_with_it(host_pid, until_gone) -> None:
    _, manager = await launch_hosted(script("sleep 1000 & exec sleep 1000"))
    os.kill(host_pid(), signal.SIGKILL)
    with anyio.fail_after(GUARD_SECONDS):
        assert await manager.wait() is None
    assert "host" in str(manager.death_reason())
    assert not await manager.is_alive()
    await manager.signal(signal.SIGINT)
    await anyio.to_thread.run_sync(until_gone, manager.pid)
    await manager.cleanup()
    _, after = await launch_hosted(SLEEP)  # by another host, which clears up
    await after.cleanup()


async def test_next_host_clears_up_after_host_and_watchdog(
    folder, host_and_guard, runtime_dir, until_gone, monkeypatch
) -> None:
    _, manager = await launch_hosted(SLEEP)
    host, guard = host_and_guard()
    os.kill(guard, signal.SIGSTOP)
    os.kill(host, signal.SIGKILL)
    os.kill(guard, signal.SIGKILL)
    assert await manager.wait() is None
    await manager.cleanup()
    monkeypatch.setattr("kernelproto.launch.leftovers.records._swept", set())
    _, after = await launch_hosted(SLEEP)
    until_gone(manager.pid)
    assert [record.kernel_id for record in read_records()] == [after.kernel_id]
    await after.cleanup()
    assert [path.name for path in runtime_dir.iterdir() if path.name != Path(folder).name] == []


async def test_lost_connection_comes_back(monkeypatch) -> None:
    monkeypatch.setattr(link_module, "_FIRST_RETRY_SECONDS", 0.001)
    _, manager = await launch_hosted(SLEEP)
    for _ in range(20):
        await manager.link.reconnect()
        assert await manager.is_alive()
    await manager.cleanup()
