from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from kernelproto.launch.output.tail import OutputTail
from kernelproto.launch.process import posix as module
from kernelproto.launch.process.posix import ProcessGroup

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
FOR_EVER = "import signal; signal.pause()"

pidfd_open, waitid = os.pidfd_open, os.waitid


@pytest.fixture(params=["pidfd", "thread", "reaping thread"], autouse=True)
def end_sign(request, monkeypatch) -> str:
    """Run every test also without pidfd (old Linux) and without waitid (macOS, Python < 3.13)."""
    if request.param != "pidfd":
        monkeypatch.delattr(os, "pidfd_open")
    if request.param == "reaping thread":
        monkeypatch.delattr(os, "waitid")
    return request.param


@pytest.fixture
def reaps_last(end_sign) -> None:
    """Leave out a test where the child cannot help being reaped at once."""
    if end_sign == "reaping thread":
        pytest.skip("reaped by the thread that waits for it")


@pytest.fixture
def start() -> Iterator[Callable[..., ProcessGroup]]:
    """Give a function that runs Python code in a process group."""
    output = OutputTail()
    groups: list[ProcessGroup] = []

    def run(code: str, *arguments: object, **options) -> ProcessGroup:
        group = ProcessGroup(
            [sys.executable, "-c", code, *map(str, arguments)],
            **{"env": os.environ, "cwd": None, "output": output.write_end} | options,
        )
        groups.append(group)
        return group

    yield run
    for group in groups:
        group.kill()
        if not group.poll():
            let_it_end(group)
        group.close()
    output.close()


def let_it_end(group: ProcessGroup) -> None:
    """Come back when the process has ended, without the group knowing."""
    with suppress(ChildProcessError):
        waitid(os.P_PID, group.pid, os.WEXITED | os.WNOWAIT)
    if not hasattr(os, "waitid"):  # the thread is the one to know
        group._end._thread.join()


def reap(group: ProcessGroup) -> None:
    """Reap a child behind the back of the library."""
    with suppress(ChildProcessError):  # the thread was faster
        os.waitpid(group.pid, 0)


def exists(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


async def wait(group: ProcessGroup) -> int | None:
    with anyio.fail_after(GUARD_SECONDS):
        return await group.wait()


async def ended(pidfd: int) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        await anyio.wait_readable(pidfd)
    os.close(pidfd)


@pytest.mark.parametrize("status", [0, 7])
async def test_wait_returns_the_exit_status(start, status) -> None:
    group = start(f"raise SystemExit({status})")
    assert await wait(group) == status
    assert group.exit.returncode == status
    assert group.poll()


async def test_wait_returns_the_signal(start) -> None:
    group = start(FOR_EVER)
    assert not group.poll()
    assert group.exit is None
    group.kill()
    assert await wait(group) == -signal.SIGKILL


async def test_wait_does_not_hold_up_other_tasks(start, mailbox) -> None:
    group = start(f"{mailbox.script('1')}; {FOR_EVER}")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, group)
        await mailbox.receive()
        group.terminate()
    assert group.exit.returncode == -signal.SIGTERM


async def test_wait_in_many_tasks(start) -> None:
    group = start(FOR_EVER)
    statuses: list[int | None] = []

    async def note() -> None:
        statuses.append(await wait(group))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(note)
        await anyio.wait_all_tasks_blocked()
        group.kill()
    assert statuses == [-signal.SIGKILL] * 10


async def test_wait_goes_on_when_the_first_waiter_is_cancelled(start) -> None:
    group = start(FOR_EVER)
    statuses: list[int | None] = []

    async def note() -> None:
        statuses.append(await wait(group))

    async with anyio.create_task_group() as tasks:
        async with anyio.create_task_group() as first:
            first.start_soon(note)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(note)
            tasks.start_soon(note)
            await anyio.wait_all_tasks_blocked()
            first.cancel_scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert statuses == []
        group.kill()
    assert statuses == [-signal.SIGKILL] * 2


async def test_wait_goes_on_when_a_later_waiter_is_cancelled(start) -> None:
    group = start(FOR_EVER)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, group)
        await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0) as scope:
            await group.wait()
        assert scope.cancelled_caught
        group.kill()
    assert group.exit.returncode == -signal.SIGKILL


async def test_wait_may_be_cancelled_again_and_again(start) -> None:
    group = start(FOR_EVER)
    for _ in range(50):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(group.wait)
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    group.kill()
    assert await wait(group) == -signal.SIGKILL


async def test_poll_notices_the_end_while_a_task_waits(start) -> None:
    group = start(FOR_EVER)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, group)
        await anyio.wait_all_tasks_blocked()
        group.kill()
        let_it_end(group)
        assert group.poll()


async def test_close_keeps_the_exit_status(start) -> None:
    group = start("raise SystemExit(7)")
    await wait(group)
    group.close()
    group.close()
    assert await wait(group) == 7
    group.kill()


async def test_close_does_nothing_while_the_process_runs(start) -> None:
    group = start(FOR_EVER)
    group.close()
    group.kill()
    assert await wait(group) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("method", "signum"),
    [("interrupt", signal.SIGINT), ("terminate", signal.SIGTERM), ("kill", signal.SIGKILL)],
)
async def test_signals_reach_the_whole_group(start, mailbox, method, signum) -> None:
    group = start(
        "import os, signal, subprocess, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "child = subprocess.Popen([sys.executable, '-c', sys.argv[1]])\n"
        f"{FOR_EVER}",
        # Prints its number if the signal would end it without a traceback.
        "import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL);"
        f"{mailbox.script('os.getpid()')}; signal.pause()",
    )
    child = pidfd_open(int(await mailbox.receive()))
    getattr(group, method)()
    assert await wait(group) == -signum
    await ended(child)


async def test_signals_after_the_end_are_ignored(start, monkeypatch) -> None:
    group = start("")
    await wait(group)
    monkeypatch.setattr(os, "killpg", None)
    group.signal(signal.SIGUSR1)
    group.interrupt()
    group.terminate()
    group.kill()


def test_signals_between_the_end_and_its_discovery_are_ignored(start) -> None:
    group = start("")
    let_it_end(group)
    group.signal(signal.SIGUSR1)
    assert group.exit.returncode == 0


def test_impossible_signal(start) -> None:
    with pytest.raises(OSError, match="Invalid argument"):
        start(FOR_EVER).signal(10_000)


@pytest.mark.parametrize("notice", ["wait", "poll"])
async def test_processes_that_outlive_the_leader_are_killed(start, mailbox, notice) -> None:
    group = start(
        "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]]);"
        "sys.stdin.close(); input",
        f"import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"{mailbox.script('os.getpid()')}; signal.pause()",
    )
    straggler = pidfd_open(int(await mailbox.receive()))
    if notice == "wait":
        await wait(group)
    else:
        let_it_end(group)
        assert group.poll()
    await ended(straggler)
    assert group.exit.returncode == 0


@pytest.mark.usefixtures("reaps_last")
async def test_group_is_killed_before_its_leader_is_reaped(start, monkeypatch) -> None:
    group = start("")
    states: list[str] = []

    def killpg(pgid: int, signum: int) -> None:
        with open(f"/proc/{pgid}/stat") as stat:
            states.append(stat.read().rpartition(")")[2].split()[0])
        raise PermissionError

    monkeypatch.setattr(os, "killpg", killpg)
    assert await wait(group) == 0
    assert states == ["Z"]
    assert not exists(group.pid)


@pytest.mark.usefixtures("reaps_last")
async def test_reaped_by_another_part_of_the_program(start, monkeypatch) -> None:
    group = start("raise SystemExit(7)")
    reap(group)
    monkeypatch.setattr(os, "killpg", None)
    assert await wait(group) is None
    assert group.poll()
    group.kill()
    group.close()


@pytest.mark.usefixtures("reaps_last")
async def test_reaped_by_another_part_of_the_program_while_a_task_waits(start, mailbox) -> None:
    group = start(FOR_EVER)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, group)
        await anyio.wait_all_tasks_blocked()
        group.kill()
        reap(group)
    assert group.exit is None
    assert group.poll()


async def test_process_is_on_its_own(start, mailbox) -> None:
    group = start(
        f"import os, sys; {mailbox.script('(os.getsid(0), os.getpgid(0), sys.stdin.read())')}"
    )
    assert await mailbox.receive() == str((group.pid, group.pid, ""))
    await wait(group)


def test_command_that_does_not_exist() -> None:
    output = OutputTail()
    with pytest.raises(FileNotFoundError):
        ProcessGroup(["no-such-command"], env={}, cwd=None, output=output.write_end)
    output.close()


def test_process_that_cannot_be_watched_is_ended(start, monkeypatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("Too many open files")

    monkeypatch.setattr(module, "watch_exit", fail)
    pids: list[int] = []
    killpg = os.killpg
    monkeypatch.setattr(os, "killpg", lambda *args: (pids.append(args[0]), killpg(*args)))
    with pytest.raises(OSError, match="Too many"):
        start(FOR_EVER)
    assert len(pids) == 1
    assert not exists(pids[0])


def test_thread_that_watches_cannot_be_started(start, monkeypatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.delattr(os, "pidfd_open", raising=False)
    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="thread"):
        start(FOR_EVER)
    monkeypatch.undo()


async def test_no_descriptor_or_thread_is_left_when_close_returns(start, resources) -> None:
    before = resources()
    for _ in range(10):
        group = start(FOR_EVER)
        group.kill()
        await wait(group)
        group.close()
        assert resources() == before
