from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from kernelproto.exceptions import UnsupportedRequest
from kernelproto.interfaces import (
    DescribesFailure,
    ExplainsDeath,
    IsListed,
    KernelManager,
    MayLoseAddress,
)
from kernelproto.launch import launcher
from kernelproto.launch import local as module
from kernelproto.launch.leftovers.records import read_records
from kernelproto.launch.process.limits import Limits
from kernelproto.launch.spec.plan import LaunchPlan
from kernelproto.testing import check_kernel_manager
from kernelproto.wire.connection import ConnectionInfo

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
FOR_EVER = "import signal; signal.pause()"


async def launch(code: str, **options):
    """Launch a kernel that is a piece of Python code."""
    argv = [sys.executable, "-c", code, "{connection_file}", "{kernel_id}", "{other}"]
    _, manager = await launcher.launch(LaunchPlan(argv=argv, **options))
    return manager


async def wait(manager: KernelManager) -> int | None:
    with anyio.fail_after(GUARD_SECONDS):
        return await manager.wait()


def exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
async def test_a_life(runtime_dir, transport) -> None:
    code = "import sys; print(open(sys.argv[1]).read(), file=sys.stderr); raise SystemExit(3)"
    info, manager = await launcher.launch(
        LaunchPlan(
            argv=(sys.executable, "-c", code, "{connection_file}"),
            transport=transport,
            kernel_type="spec/one",
        )
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


async def test_address_that_another_program_has() -> None:
    manager = await launch(FOR_EVER, transport="tcp")
    assert isinstance(manager, MayLoseAddress)
    assert not manager.address_was_taken()
    with socket.create_server(("127.0.0.1", manager.connection_info.hb_port)):
        if sys.platform == "linux":
            assert manager.address_was_taken()
        await manager.kill()
        await wait(manager)
        assert manager.address_was_taken()
    assert not manager.address_was_taken()
    await manager.cleanup()


async def test_interrupt_by_message() -> None:
    manager = await launch(FOR_EVER, interrupt_mode="message")
    with pytest.raises(UnsupportedRequest, match="interrupt_request on control"):
        await manager.interrupt()
    assert await manager.is_alive()
    await manager.cleanup()


async def test_output_never_holds_up_the_kernel() -> None:
    size = 5 * 1024 * 1024
    manager = await launch(
        f"import os\nfor _ in range({size} // 65536): os.write(2, b'x' * 65536)\nos.write(1, b'!')"
    )
    os.waitid(os.P_PID, manager.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - a busy event loop
    assert manager.output_tail() == "x" * (64 * 1024 - 1) + "!"
    await manager.cleanup()


async def test_cleanup_ends_processes_that_outlive_the_kernel(mailbox) -> None:
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
        patch.setattr(module, "kill_members", lambda kernel_ids: set())
        patch.setattr(module, "_KILL_SECONDS", 0.01)
        await manager.cleanup()
    assert str(manager.pid) in caplog.text
    assert await manager.is_alive()
    assert [record.kernel_id for record in read_records()] == [manager.kernel_id]
    await manager.cleanup()
    assert not await manager.is_alive()
    assert list(runtime_dir.iterdir()) == []


async def test_cleanup_ends_processes_that_have_left_the_group(mailbox, until_gone) -> None:
    script = f"setsid sh -c 'echo $$ > {mailbox.path}; sleep 1000' & exit 0"
    _, manager = await launcher.launch(LaunchPlan(argv=("/bin/sh", "-c", script)))
    straggler = int(await mailbox.receive())
    assert await wait(manager) == 0
    assert exists(straggler)
    await manager.cleanup()
    await anyio.to_thread.run_sync(until_gone, straggler)


async def test_process_without_the_kernel_id_outlives_the_kernel(mailbox) -> None:
    script = f"env -u KERNELPROTO_KERNEL_ID setsid sh -c 'echo $$ > {mailbox.path}; sleep 1000' &"
    _, manager = await launcher.launch(LaunchPlan(argv=("/bin/sh", "-c", script)))
    server = int(await mailbox.receive())
    await manager.cleanup()
    assert exists(server)
    os.killpg(server, signal.SIGKILL)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cleanup_that_a_task_of_asyncio_is_torn_out_of(runtime_dir, mailbox, until_gone):
    """No shield of anyio's withstands the cancel() of a task."""
    script = f"setsid sh -c 'echo $$ > {mailbox.path}; sleep 1000' & sleep 1000"
    _, manager = await launcher.launch(LaunchPlan(argv=("/bin/sh", "-c", script)))
    straggler = int(await mailbox.receive())
    task = asyncio.create_task(manager.cleanup())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    until_gone(straggler)
    await manager.cleanup()
    assert list(runtime_dir.iterdir()) == []


async def test_other_programs_know_it_by_another_id(runtime_dir) -> None:
    manager = await launch(FOR_EVER)
    assert isinstance(manager, IsListed)
    before = read_records()
    for listed_as in ("mine", "yours"):
        manager.list_as(listed_as)
        (record,) = read_records()
        assert (record.kernel_id, record.listed_as) == (manager.kernel_id, listed_as)
    manager.list_as(manager.kernel_id)
    assert read_records() == before
    await manager.cleanup()
    manager.list_as("mine")
    assert list(runtime_dir.iterdir()) == []


async def test_id_that_cannot_be_written_down(runtime_dir, caplog) -> None:
    manager = await launch(FOR_EVER)
    draft = runtime_dir / "kernelproto" / f"{manager.kernel_id}.json.new"
    draft.mkdir()
    manager.list_as("mine")
    draft.rmdir()
    assert f"{manager.kernel_id} cannot be listed as mine" in caplog.text
    assert read_records()[0].listed_as == ""
    await manager.cleanup()


@pytest.mark.parametrize(
    ("script", "limits", "reason"),
    [
        ("echo Cannot allocate memory; exit 1", Limits(memory=2**40), "limit of memory"),
        ("exit 1", Limits(memory=2**40), None),
        ("exit 1", None, None),
    ],
)
async def test_death_by_a_limit(script, limits, reason) -> None:
    _, manager = await launcher.launch(LaunchPlan(argv=("/bin/sh", "-c", script), limits=limits))
    assert isinstance(manager, ExplainsDeath)
    assert manager.death_reason() is None or not await manager.is_alive()
    await wait(manager)
    found = manager.death_reason()
    assert found == reason if reason is None else reason in found
    await manager.cleanup()
    assert manager.death_reason() == found


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # it takes a second of CPU time
async def test_cpu_limit() -> None:
    manager = await launch("while True: pass", limits=Limits(cpu_seconds=1))
    assert await wait(manager) == -signal.SIGXCPU
    assert manager.death_reason() == "it had used up its 1 s of CPU time"
    await manager.cleanup()


async def test_memory_limit_of_python() -> None:
    manager = await launch("bytearray(2**40)", limits=Limits(memory=2**32))
    assert await wait(manager) == 1
    assert "limit of memory, 4294967296 bytes" in manager.death_reason()
    await manager.cleanup()


async def test_death_for_want_of_memory(monkeypatch) -> None:
    managers = [await launch(FOR_EVER) for _ in range(3)]
    os.kill(managers[0].pid, signal.SIGKILL)
    await managers[1].kill()
    os.kill(managers[2].pid, signal.SIGTERM)
    for manager in managers:
        await wait(manager)
        assert manager.death_reason() is None
    # The test cannot make the system kill processes, so it changes the count.
    count = module.oom_kills()
    monkeypatch.setattr(module, "oom_kills", lambda: count + 1)
    reasons = [manager.death_reason() for manager in managers]
    assert reasons == ["it was killed, perhaps because the machine ran out of memory", None, None]
    for manager in managers:
        await manager.cleanup()


async def test_detach_leaves_the_kernel_running(resources, until_gone) -> None:
    before = resources()
    manager = await launch(FOR_EVER, detached=True)
    await manager.detach()
    await manager.detach()
    await manager.cleanup()
    assert resources() == before
    assert exists(manager.pid)
    with pytest.raises(RuntimeError, match="released"):
        await manager.wait()
    (record,) = read_records()
    os.kill(manager.pid, signal.SIGKILL)
    until_gone(manager.pid)
    record.clear_up()
    # This program reaps the child when it starts the next one.
    other = await launch(FOR_EVER)
    assert not exists(manager.pid)
    await other.cleanup()


async def test_detach_refuses_a_kernel_not_launched_detached() -> None:
    manager = await launch(FOR_EVER)
    with pytest.raises(RuntimeError, match="detached"):
        await manager.detach()
    assert await manager.is_alive()
    await manager.cleanup()


async def test_detach_from_a_kernel_that_has_ended() -> None:
    manager = await launch("", detached=True)
    await wait(manager)
    (record,) = read_records()
    await manager.detach()
    record.clear_up()


async def test_output_callable_that_blocks_does_not_block_cleanup(monkeypatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(module, "_FORWARD_SECONDS", 0.01)
    manager = await launch("print('x' * 1_000_000)", output=lambda piece: go_on.wait())
    assert await wait(manager) == 0
    await manager.cleanup()
    go_on.set()


@pytest.mark.parametrize("options", [{}, {"detached": True}], ids=["attached", "detached"])
async def test_conformance(options) -> None:
    async def start():
        plan = LaunchPlan(argv=("sleep", "1000"), interrupt_mode="message", **options)
        return await launcher.launch(plan)

    await check_kernel_manager(start)
