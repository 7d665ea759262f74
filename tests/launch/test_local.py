from __future__ import annotations

import os
import signal
import sys

import anyio
import anyio.lowlevel
import pytest

from kernelproto.exceptions import (
    InvalidLaunchParameter,
    KernelExitedEarly,
    LaunchError,
    UnsupportedRequest,
)
from kernelproto.interfaces import DescribesFailure, KernelManager
from kernelproto.launch import local as module
from kernelproto.launch.local import launch_local
from kernelproto.wire.connection import ConnectionInfo

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
FOR_EVER = "import signal; signal.pause()"


async def launch(code: str, **options):
    """Launch a kernel that is a piece of Python code."""
    argv = [sys.executable, "-c", code, "{connection_file}", "{kernel_id}", "{other}"]
    _, manager = await launch_local(argv, **{"env": os.environ} | options)
    return manager


async def wait(manager: KernelManager) -> int | None:
    with anyio.fail_after(GUARD_SECONDS):
        return await manager.wait()


def exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_a_life(runtime_dir, transport) -> None:
    code = "import sys; print(open(sys.argv[1]).read(), file=sys.stderr); raise SystemExit(3)"
    info, manager = await launch_local(
        [sys.executable, "-c", code, "{connection_file}"],
        env=os.environ,
        transport=transport,
        kernel_name="spec/one",
    )
    assert isinstance(manager, KernelManager)
    assert isinstance(manager, DescribesFailure)
    assert manager.connection_info == info
    assert (info.transport, info.kernel_name) == (transport, "spec/one")
    assert manager.connection_file == str(runtime_dir / f"kernel-{manager.kernel_id}.json")
    assert manager.command == (sys.executable, "-c", code, manager.connection_file)
    assert await wait(manager) == 3
    assert manager.returncode == 3
    assert not await manager.is_alive()
    assert ConnectionInfo.from_json(manager.output_tail()) == info
    await manager.cleanup()
    assert list(runtime_dir.iterdir()) == []
    assert await wait(manager) == 3
    assert manager.returncode == 3
    assert not await manager.is_alive()
    assert ConnectionInfo.from_json(manager.output_tail()) == info


async def test_cleanup_ends_a_running_kernel(runtime_dir, mailbox) -> None:
    manager = await launch(
        "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('hello');"
        f"sys.stdout.flush(); {mailbox.script('1')}; signal.pause()"
    )
    await mailbox.receive()
    assert await manager.is_alive()
    assert manager.returncode is None
    assert manager.output_tail() == "hello\n"
    await manager.cleanup()
    assert not exists(manager.pid)
    assert await wait(manager) == -signal.SIGKILL
    assert manager.output_tail() == "hello\n"
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_nothing_is_left_when_cleanup_returns(resources, transport) -> None:
    before = resources()
    for _ in range(5):
        manager = await launch(FOR_EVER, transport=transport)
        await manager.cleanup()
        await manager.cleanup()
        assert resources() == before


async def test_sockets_of_the_kernel_are_removed(runtime_dir) -> None:
    manager = await launch(
        "import json, socket, sys; info = json.load(open(sys.argv[1]));"
        "socket.socket(socket.AF_UNIX).bind('%s-%d' % (info['ip'], info['hb_port']))",
        transport="ipc",
    )
    await wait(manager)
    assert f"{manager.connection_info.ip}-{manager.connection_info.hb_port}" in map(
        str, runtime_dir.rglob("*")
    )
    await manager.cleanup()
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize(
    ("method", "signum"),
    [("interrupt", signal.SIGINT), ("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)],
)
async def test_signals(mailbox, method, signum) -> None:
    manager = await launch(
        "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL);"
        f"{mailbox.script('1')}; signal.pause()"
    )
    await mailbox.receive()
    await getattr(manager, method)()
    assert await wait(manager) == -signum
    await getattr(manager, method)()
    await manager.cleanup()
    await getattr(manager, method)()


async def test_any_signal() -> None:
    manager = await launch(FOR_EVER)
    await manager.signal(signal.SIGUSR1)
    assert await wait(manager) == -signal.SIGUSR1
    await manager.cleanup()


async def test_interrupt_by_message() -> None:
    manager = await launch(FOR_EVER, interrupt_mode="message")
    with pytest.raises(UnsupportedRequest, match="interrupt_request on control"):
        await manager.interrupt()
    assert await manager.is_alive()
    await manager.cleanup()


async def test_environment_and_working_directory(tmp_path) -> None:
    manager = await launch(
        "import os; print(os.environ['JPY_PARENT_PID'], os.environ['A'], os.getcwd())",
        env={"A": "1", "JPY_PARENT_PID": "5"},
        cwd=str(tmp_path),
    )
    assert await wait(manager) == 0
    assert manager.output_tail() == f"{os.getpid()} 1 {tmp_path}\n"
    await manager.cleanup()


async def test_values_are_filled_in_but_never_those_of_the_launch() -> None:
    manager = await launch("", values={"other": "{kernel_id}", "connection_file": "elsewhere"})
    assert manager.command[-3:] == (manager.connection_file, manager.kernel_id, "{kernel_id}")
    await manager.cleanup()


async def test_output_never_holds_up_the_kernel() -> None:
    size = 5 * 1024 * 1024
    manager = await launch(
        f"import os\nfor _ in range({size} // 65536): os.write(2, b'x' * 65536)\nos.write(1, b'!')"
    )
    os.waitid(os.P_PID, manager.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - a busy event loop
    assert manager.output_tail() == "x" * (64 * 1024 - 1) + "!"
    await manager.cleanup()


async def test_what_outlives_the_kernel_goes_with_cleanup(mailbox) -> None:
    manager = await launch(
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[3]])",
        values={"other": f"import os, signal; {mailbox.script('os.getpid()')}; signal.pause()"},
    )
    straggler = os.pidfd_open(int(await mailbox.receive()))
    await manager.cleanup()
    with anyio.fail_after(GUARD_SECONDS):
        await anyio.wait_readable(straggler)
    os.close(straggler)


async def test_cleanup_in_many_tasks_while_others_wait(runtime_dir) -> None:
    manager = await launch(FOR_EVER)
    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(wait, manager)
        await anyio.wait_all_tasks_blocked()
        for _ in range(5):
            tasks.start_soon(manager.cleanup)
    assert await wait(manager) == -signal.SIGKILL
    assert list(runtime_dir.iterdir()) == []


async def test_cleanup_is_not_cancelled(resources, runtime_dir) -> None:
    before = resources()
    manager = await launch(FOR_EVER)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await manager.cleanup()
    assert not exists(manager.pid)
    assert resources() == before
    assert list(runtime_dir.iterdir()) == []
    assert manager.returncode == -signal.SIGKILL


async def test_cleanup_is_not_cancelled_while_it_waits(runtime_dir) -> None:
    manager = await launch(FOR_EVER)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(manager.cleanup)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    assert not exists(manager.pid)
    assert list(runtime_dir.iterdir()) == []


async def test_process_that_does_not_end(runtime_dir, monkeypatch, caplog) -> None:
    manager = await launch(FOR_EVER)
    with monkeypatch.context() as patch:
        # No script can withstand SIGKILL; a process that hangs in the kernel of the system can.
        patch.setattr(os, "killpg", lambda pgid, signum: None)
        patch.setattr(module, "_KILL_SECONDS", 0.01)
        await manager.cleanup()
    assert str(manager.pid) in caplog.text
    assert await manager.is_alive()
    assert list(runtime_dir.iterdir()) == []
    await manager.cleanup()
    assert not await manager.is_alive()


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
@pytest.mark.parametrize("command", ["no-such-command", "./kernel", "/", "./kernel/kernel"])
async def test_command_that_cannot_be_run(
    resources, runtime_dir, tmp_path, transport, command
) -> None:
    tmp_path.joinpath("kernel").touch(mode=0o600)
    before = resources()
    with pytest.raises(KernelExitedEarly, match=f"{command}.*installed, executable") as caught:
        await launch_local([command, "a b"], env=os.environ, cwd=str(tmp_path), transport=transport)
    assert caught.value.command == (command, "a b")
    assert caught.value.returncode is None
    assert "'a b'" in str(caught.value)
    assert resources() == before
    assert list(runtime_dir.iterdir()) == []


async def test_command_is_looked_for_on_the_path_of_the_kernel(tmp_path) -> None:
    tmp_path.joinpath("kernel").symlink_to("/bin/sh")
    _, manager = await launch_local(["kernel", "-c", "exit 3"], env={"PATH": str(tmp_path)})
    assert await wait(manager) == 3
    await manager.cleanup()


async def test_working_directory_that_does_not_exist(runtime_dir, tmp_path) -> None:
    with pytest.raises(InvalidLaunchParameter, match=r"working directory .*missing"):
        await launch(FOR_EVER, cwd=str(tmp_path / "missing"))
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("options", [{"env": {"A=B": "1"}}, {"values": {"other": "\0"}}])
async def test_what_no_program_can_be_given(runtime_dir, options) -> None:
    with pytest.raises(InvalidLaunchParameter, match="cannot be run"):
        await launch(FOR_EVER, **options)
    assert list(runtime_dir.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(24, "Too many open files"), RuntimeError("no thread")])
@pytest.mark.parametrize("step", ["OutputTail", "ProcessGroup"])
async def test_nothing_is_left_of_a_failure(
    resources, runtime_dir, monkeypatch, step, error
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(module, step, fail)
    before = resources()
    with pytest.raises(KernelExitedEarly, match=r"Too many open files|no thread"):
        await launch(FOR_EVER)
    assert resources() == before
    assert list(runtime_dir.iterdir()) == []


async def test_no_connection_file(runtime_dir, monkeypatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", os.devnull)
    with pytest.raises(LaunchError, match="JUPYTER_RUNTIME_DIR"):
        await launch(FOR_EVER)


async def test_cancelled_launch_has_made_nothing(resources, runtime_dir) -> None:
    before = resources()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await launch(FOR_EVER)
    assert scope.cancelled_caught
    assert resources() == before
    assert list(runtime_dir.iterdir()) == []


async def test_many_kernels_at_once(runtime_dir) -> None:
    managers = []

    async def start() -> None:
        managers.append(await launch(FOR_EVER))

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(start)
    infos = [manager.connection_info for manager in managers]
    ports = [port for info in infos for port in (info.shell_port, info.iopub_port, info.hb_port)]
    assert len(set(ports)) == len(ports)
    async with anyio.create_task_group() as tasks:
        for manager in managers:
            tasks.start_soon(manager.cleanup)
    assert list(runtime_dir.iterdir()) == []
