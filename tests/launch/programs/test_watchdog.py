from __future__ import annotations

import array
import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator

import pytest

from kernelproto.launch.programs import watchdog as module
from kernelproto.launch.programs.watchdog import (
    KERNEL_ID_VARIABLE,
    WatchedKernel,
    belongs_to_kernel,
    kill_group,
    kill_members,
    process_name,
    remove_files,
    remove_record,
    start_time,
)

pytestmark = pytest.mark.usefixtures("no_leaks")

SLEEP = ["sleep", "1000"]


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Give a function that starts a process in a session of its own."""
    processes: list[subprocess.Popen] = []

    def run(command=SLEEP, kernel_id: str = "", **options) -> subprocess.Popen:
        env = {**os.environ, KERNEL_ID_VARIABLE: kernel_id}
        processes.append(subprocess.Popen(command, env=env, start_new_session=True, **options))
        return processes[-1]

    yield run
    for process in processes:
        process.kill()
        process.wait()
        for pipe in filter(None, [process.stdin, process.stdout]):
            pipe.close()


@pytest.fixture
def watchdog(start) -> Callable[..., subprocess.Popen]:
    """Give a function that starts a watchdog; its program is this process by default."""

    def run(program: int | None = None) -> subprocess.Popen:
        command = [sys.executable, "-I", "-S", module.__file__, str(program or os.getpid())]
        return start(command, stdin=subprocess.PIPE)

    return run


def watched_kernel(process: subprocess.Popen, kernel_id: bytes, folder, *files) -> WatchedKernel:
    record = folder / "records" / "record.json"
    record.parent.mkdir(exist_ok=True)
    record.touch()
    return WatchedKernel(
        kernel_id, process.pid, start_time(process.pid), bytes(record), [*map(bytes, files)]
    )


@pytest.mark.parametrize("files", [[], [b"/a"], [b"/a b", "/\u00e9".encode(), b"/new\nline"]])
@pytest.mark.parametrize("started", ["", "12345"])
def test_messages(files, started) -> None:
    kernel = WatchedKernel(b"id", 7, started, b"/record", files)
    verb, *fields = kernel.encode().removesuffix(b"\0\0").split(b"\0")
    assert verb == b"watch"
    assert b"\0\0" not in kernel.encode().removesuffix(b"\0\0")
    assert vars(WatchedKernel.decode(fields)) == vars(kernel)
    assert kernel.forget() == b"forget\0id\0\0"


def test_start_time_tells_processes_apart(start) -> None:
    child = start()
    assert start_time(child.pid) == start_time(child.pid) != ""
    assert start_time(os.getpid()) not in ("", start_time(child.pid))
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(child.pid) == ""
    child.wait()
    assert start_time(child.pid) == ""


def test_start_time_of_a_process_with_an_odd_name(start, tmp_path) -> None:
    program = tmp_path / "a) S 1 2"
    program.symlink_to("/bin/sleep")
    child = start([str(program), "1000"])
    assert start_time(child.pid).isdigit()


def test_group_is_killed(start) -> None:
    child = start()
    kill_group(child.pid, start_time(child.pid))
    assert child.wait() == -signal.SIGKILL


def test_rest_of_a_group_is_killed(start, mailbox, until_gone) -> None:
    script = f"sleep 1000 & echo $! > {mailbox.path}"
    leader = start(["/bin/sh", "-c", script])
    straggler = int(mailbox.path.read_text())
    leader.wait()
    kill_group(leader.pid, "1")
    until_gone(straggler)


def test_group_of_a_stranger_is_not_killed(start) -> None:
    child = start()
    kill_group(child.pid, "1")
    assert child.poll() is None


def test_members_are_killed_wherever_they_are(start, mailbox, until_gone) -> None:
    kernel = start(["/bin/sh", "-c", f"setsid sh -c 'echo $$ > {mailbox.path}; sleep 1000'"], "one")
    far = int(mailbox.path.read_text())
    other, stranger = start(kernel_id="two"), start(kernel_id="three")
    kill_members({b"one", b"two"})
    # The shell is killed too; otherwise it would print that its child was killed.
    assert kernel.wait() in (-signal.SIGKILL, 128 + signal.SIGKILL)
    assert other.wait() == -signal.SIGKILL
    until_gone(far)
    assert stranger.poll() is None


def test_member_that_has_only_just_been_started(start) -> None:
    for _ in range(50):
        child = start(kernel_id="one")
        kill_members({b"one"})
        assert child.wait() == -signal.SIGKILL


def test_members_without_pidfd(start, monkeypatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    child = start(kernel_id="one")
    kill_members({b"one"})
    assert child.wait() == -signal.SIGKILL


def test_members_where_there_is_no_proc(monkeypatch) -> None:
    def listdir(path: str) -> list[str]:
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", listdir)
        kill_members({b"one"})


CONNECTION_FILE = b"/runtime/kernel-one.json"


@pytest.mark.parametrize(
    ("name", "belongs"),
    [
        ("/runtime/kernel-one.json", True),
        ("/by/another/path/kernel-one.json", True),
        ("/runtime/kernel-one.json.new", False),
        ("kernel-two.json", False),
    ],
)
def test_command_line_shows_the_kernel(start, name, belongs) -> None:
    child = start([sys.executable, "-c", "import time; time.sleep(1000)", name])
    assert belongs_to_kernel(child.pid, b"one", CONNECTION_FILE) is belongs


def test_environment_shows_the_kernel(start) -> None:
    for _ in range(50):
        child = start(kernel_id="one")
        assert belongs_to_kernel(child.pid, b"one", CONNECTION_FILE)
        assert not belongs_to_kernel(child.pid, b"two", b"/runtime/kernel-two.json")
        child.kill()
        child.wait()
        assert not belongs_to_kernel(child.pid, b"one", CONNECTION_FILE)


def test_name_shows_the_kernel(start, tmp_path) -> None:
    assert len(process_name(b"12345678-9")) == 15
    program = tmp_path / "kernel-12345678"
    program.symlink_to("/bin/sleep")
    child = start([str(program), "1000"])
    assert belongs_to_kernel(child.pid, b"12345678-9", CONNECTION_FILE)
    assert not belongs_to_kernel(child.pid, b"12345679-9", CONNECTION_FILE)


def test_files_are_removed(tmp_path) -> None:
    one, folder, missing = tmp_path / "one", tmp_path / "folder", tmp_path / "missing"
    one.touch()
    folder.mkdir()
    folder.joinpath("socket").touch()
    remove_files(map(bytes, [missing, folder, one]))
    assert list(tmp_path.iterdir()) == []


def test_one_path_that_cannot_be_removed_does_not_keep_the_others(tmp_path) -> None:
    one, file = tmp_path / "one", tmp_path / "file"
    one.touch()
    file.touch()
    remove_files(map(bytes, [file / "below a file", one]))
    assert list(tmp_path.iterdir()) == [file]


def test_folder_is_removed_with_its_subfolders(tmp_path) -> None:
    deep = tmp_path.joinpath("folder", *("deep" for _ in range(20)))
    deep.mkdir(parents=True)
    deep.joinpath("file").touch()
    remove_files([bytes(tmp_path / "folder")])
    assert not list(tmp_path.iterdir())


def test_link_to_a_folder_is_removed_alone(tmp_path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    folder.mkdir()
    folder.joinpath("mine").touch()
    link.symlink_to(folder)
    remove_files([bytes(link)])
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "mine"]


def test_folder_of_another_user_stays(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.joinpath("theirs").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_files([bytes(folder)])
    assert folder.joinpath("theirs").exists()


def test_records_share_a_folder(tmp_path) -> None:
    one, two = tmp_path / "records" / "one", tmp_path / "records" / "two"
    one.parent.mkdir()
    one.touch()
    two.touch()
    remove_record(bytes(one))
    assert list(tmp_path.rglob("*")) == [two.parent, two]
    remove_record(bytes(two))
    remove_record(bytes(two))
    assert list(tmp_path.rglob("*")) == []


def test_end_of_the_pipe_ends_everything(start, watchdog, mailbox, until_gone, tmp_path) -> None:
    script = f"setsid sh -c 'echo $$ > {mailbox.path}; sleep 1000'"
    kernel = start(["/bin/sh", "-c", script], "one")
    far = int(mailbox.path.read_text())
    file = tmp_path / "connection.json"
    file.touch()
    dog = watchdog()
    dog.stdin.write(watched_kernel(kernel, b"one", tmp_path, file).encode())
    dog.stdin.close()
    assert kernel.wait() == -signal.SIGKILL
    until_gone(far)
    assert dog.wait() == 0
    assert not file.exists()
    assert not tmp_path.joinpath("records").exists()


def test_withdrawn_and_ended_kernels_are_left_alone(start, watchdog, tmp_path) -> None:
    forgotten, ended = start(kernel_id="one"), start()
    file = tmp_path / "file"
    file.touch()
    dog = watchdog()
    kernel = watched_kernel(forgotten, b"one", tmp_path, file)
    dog.stdin.write(kernel.encode() + kernel.forget())
    kernel = watched_kernel(ended, b"two", tmp_path)
    dog.stdin.write(kernel.encode())
    kernel.group = 0
    dog.stdin.write(kernel.encode())
    dog.stdin.close()
    assert dog.wait() == 0
    assert forgotten.poll() is ended.poll() is None
    assert file.exists()


def test_message_may_come_in_pieces(start, watchdog, tmp_path) -> None:
    kernel = start()
    dog = watchdog()
    message = watched_kernel(kernel, b"one", tmp_path).encode()
    for place in range(len(message)):
        os.write(dog.stdin.fileno(), message[place : place + 1])
    dog.stdin.close()
    assert dog.wait() == 0
    assert kernel.wait() == -signal.SIGKILL


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_signals_are_ignored(start, watchdog, tmp_path, signum, until_gone) -> None:
    kernel = start()
    dog = watchdog()
    # Once the pipe is empty, the watchdog reads, and so ignores signals.
    dog.stdin.write(watched_kernel(kernel, b"one", tmp_path).encode())
    dog.stdin.flush()
    while _unread(dog):
        pass
    dog.send_signal(signum)
    dog.stdin.close()
    assert dog.wait() == 0
    assert kernel.wait() == -signal.SIGKILL


def test_end_of_the_program_is_enough(start, tmp_path, mailbox, until_gone) -> None:
    """A fork of the program may keep the pipe open."""
    kernel = start(kernel_id="one")
    message = watched_kernel(kernel, b"one", tmp_path).encode()
    program = f"""
import os, subprocess, sys
dog = subprocess.Popen(
    [sys.executable, "-I", "-S", {module.__file__!r}, str(os.getpid())], stdin=subprocess.PIPE
)
fork = os.fork()
if fork:
    dog.stdin.write({message!r})
    dog.stdin.flush()
    open({str(mailbox.path)!r}, "w").write(f"{{fork}} {{dog.pid}}")
while True:
    os.read(0, 1)
"""
    parent = start([sys.executable, "-c", program], stdin=subprocess.PIPE)
    fork, dog = map(int, mailbox.path.read_text().split())
    parent.kill()
    assert kernel.wait() == -signal.SIGKILL
    until_gone(dog)
    os.kill(fork, 0)  # the fork still runs
    os.kill(fork, signal.SIGKILL)
    until_gone(fork)


def test_program_that_has_died_before_it_is_looked_at(start, watchdog, tmp_path) -> None:
    kernel = start()
    gone = start(["true"])
    gone.wait()
    dog = watchdog(gone.pid)
    assert dog.wait() == 0
    assert kernel.poll() is None


def _unread(process: subprocess.Popen) -> int:
    """Return the number of unread bytes in the pipe."""
    size = array.array("i", [0])
    fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, size)
    return size[0]
