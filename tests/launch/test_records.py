from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from kernelproto.launch import records as module
from kernelproto.launch.records import Machine, ProcessId, Record, read_records, sweep
from kernelproto.launch.watchdog_process import KERNEL_ID_VARIABLE, Charge

pytestmark = pytest.mark.usefixtures("no_leaks", "clean")

HERE = ProcessId.of(os.getpid()).machine
NUMBER = "2147483646"  # larger than any process number


@pytest.fixture
def kernel(runtime_dir) -> Iterator[subprocess.Popen]:
    """Give a process that has the id of a kernel."""
    env = {**os.environ, KERNEL_ID_VARIABLE: "one"}
    with subprocess.Popen(["sleep", "1000"], env=env, start_new_session=True) as process:
        yield process
        process.kill()


@pytest.fixture
def record(runtime_dir) -> Callable[..., Record]:
    """Give a function that writes a record and the files that go with it."""

    def write(kernel_id: str = "one", **changes: object) -> Record:
        folder = runtime_dir / f"kernel-{kernel_id}"
        folder.mkdir()
        folder.joinpath("kernel-1").touch()
        file = runtime_dir / f"kernel-{kernel_id}.json"
        file.touch()
        values = {
            "kernel_id": kernel_id,
            "kernel_name": "spec/one",
            "command": ("one", "a b"),
            "interrupt_mode": "signal",
            "connection_file": str(file),
            "socket_folder": str(folder),
            "output": None,
            "detached": False,
            "owner": ProcessId.of(os.getpid()),
        }
        record = Record(**values | changes)
        record.write()
        return record

    return write


@pytest.fixture
def clean(runtime_dir) -> Iterator[None]:
    """Forget that this process has swept, and remove what a test has left on purpose."""
    yield
    module._swept.clear()
    for path in sorted(runtime_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def dead() -> ProcessId:
    """Return a process that has ended, whose number a stranger has: this very process."""
    return ProcessId(os.getpid(), "1", HERE)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


EVERYTHING = {"kernel-one", "kernel-one.json", "kernel-1", "kernelproto", "one.json"}


def test_record_comes_back(runtime_dir, record) -> None:
    written = record(process=ProcessId.of(os.getpid()), output="/a", detached=True)
    assert read_records() == read_records(str(runtime_dir)) == [written]
    assert written.path == str(runtime_dir / "kernelproto" / "one.json")
    written.remove()
    written.remove()
    assert read_records() == []
    assert "kernelproto" not in files(runtime_dir)


def test_nobody_else_can_read_it(runtime_dir, record) -> None:
    umask = os.umask(0)
    try:
        path = record().path
    finally:
        os.umask(umask)
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700


def test_record_is_replaced(record) -> None:
    first = record()
    second = first.of_process(ProcessId.of(os.getpid()))
    second.write()
    assert read_records() == [second] != [first]


def test_charge(record, runtime_dir) -> None:
    written = record()
    paths = [bytes(runtime_dir / "kernel-one.json"), bytes(runtime_dir / "kernel-one")]
    charge = Charge(b"one", 0, "", os.fsencode(written.path), tuple(paths))
    assert vars(written.charge()) == vars(charge)


def test_records_come_and_go_in_many_threads(record) -> None:
    kept = record()
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(200):
                mine = msgspec.structs.replace(kept, kernel_id=name)
                mine.write()
                mine.remove()
        except BaseException as error:
            failures.append(error)

    kept.remove()
    threads = [threading.Thread(target=work, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert read_records() == []


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


def test_sweep_ends_a_kernel_whose_program_has_died(runtime_dir, record, kernel) -> None:
    record(owner=dead(), process=ProcessId.of(kernel.pid))
    sweep()
    assert kernel.wait() == -signal.SIGKILL
    assert files(runtime_dir) == set()


def test_sweep_ends_a_kernel_whose_number_nobody_has_written_down(
    runtime_dir, record, kernel
) -> None:
    record(owner=dead(), detached=True)
    sweep()
    assert kernel.wait() == -signal.SIGKILL
    assert files(runtime_dir) == set()


def test_sweep_ends_no_stranger(runtime_dir, record) -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        record(owner=dead(), process=ProcessId(stranger.pid, "1", HERE))
        sweep()
        assert files(runtime_dir) == set()
        assert stranger.poll() is None
        stranger.kill()


def test_sweep_leaves_what_is_in_use(runtime_dir, record, kernel) -> None:
    record(process=ProcessId.of(kernel.pid))
    sweep()
    assert kernel.poll() is None
    assert files(runtime_dir) == EVERYTHING


def test_sweep_leaves_a_detached_kernel(runtime_dir, record, kernel) -> None:
    record(owner=dead(), process=ProcessId.of(kernel.pid), detached=True)
    sweep()
    assert kernel.poll() is None
    assert files(runtime_dir) == EVERYTHING


def test_sweep_leaves_a_detached_kernel_that_is_being_started(runtime_dir, record, kernel) -> None:
    record(detached=True)
    sweep()
    assert kernel.poll() is None
    assert files(runtime_dir) == EVERYTHING


def test_sweep_removes_what_a_detached_kernel_leaves(runtime_dir, record) -> None:
    record(process=dead(), detached=True)
    sweep()
    assert files(runtime_dir) == set()


def test_sweep_leaves_other_machines_alone(runtime_dir, record, kernel) -> None:
    container = msgspec.structs.replace(HERE, pid_namespace="another")
    elsewhere = ProcessId(int(NUMBER), "1", container)
    record(owner=elsewhere, process=elsewhere)
    record("two", owner=elsewhere, process=elsewhere, detached=True)
    sweep()
    assert kernel.poll() is None
    assert {record.kernel_id for record in read_records()} == {"one", "two"}


def test_sweep_after_a_reboot_ends_nothing(runtime_dir, record) -> None:
    before = msgspec.structs.replace(HERE, boot="an earlier one")
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as stranger:
        process = msgspec.structs.replace(ProcessId.of(stranger.pid), machine=before)
        record(owner=process, process=process)
        sweep()
        assert files(runtime_dir) == set()
        assert stranger.poll() is None
        stranger.kill()


def test_sweep_finds_a_record_that_was_being_written(runtime_dir, record) -> None:
    draft = Path(record(owner=dead()).path)
    draft.rename(f"{draft}.new")
    assert read_records() == []
    sweep()
    assert files(runtime_dir) == set()


def test_sweep_removes_an_old_draft_that_says_nothing(runtime_dir) -> None:
    folder = runtime_dir / "kernelproto"
    folder.mkdir()
    for name in ("old.json.new", "fresh.json.new", "old.json"):
        folder.joinpath(name).touch()
    for name in ("old.json.new", "old.json"):
        os.utime(folder / name, (0, 0))
    sweep()
    assert {path.name for path in folder.iterdir()} == {"fresh.json.new", "old.json"}


def test_sweep_leaves_what_it_cannot_read(runtime_dir, record) -> None:
    path = Path(record(owner=dead()).path)
    path.with_name("odd.json").write_text("{}")
    path.with_name("folder").mkdir()
    sweep()
    assert files(runtime_dir) == {"kernelproto", "odd.json", "folder"}
    assert read_records() == []


def test_sweep_is_done_once_for_each_folder(runtime_dir, record, monkeypatch) -> None:
    sweep()
    record(owner=dead())
    sweep()
    assert files(runtime_dir) == EVERYTHING
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime_dir / "other"))
    sweep()
    monkeypatch.undo()
    module._swept.clear()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime_dir))
    sweep()
    assert files(runtime_dir) == set()


def test_many_programs_sweep_at_once(runtime_dir, record) -> None:
    for number in range(50):
        record(str(number), owner=dead(), process=dead())
    record("kept", process=ProcessId.of(os.getpid()))
    program = "from kernelproto.launch.records import sweep; sweep()"
    programs = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [program.wait() for program in programs] == [0] * 4
    assert [record.kernel_id for record in read_records()] == ["kept"]
    assert files(runtime_dir) == {"kernelproto", "kept.json", "kernel-kept.json"} | {
        "kernel-kept",
        "kernel-1",
    }
