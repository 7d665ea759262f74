from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import msgspec
import pytest

from kernelproto.exceptions import InvalidLaunchParameter
from kernelproto.launch.process.interface import Exit
from kernelproto.launch.process.limits import Limits

pytestmark = pytest.mark.usefixtures("no_leaks")

MIB = 1024 * 1024


def end(returncode: int, cpu_seconds: float = 0.0, peak_memory: int | None = None) -> Exit:
    return Exit(returncode, cpu_seconds, peak_memory)


@pytest.mark.parametrize(
    "values", [{"memory": 0}, {"memory": True}, {"cpu_seconds": 1.5}, {"files": 1}, {"memory": "1"}]
)
def test_invalid_limits(values) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(values, Limits)


def test_limits_are_set_for_good() -> None:
    limits = Limits(memory=4096 * MIB, cpu_seconds=10, open_files=50, processes=500)
    limits.check()
    with subprocess.Popen(["sleep", "1000"]) as child:
        limits.apply(child.pid)
        of = {name: resource.prlimit(child.pid, number) for name, number in RESOURCES.items()}
        child.kill()
    assert of == {
        "memory": (4096 * MIB, 4096 * MIB),
        "cpu_seconds": (10, 11),
        "open_files": (50, 50),
        "processes": (500, 500),
    }


RESOURCES = {
    "memory": resource.RLIMIT_DATA,
    "cpu_seconds": resource.RLIMIT_CPU,
    "open_files": resource.RLIMIT_NOFILE,
    "processes": resource.RLIMIT_NPROC,
}


def test_without_limits_nothing_is_changed() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        before = [resource.prlimit(child.pid, number) for number in RESOURCES.values()]
        Limits().apply(child.pid)
        assert [resource.prlimit(child.pid, n) for n in RESOURCES.values()] == before
        child.kill()


def test_more_than_this_program_has_itself() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    Limits(open_files=most).check()
    with pytest.raises(InvalidLaunchParameter, match=rf"open_files can be at most {most},"):
        Limits(open_files=most + 1).check()


def test_more_than_the_system_can_count() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        with pytest.raises(InvalidLaunchParameter, match="memory cannot be"):
            Limits(memory=2**70).apply(child.pid)
        child.kill()


def test_other_systems(monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InvalidLaunchParameter, match="on Linux only"):
        Limits(memory=1).check()
    Limits(memory=1).apply(os.getpid())


@pytest.mark.parametrize(
    ("limits", "exit", "output", "reason"),
    [
        (Limits(cpu_seconds=3), end(-signal.SIGXCPU), "", "used up its 3 s of CPU time"),
        (Limits(cpu_seconds=3), end(-signal.SIGKILL, 3.9), "", "used up its 3 s of CPU time"),
        (Limits(cpu_seconds=3), end(-signal.SIGKILL, 1.0), "", None),
        (Limits(cpu_seconds=3), end(1, 1.0), "", None),
        (Limits(), end(-signal.SIGXCPU), "", None),
        (Limits(memory=MIB), end(1), "\nMemoryError\n", "limit of memory, 1048576 bytes"),
        (Limits(memory=MIB), end(-signal.SIGABRT), "what(): std::bad_alloc", "limit of memory"),
        (Limits(memory=MIB), end(134), "Cannot allocate memory", "limit of memory"),
        (Limits(memory=MIB), end(-signal.SIGSEGV, 0.0, MIB - 100), "", "1048476 bytes in use"),
        (Limits(memory=MIB), end(-signal.SIGSEGV, 0.0, 1000), "", None),
        (Limits(memory=MIB), end(0, 0.0, MIB), "MemoryError", None),
        (Limits(memory=MIB), end(-signal.SIGTERM, 0.0, MIB), "MemoryError", None),
        (Limits(open_files=9), end(1), "OSError: Too many open files", "limit of open files, 9"),
        (Limits(processes=9), end(1), "can't start new thread", "limit of processes, 9"),
        (Limits(processes=9), end(1), "OSError: Too many open files", None),
        (Limits(memory=MIB), end(1), "NameError", None),
    ],
)
def test_reason(limits, exit, output, reason) -> None:
    found = limits.reason(exit, output)
    assert found == reason if reason is None else reason in found


@pytest.mark.parametrize(
    ("limits", "output", "cause"),
    [
        (Limits(memory=MIB), "MemoryError", "memory_limit"),
        (Limits(open_files=9), "Too many open files", "open_files_limit"),
        (Limits(processes=9), "can't start new thread", "processes_limit"),
    ],
)
def test_cause(limits, output, cause) -> None:
    found = limits.reason(end(1), output)
    assert found is not None
    assert found.cause == cause


def test_cause_of_cpu_time() -> None:
    found = Limits(cpu_seconds=3).reason(end(-signal.SIGXCPU), "")
    assert found is not None
    assert found.cause == "cpu_limit"


def test_unknown_peak_shows_nothing() -> None:
    crash = end(-signal.SIGSEGV, 0.0, None)
    assert Limits(memory=MIB).reason(crash, "") is None


OPEN_FILES = """
import resource, subprocess, sys
from kernelproto.launch.process.limits import lower_open_files, raise_open_files

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
lower_open_files(child.pid)  # nothing was raised yet
assert raise_open_files() == raise_open_files() == hard
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
assert resource.prlimit(other.pid, resource.RLIMIT_NOFILE) == (hard, hard)
lower_open_files(other.pid)
for process in (child, other):
    assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE) == (100, hard)
    process.communicate(b"\\n")
lower_open_files(other.pid)  # it has ended
"""


def test_kernels_keep_the_limit_that_the_program_had_at_its_start() -> None:
    subprocess.run([sys.executable, "-c", OPEN_FILES], check=True, timeout=60)
