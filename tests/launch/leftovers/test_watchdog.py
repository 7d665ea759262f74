from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from kernelproto.launch.leftovers import watchdog as module
from kernelproto.launch.leftovers.watchdog import Hold, Watch
from kernelproto.launch.programs.watchdog import KERNEL_ID_VARIABLE, WatchedKernel, start_time

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def start() -> Iterator[Callable[[], subprocess.Popen]]:
    """Give a function that starts a process in a session of its own."""
    processes: list[subprocess.Popen] = []

    def run() -> subprocess.Popen:
        processes.append(subprocess.Popen(["sleep", "1000"], start_new_session=True))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def watch(tmp_path) -> Iterator[Callable[..., Watch]]:
    """Give a function that has a process watched."""
    watches: list[Watch] = []

    def begin(process: subprocess.Popen | None = None) -> Watch:
        pid = 0 if process is None else process.pid
        name = f"kernel {len(watches)}".encode()
        kernel = WatchedKernel(name, pid, start_time(pid), bytes(tmp_path / "record"), [])
        watches.append(Watch(kernel))
        return watches[-1]

    yield begin
    for watch in watches:
        watch.close()


def watchdogs() -> list[int]:
    """Return the children of this process that are watchdogs."""
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        children = file.read().split()
    return [int(pid) for pid in children if "programs/watchdog.py" in command_line(pid)]


def command_line(pid: str) -> str:
    while True:
        with open(f"/proc/{pid}/cmdline") as file:
            if line := file.read():
                return line
        # The environment is missing just after Popen() returns, and again after the end.
        if start_time(int(pid)) == "":
            return ""


def test_one_process_from_the_first_kernel_to_the_last(watch) -> None:
    assert watchdogs() == []
    first = watch()
    (pid,) = watchdogs()
    second = watch()
    first.close()
    first.close()
    third = watch()
    second.close()
    assert watchdogs() == [pid]
    third.close()
    assert watchdogs() == []


def test_one_process_for_all_kernels_during_a_hold(watch) -> None:
    hold, other = Hold(), Hold()
    (pid,) = watchdogs()
    for _ in range(2):
        watch().close()
        assert watchdogs() == [pid]
    hold.close()
    hold.close()
    assert watchdogs() == [pid]
    kernel = watch()
    other.close()
    assert watchdogs() == [pid]
    kernel.close()
    assert watchdogs() == []


def test_watchdog_of_a_hold_forgets_kernels(watch, start) -> None:
    forgotten, watched = start(), start()
    hold = Hold()
    watch(forgotten).close()
    watch(watched)
    end_pipe()
    assert watched.wait() == -signal.SIGKILL
    assert forgotten.poll() is None
    hold.close()


def test_watchdog_that_was_killed_during_a_hold_is_replaced_for_the_next_kernel(watch) -> None:
    hold = Hold()
    first = watch()
    (pid,) = watchdogs()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    first.close()
    assert watchdogs() == []
    second = watch()
    (new,) = watchdogs()
    assert new != pid
    second.close()
    assert watchdogs() == [new]
    hold.close()
    assert watchdogs() == []


def test_fork_does_not_inherit_a_hold(watch) -> None:
    hold = Hold()
    child = os.fork()
    if child == 0:
        watch().close()
        left = watchdogs()
        hold.close()
        os._exit(len(left))
    assert os.waitpid(child, 0) == (child, 0)
    assert len(watchdogs()) == 1
    hold.close()


def test_nothing_is_left_when_close_returns(watch, resources) -> None:
    before = resources()
    for _ in range(20):
        watch().close()
        assert resources() == before
        assert watchdogs() == []


def test_watchdog_has_a_session_of_its_own_and_no_folder(watch) -> None:
    watch()
    (pid,) = watchdogs()
    assert os.getsid(pid) == os.getpgid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_watchdog_inherits_nothing(watch, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(KERNEL_ID_VARIABLE, "that of a kernel around this program")
    with open(tmp_path / "file", "w") as file:
        os.set_inheritable(file.fileno(), True)
        watch()
        (pid,) = watchdogs()
    links = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert file.name not in links
    with open(f"/proc/{pid}/environ") as environment:
        assert KERNEL_ID_VARIABLE not in environment.read()


@pytest.mark.parametrize("event", ["watch", "group_ended", "close"])
def test_watchdog_that_was_killed_is_replaced(watch, start, event) -> None:
    kernels = [start(), start()]
    watches = [watch(kernel) for kernel in kernels]
    (pid,) = watchdogs()
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    if event == "watch":
        watch()
    else:
        getattr(watches.pop(), event)()
        kernels.pop()
    (new,) = watchdogs()
    assert new != pid
    end_pipe()
    assert [kernel.wait() for kernel in kernels] == [-signal.SIGKILL] * len(kernels)


def test_watchdog_that_stands_still_is_replaced(watch) -> None:
    watch()
    (pid,) = watchdogs()
    os.kill(pid, signal.SIGSTOP)
    for _ in range(10_000):
        watch().close()
        if watchdogs() != [pid]:
            break
    assert len(watchdogs()) == 1


def test_ended_group_is_struck_off(watch, start) -> None:
    kernel, other = start(), start()
    watch(kernel).group_ended()
    watch(other)
    end_pipe()
    assert other.wait() == -signal.SIGKILL
    assert kernel.poll() is None


def test_end_of_a_group_after_close_sends_nothing(watch, start) -> None:
    other, late = watch(), watch(start())
    late.close()
    late.group_ended()
    assert len(watchdogs()) == 1
    other.close()
    assert watchdogs() == []


def test_fork_has_no_part_in_it(watch, start) -> None:
    kernel = start()
    mine = watch(kernel)
    read_fd, write_fd = os.pipe()
    child = os.fork()
    if child == 0:  # it has to go on, with all inherited descriptors, while the watchdog dies
        os.close(write_fd)
        mine.close()
        os.read(read_fd, 1)
        os._exit(len(watchdogs()))
    os.close(read_fd)
    end_pipe()
    assert kernel.wait() == -signal.SIGKILL
    os.close(write_fd)
    assert os.waitpid(child, 0) == (child, 0)


def test_fork_can_have_a_watchdog_of_its_own(watch) -> None:
    watch()
    (pid,) = watchdogs()
    child = os.fork()
    if child == 0:
        own = watch()
        mine = watchdogs()
        own.close()
        os._exit(0 if len(mine) == 1 and mine != [pid] and watchdogs() == [] else 1)
    assert os.waitpid(child, 0) == (child, 0)
    assert watchdogs() == [pid]


def test_many_threads(watch) -> None:
    def work() -> None:
        for _ in range(20):
            watch().close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watchdogs() == []


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/uwsgi", "/missing/python"])
def test_no_python_to_run_it(watch, monkeypatch, caplog, executable) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    one = watch()
    assert "kernels may outlive this program" in caplog.text
    one.group_ended()
    one.close()
    assert watchdogs() == []


def test_frozen_application(watch, monkeypatch, caplog) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    watch()
    assert "kernels may outlive this program" in caplog.text


def test_no_descriptors_left(watch, monkeypatch, caplog) -> None:
    def pipe() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe", pipe)
        watch()
    assert "Too many open files" in caplog.text
    watch()
    assert len(watchdogs()) == 1


def end_pipe() -> None:
    """Close the pipe like the death of this program; wait until the watchdog has acted."""
    watchdog = module._Watchdog.current
    watchdog._pipe.close()
    assert watchdog._process.wait() == 0
    module._Watchdog.current = None
    module._Watchdog.kernels.clear()
