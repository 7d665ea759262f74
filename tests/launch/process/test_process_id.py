from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import msgspec
import pytest

from kernelproto.launch.process import process_id as module
from kernelproto.launch.process.process_id import Machine, ProcessId

pytestmark = pytest.mark.usefixtures("no_leaks")

HERE = ProcessId.of(os.getpid()).machine


@pytest.fixture
def kernel() -> Iterator[subprocess.Popen]:
    """Give a process that runs."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_process_identity(kernel) -> None:
    process = ProcessId.of(kernel.pid)
    assert process.is_here
    assert not process.is_gone
    assert ProcessId(kernel.pid, "1", HERE).is_gone
    kernel.kill()
    os.waitid(os.P_PID, kernel.pid, os.WEXITED | os.WNOWAIT)
    assert process.is_gone
    kernel.wait()
    assert process.is_gone


@pytest.mark.parametrize(
    ("changes", "gone"),
    [
        ({"host": "elsewhere", "boot": "other"}, False),
        ({"host": "elsewhere"}, False),
        ({"pid_namespace": "a container"}, False),
        ({"boot": "an earlier one"}, True),
    ],
)
def test_process_of_another_machine(changes, gone) -> None:
    machine = Machine(**msgspec.structs.asdict(HERE) | changes)
    process = ProcessId(os.getpid(), "1", machine)
    assert not process.is_here
    assert process.is_gone is gone


def test_process_where_start_times_are_unknown(kernel, monkeypatch) -> None:
    process = ProcessId(kernel.pid, "", HERE)
    assert not process.is_gone
    kernel.kill()
    kernel.wait()
    assert process.is_gone

    def kill(pid: int, signum: int) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", kill)
        assert not process.is_gone
        patch.setattr(os, "name", "nt")
        patch.setattr(os, "kill", None)
        assert not process.is_gone


def test_machine_without_proc(monkeypatch) -> None:
    def deny(*arguments: object, **options: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr("builtins.open", deny)
    machine = module._this_machine.__wrapped__()
    assert (machine.boot, machine.pid_namespace) == ("", "")
