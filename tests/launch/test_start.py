from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import anyio
import pytest

from kernelproto.exceptions import InvalidLaunchParameter, LaunchError
from kernelproto.launch import start as module
from kernelproto.launch.launcher import launch_local
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.leftovers.watchdog import _Watchdog
from kernelproto.launch.local import LocalKernelManager
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.process.process_id import ProcessId

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60


async def launch(script: str, **options: object) -> LocalKernelManager:
    """Launch a kernel that is a shell script."""
    argv = ["/bin/sh", "-c", script, "{connection_file}"]
    _, manager = await launch_local(argv, **{"env": os.environ} | options)
    return manager


async def wait(manager: LocalKernelManager) -> int | None:
    with anyio.fail_after(GUARD_SECONDS):
        return await manager.wait()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_record_from_the_first_to_the_last(transport, runtime_dir) -> None:
    manager = await launch("sleep 1000", transport=transport, kernel_name="spec/one")
    (record,) = read_records()
    assert record.kernel_id == manager.kernel_id
    assert record.kernel_name == "spec/one"
    assert record.command == manager.command
    assert record.connection_file == manager.connection_file
    folder = os.path.dirname(manager.connection_info.ip) if transport == "ipc" else None
    assert record.socket_folder == folder
    assert record.process == ProcessId.of(manager.pid)
    assert record.owner == ProcessId.of(os.getpid())
    assert not record.detached
    await manager.kill()
    await wait(manager)
    assert read_records() == [record]
    await manager.cleanup()
    assert list(runtime_dir.iterdir()) == []


async def test_environment_of_the_kernel() -> None:
    manager = await launch("echo $JPY_PARENT_PID $KERNELPROTO_KERNEL_ID", env={})
    await wait(manager)
    assert manager.output_tail() == f"{os.getpid()} {manager.kernel_id}\n"
    await manager.cleanup()


async def test_environment_of_a_detached_kernel(tmp_path) -> None:
    manager = await launch(
        "echo $JPY_PARENT_PID $KERNELPROTO_KERNEL_ID",
        env={"JPY_PARENT_PID": "7"},
        detached=True,
        output=str(tmp_path / "out"),
    )
    assert _Watchdog.current is None
    (record,) = read_records()
    assert record.detached
    assert record.output == str(tmp_path / "out")
    await wait(manager)
    assert manager.output_tail() == f"{manager.kernel_id}\n"
    await manager.cleanup()


async def test_detached_kernel_can_write_for_ever() -> None:
    manager = await launch("echo lost && sleep 1000", detached=True)
    target = os.readlink(f"/proc/{manager.pid}/fd/1")
    assert target == os.readlink(f"/proc/{manager.pid}/fd/2") == os.devnull
    assert manager.output_tail() == ""
    await manager.cleanup()


async def test_output_of_a_detached_kernel_goes_to_a_file(tmp_path) -> None:
    with pytest.raises(InvalidLaunchParameter, match="detached"):
        await launch("true", detached=True, output=print)
    with pytest.raises(InvalidLaunchParameter, match="valid UTF-8"):
        await launch("true", detached=True, output=str(tmp_path / "\udce9"))
    with open(tmp_path / "out", "wb") as file:  # noqa: ASYNC230
        manager = await launch("echo hello", detached=True, output=file)
    await wait(manager)
    await manager.cleanup()
    assert tmp_path.joinpath("out").read_text() == "hello\n"


async def test_output_is_passed_on() -> None:
    received = bytearray()
    script = "i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done; echo end >&2"
    manager = await launch(script, output=received.extend)
    await wait(manager)
    await manager.cleanup()
    assert received.decode().split() == [*map(str, range(5000)), "end"]
    assert manager.output_tail() == received.decode()


async def test_output_is_nothing_to_write_to(runtime_dir) -> None:
    with pytest.raises(InvalidLaunchParameter, match="'output'"):
        await launch("true", output=1.5)
    assert list(runtime_dir.iterdir()) == []


async def test_arguments_that_are_no_text() -> None:
    name = os.fsdecode(b"\xff")
    _, manager = await launch_local(["/bin/echo", name], env=os.environ)
    await wait(manager)
    assert manager.output_tail() == "\ufffd\n"
    assert manager.command == ("/bin/echo", "\ufffd")
    await manager.cleanup()


async def test_record_cannot_be_written(runtime_dir, resources) -> None:
    obstacle = runtime_dir / "kernelproto"
    obstacle.touch()
    before = resources()
    with pytest.raises(LaunchError, match="record"):
        await launch("sleep 1000")
    assert resources() == before
    assert list(runtime_dir.iterdir()) == [obstacle]
    obstacle.unlink()


@pytest.mark.parametrize("step", ["limits", "record"])
async def test_nothing_is_left_when_the_last_step_fails(
    step, runtime_dir, resources, monkeypatch
) -> None:
    pids: list[int] = []

    def note(limits: Limits, pid: int) -> None:
        pids.append(pid)
        if step == "limits":
            raise InvalidLaunchParameter("no")
        Path(read_records()[0].path + ".new").touch()  # somebody is in the way

    monkeypatch.setattr(Limits, "apply", note)
    before = resources()
    with pytest.raises(LaunchError):
        await launch("sleep 1000", limits=Limits(memory=2**40))
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert resources() == before
    for file in [*runtime_dir.rglob("*.new")]:
        file.unlink()
        file.parent.rmdir()
    assert list(runtime_dir.iterdir()) == []


async def test_limits_are_checked_first(monkeypatch, runtime_dir) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InvalidLaunchParameter, match="on Linux alone"):
        await launch("true", limits=Limits(memory=2**40))
    assert list(runtime_dir.iterdir()) == []


async def test_kernel_is_limited() -> None:
    manager = await launch("sleep 1000", limits=Limits(open_files=77))
    assert resource.prlimit(manager.pid, resource.RLIMIT_NOFILE) == (77, 77)
    await manager.cleanup()


async def test_watchdog_is_told_before_the_number_goes_free(monkeypatch) -> None:
    seen: list[str] = []
    group_ended = module.Watch.group_ended

    def note(self: module.Watch) -> None:
        with open(f"/proc/{self._charge.group}/stat") as stat:
            seen.append(stat.read().rpartition(")")[2].split()[0])
        group_ended(self)

    monkeypatch.setattr(module.Watch, "group_ended", note)
    manager = await launch("exit 0")
    await wait(manager)
    assert seen == ["Z"]
    assert manager._watch._charge.group == 0
    await manager.cleanup()
    assert _Watchdog.charges == {}
