from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from kernelproto.exceptions import DiscoveryError
from kernelproto.launch import own_files
from kernelproto.launch.leftovers import records as module
from kernelproto.launch.leftovers.records import Record, read_records, sweep
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.programs.watchdog import KERNEL_ID_VARIABLE, WatchedKernel, start_time

pytestmark = pytest.mark.usefixtures("no_leaks", "clean")

HERE = ProcessId.of(os.getpid()).machine
NUMBER = "2147483646"  # larger than any process number

ONE = "11111111-2222-4333-8444-555555555555"
TWO = "99999999-2222-4333-8444-555555555555"


@pytest.fixture
def kernel(runtime_dir) -> Iterator[subprocess.Popen]:
    """Give a process that has the id of a kernel."""
    env = {**os.environ, KERNEL_ID_VARIABLE: ONE}
    with subprocess.Popen(["sleep", "1000"], env=env, start_new_session=True) as process:
        yield process
        process.kill()


@pytest.fixture
def record(runtime_dir) -> Callable[..., Record]:
    """Give a function that writes a record and the files that go with it."""

    def write(kernel_id: str = ONE, **changes: object) -> Record:
        folder = runtime_dir / f"kernel-{kernel_id[:8]}"
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
    """Forget that this process has swept, and remove the files that a test left on purpose."""
    yield
    module._swept.clear()
    own_files._logged.clear()
    for path in sorted(runtime_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def dead() -> ProcessId:
    """Return a process that has ended, with the number of a running one: this process."""
    return ProcessId(os.getpid(), "1", HERE)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


EVERYTHING = {f"kernel-{ONE[:8]}", f"kernel-{ONE}.json", "kernel-1", "kernelproto", f"{ONE}.json"}


def test_record_comes_back(runtime_dir, record) -> None:
    written = record(process=ProcessId.of(os.getpid()), output="/a", detached=True)
    assert read_records() == read_records(str(runtime_dir)) == [written]
    assert written.path == str(runtime_dir / "kernelproto" / f"{ONE}.json")
    written.remove()
    written.remove()
    assert read_records() == []
    assert "kernelproto" not in files(runtime_dir)


def test_only_the_user_can_read_it(runtime_dir, record) -> None:
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
    drafts = f"kernel-{ONE}.json.new", f"kernelproto/{ONE}.json.new"
    names = f"kernel-{ONE}.json", *drafts, f"kernel-{ONE[:8]}"
    paths = [bytes(runtime_dir / name) for name in names]
    kernel = WatchedKernel(ONE.encode(), 0, "", os.fsencode(written.path), tuple(paths))
    assert vars(written.watched()) == vars(kernel)


def test_records_come_and_go_in_many_threads(record) -> None:
    kept = record()
    failures: list[BaseException] = []

    def work(kernel_id: str) -> None:
        try:
            for _ in range(200):
                mine = msgspec.structs.replace(kept, kernel_id=kernel_id)
                mine.write()
                mine.remove()
        except BaseException as error:
            failures.append(error)

    kept.remove()
    threads = [threading.Thread(target=work, args=[str(uuid.uuid4())]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert read_records() == []


def test_sweep_ends_a_kernel_whose_program_has_died(runtime_dir, record, kernel) -> None:
    record(owner=dead(), process=ProcessId.of(kernel.pid))
    sweep()
    assert kernel.wait() == -signal.SIGKILL
    assert files(runtime_dir) == set()


def test_sweep_ends_a_kernel_without_a_recorded_process(runtime_dir, record, kernel) -> None:
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


def test_sweep_leaves_running_kernels(runtime_dir, record, kernel) -> None:
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


def test_sweep_removes_files_of_an_ended_detached_kernel(runtime_dir, record) -> None:
    record(process=dead(), detached=True)
    sweep()
    assert files(runtime_dir) == set()


def test_sweep_leaves_other_machines_alone(runtime_dir, record, kernel) -> None:
    container = msgspec.structs.replace(HERE, pid_namespace="another")
    elsewhere = ProcessId(int(NUMBER), "1", container)
    record(owner=elsewhere, process=elsewhere)
    record(TWO, owner=elsewhere, process=elsewhere, detached=True)
    sweep()
    assert kernel.poll() is None
    assert {record.kernel_id for record in read_records()} == {ONE, TWO}


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
    old, fresh = f"{ONE}.json.new", f"{TWO}.json.new"
    for name in (old, fresh, f"{ONE}.json"):
        folder.joinpath(name).touch()
    for name in (old, f"{ONE}.json"):
        os.utime(folder / name, (0, 0))
    sweep()
    assert {path.name for path in folder.iterdir()} == {fresh, f"{ONE}.json"}


def test_sweep_leaves_unreadable_records(runtime_dir, record) -> None:
    path = Path(record(owner=dead()).path)
    path.with_name("odd.json").write_text("{}")
    path.with_name("folder").mkdir()
    sweep()
    assert files(runtime_dir) == {"kernelproto", "odd.json", "folder"}
    assert read_records() == []


@pytest.mark.parametrize("free", [0, 1, 2])
def test_sweep_for_which_descriptors_are_missing_is_done_later(
    runtime_dir, record, kernel, few_descriptors, caplog, free
) -> None:
    record(owner=dead(), process=ProcessId.of(kernel.pid))
    with few_descriptors(free), suppress(OSError):
        sweep()
    sweep()
    assert files(runtime_dir) == set()
    assert kernel.wait(10) == -signal.SIGKILL
    assert caplog.messages == []


def test_records_for_which_descriptors_are_missing(record, few_descriptors, caplog) -> None:
    written = record()
    with few_descriptors(0), pytest.raises(DiscoveryError, match="no file descriptors are left"):
        read_records()
    assert read_records() == [written]
    assert caplog.messages == []


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
    for _ in range(50):
        record(str(uuid.uuid4()), owner=dead(), process=dead())
    record(ONE, process=ProcessId.of(os.getpid()))
    program = "from kernelproto.launch.leftovers.records import sweep; sweep()"
    programs = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    assert [program.wait() for program in programs] == [0] * 4
    assert [record.kernel_id for record in read_records()] == [ONE]
    assert files(runtime_dir) == EVERYTHING


# Records that this program must not believe. Each is of a program that has died.


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen]:
    """Give a process that belongs to no kernel."""
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        yield process
        process.kill()


@pytest.fixture
def outside(tmp_path) -> Path:
    """Give a folder elsewhere, named as that of the kernel's sockets would be, with a file."""
    folder = tmp_path / "elsewhere" / f"kernel-{ONE[:8]}"
    folder.mkdir(parents=True)
    folder.joinpath(f"kernel-{ONE}.json").write_text("precious")
    return folder


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("connection_file", "{outside}/kernel-{ONE}.json", "another connection file"),
        ("connection_file", "{runtime}/other.json", "another connection file"),
        ("connection_file", "../kernel-{ONE}.json", "another connection file"),
        ("socket_folder", "{outside}", "another folder of sockets"),
        ("socket_folder", "{runtime}", "another folder of sockets"),
        ("socket_folder", "", "another folder of sockets"),
        ("control_groups", [f"/sys/fs/cgroup/kernelproto-{TWO}"], "a control group of another"),
        ("control_groups", ["/tmp"], "a control group of another"),
        ("kernel_id", TWO, "another kernel"),
        ("kernel_id", "", "another kernel"),
        ("connection_file", "{runtime}/kernel-{ONE}.json\0", "connection_file"),
        ("socket_folder", "\0", "socket_folder"),
        ("output", "\0", "output"),
        ("connection_file", "/a" * 5000, "connection_file"),
    ],
)
def test_record_with_paths_of_another_kernel(
    runtime_dir, record, kernel, outside, caplog, field, value, words
) -> None:
    written = record(owner=dead(), process=ProcessId.of(kernel.pid))
    values = msgspec.to_builtins(written)
    if isinstance(value, str):
        value = value.format(outside=outside, runtime=runtime_dir, ONE=ONE)
    values[field] = value
    Path(written.path).write_bytes(msgspec.json.encode(values))
    sweep()
    assert read_records() == []
    assert kernel.poll() is None
    assert outside.joinpath(f"kernel-{ONE}.json").read_text() == "precious"
    assert files(runtime_dir) == EVERYTHING
    (warning,) = warnings(caplog)
    assert warning.startswith(f"{written.path} is left alone: ")
    assert words in warning


# A killed process with much memory ends some time after the signal.
LARGE = "import signal; memory = b'1' * 2**27; print(flush=True); signal.pause()"


@pytest.mark.parametrize("is_recorded", [True, False])
def test_process_has_ended_when_its_record_is_cleared_up(record, is_recorded) -> None:
    command = [sys.executable, "-I", "-S", "-c", LARGE]
    kernel_id = str(uuid.uuid4())  # other tests have processes of ONE
    env = {**os.environ, KERNEL_ID_VARIABLE: kernel_id}
    with subprocess.Popen(
        command, env=env, start_new_session=True, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        started = ProcessId.of(process.pid)
        written = record(kernel_id, process=started if is_recorded else None)
        assert written.clear_up(waits=True)
        assert start_time(process.pid) == ""


def test_record_of_a_process_that_is_no_kernel(runtime_dir, record, stranger, caplog) -> None:
    written = record(owner=dead(), process=ProcessId.of(stranger.pid))
    sweep()
    module._swept.clear()
    sweep()
    assert not written.clear_up()
    assert stranger.poll() is None
    assert files(runtime_dir) == EVERYTHING
    assert warnings(caplog) == [
        f"{written.path} is left alone: process {stranger.pid} is not of kernel {ONE}"
    ]


@pytest.mark.parametrize("pid", [0, -1, 2**31, 2**70])
def test_numbers_that_mean_other_processes(runtime_dir, record, pid, caplog) -> None:
    written = record()
    values = msgspec.to_builtins(written)
    for field in ("owner", "process"):
        Path(written.path).write_bytes(
            msgspec.json.encode(values | {field: values["owner"] | {"pid": 0}}).replace(
                b'"pid":0', f'"pid":{pid}'.encode()
            )
        )
        sweep()
        module._swept.clear()
    assert files(runtime_dir) == EVERYTHING
    assert len(warnings(caplog)) == 1


def test_kernel_that_its_command_line_shows(runtime_dir, record, until_gone) -> None:
    file = str(runtime_dir / f"kernel-{ONE}.json")
    command = ["/bin/sh", "-c", "sleep 1000 & wait", file]
    with subprocess.Popen(command, start_new_session=True) as process:
        record(owner=dead(), process=ProcessId.of(process.pid))
        sweep()
        assert process.wait() == -signal.SIGKILL
    assert files(runtime_dir) == set()


@pytest.mark.parametrize("name", [f"{ONE}.json", f"{ONE}.json.new", "other"])
@pytest.mark.parametrize("kind", ["pipe", "zero", "link", "folder", "long", "deep"])
def test_file_that_is_no_record(runtime_dir, record, tmp_path, caplog, name, kind) -> None:
    written = Path(record(owner=dead()).path)
    path = written.with_name(name)
    match kind:
        case "pipe":
            written.unlink()
            os.mkfifo(path)
        case "zero":
            written.unlink()
            path.symlink_to("/dev/zero")
        case "link":
            written.rename(tmp_path / "record")
            path.symlink_to(tmp_path / "record")
        case "folder":
            written.unlink()
            path.mkdir()
        case "long":
            written.rename(path)
            with path.open("ab") as file:
                file.write(b" " * own_files.LONGEST_FILE)
        case "deep":
            written.unlink()
            path.write_bytes(b'{"odd": ' + b"[" * 100_000)
    before = files(runtime_dir)
    sweep()
    module._swept.clear()
    sweep()
    assert read_records() == []
    assert files(runtime_dir) == before
    assert [warning.partition(":")[0] for warning in warnings(caplog)] == [f"{path} is left alone"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes the superuser")
def test_record_of_another_user(runtime_dir, record, caplog) -> None:
    written = record(owner=dead())
    os.chown(written.path, 12345, -1)
    sweep()
    assert files(runtime_dir) == EVERYTHING
    assert "another user (uid 12345)" in caplog.text


@pytest.mark.parametrize(
    ("mode", "folder_mode", "trusted"),
    [
        (0o755, 0o700, True),
        (0o775, 0o700, False),
        (0o777, 0o700, False),
        (0o1777, 0o700, True),
        (0o700, 0o770, False),
        (0o700, 0o1777, False),
    ],
)
def test_folders_that_others_may_write_to(
    runtime_dir, record, caplog, mode, folder_mode, trusted
) -> None:
    written = record(owner=dead())
    runtime_dir.chmod(mode)
    Path(written.path).parent.chmod(folder_mode)
    assert (read_records() == [written]) is trusted
    assert (module.records_fault() is None) is trusted
    sweep()
    assert (files(runtime_dir) == set()) is trusted
    assert len(warnings(caplog)) == (not trusted)


def test_folder_that_is_a_link(runtime_dir, record, tmp_path, caplog) -> None:
    folder = Path(record(owner=dead()).path).parent
    folder.rename(tmp_path / "records")
    folder.symlink_to(tmp_path / "records")
    sweep()
    assert len(list((tmp_path / "records").iterdir())) == 1
    assert f"{folder} is not a folder" in caplog.text


def test_runtime_folder_by_another_name(runtime_dir, record, tmp_path, monkeypatch) -> None:
    written = record(owner=dead())
    other = tmp_path / "other"
    other.symlink_to(runtime_dir)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(other))
    (read,) = read_records()
    assert read.connection_file == str(other / os.path.basename(written.connection_file))
    assert read.path == str(other / "kernelproto" / f"{ONE}.json")
    sweep()
    assert files(runtime_dir) == set()


def test_sockets_in_the_temporary_folder(runtime_dir, record, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"kernel-{ONE[:8]}"
    folder.mkdir()
    record(owner=dead(), socket_folder=str(folder))
    sweep()
    assert not folder.exists()


def test_sockets_of_another_kernel(runtime_dir, record, caplog) -> None:
    live = record()
    other_id = ONE[:-1] + "6"
    folder = Path(live.socket_folder)
    folder.rename(folder.with_name("aside"))
    record(other_id, owner=dead())
    Path(runtime_dir / f"kernel-{ONE[:8]}" / "kernel-1").unlink()
    Path(runtime_dir / f"kernel-{ONE[:8]}").rmdir()
    folder.with_name("aside").rename(folder)
    sweep()
    assert files(runtime_dir) >= EVERYTHING
    assert "that of another kernel" in caplog.text


def test_output_is_the_users(runtime_dir, record, tmp_path) -> None:
    output = tmp_path / "output"
    output.write_text("precious")
    record(process=dead(), detached=True, output=str(output))
    sweep()
    assert files(runtime_dir) == set()
    assert output.read_text() == "precious"


def test_drafts_of_connection_files(runtime_dir) -> None:
    names = [f"kernel-{ONE}.json.new", f"kernel-{TWO}.json.new", "kernel-mine.json.new"]
    for name in names:
        runtime_dir.joinpath(name).touch()
    for name in names[::2]:
        os.utime(runtime_dir / name, (0, 0))
    sweep()
    assert files(runtime_dir) == set(names[1:])


def test_full_disk(runtime_dir) -> None:
    program = """
import resource
from kernelproto.exceptions import LaunchError
from kernelproto.launch.leftovers.records import Record
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
try:
    Record.of_launch("{ONE}").reserve()
except LaunchError as error:
    print(error)
"""
    command = [sys.executable, "-c", program.replace("{ONE}", ONE)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert "cannot write the record" in done.stdout
    assert files(runtime_dir) == set()


def test_command_line_too_long_for_a_record(record) -> None:
    written = record(command=("x" * own_files.LONGEST_FILE,))
    assert read_records() == [msgspec.structs.replace(written, command=())]


def test_path_that_is_not_utf8(runtime_dir, monkeypatch) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime_dir) + os.fsdecode(b"/\xff"))
    written = Record.of_launch(ONE)
    written.reserve()
    assert read_records() == [written]
    written.remove()
    os.rmdir(os.path.dirname(written.connection_file))
