"""ExitWatch by itself; test_posix.py tests it in a ProcessGroup."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest

from kernelproto.launch.process.exit_watch import watch_exit

pytestmark = pytest.mark.usefixtures("no_leaks")

GUARD_SECONDS = 60


@pytest.fixture(params=["pidfd", "thread", "reaping thread"], autouse=True)
def way(request, monkeypatch) -> str:
    if request.param != "pidfd":
        monkeypatch.delattr(os, "pidfd_open")
    if request.param == "reaping thread":
        monkeypatch.delattr(os, "waitid")
    return request.param


def start(*command: str) -> int:
    process = subprocess.Popen(command)
    process.returncode = 0  # it is waited for here
    return process.pid


def test_end_is_told_once_it_has_come() -> None:
    pid = start("sleep", "1000")
    end = watch_exit(pid)
    assert not end.has_come()
    os.kill(pid, signal.SIGKILL)
    end.wait(GUARD_SECONDS)
    assert end.has_come()
    assert end.reap().returncode == -signal.SIGKILL
    end.close()
    end.close()
    assert not os.path.exists(f"/proc/{pid}")


def test_resource_usage() -> None:
    end = watch_exit(start("/bin/sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"))
    end.wait(GUARD_SECONDS)
    exit = end.reap()
    end.close()
    assert exit.returncode == 0
    assert exit.cpu_seconds > 0


def test_peak_of_memory_is_unknown_below_that_of_this_program() -> None:
    unit = 1 if sys.platform == "darwin" else 1024
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    peaks = []
    for size in (0, ours + 2**26):
        end = watch_exit(start(sys.executable, "-S", "-c", f"bytearray(b'x') * {size}"))
        end.wait(GUARD_SECONDS)
        peaks.append(end.reap().peak_memory)
        end.close()
    assert peaks[0] is None
    assert peaks[1] > ours


def test_process_that_is_no_child(way) -> None:
    end = watch_exit(1) if way == "pidfd" else watch_exit(os.getppid())
    if way != "pidfd":
        end.wait(GUARD_SECONDS)
    with pytest.raises(ChildProcessError):
        end.has_come()
    end.close()
