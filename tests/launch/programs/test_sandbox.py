"""The program of a sandbox, with real namespaces: as the user of the tests, and as nobody."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("sandboxes work on Linux only", allow_module_level=True)

from kernelproto.launch.process import seccomp
from kernelproto.launch.process.confinement import confine, sandbox_fault, wrapped
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.programs import namespaces, sandbox, sandbox_mounts
from kernelproto.launch.programs.watchdog import remove_files

if (fault := sandbox_fault()) is not None:
    pytest.skip(f"no sandbox can be made here: {fault}", allow_module_level=True)

GUARD_SECONDS = 60
NOBODY = 65534

MACHINE = os.uname().machine
COLUMN = 0 if MACHINE == "x86_64" else 1
NUMBERS = {name: numbers[COLUMN] for name, numbers in seccomp.REFUSED.items()} | {
    "clone": (56, 220)[COLUMN]
}

# Each line is an attack: its name and an expression, of which the result or exception is reported.
HOSTILE = """
import ctypes, errno, glob, json, os, resource, signal, socket, subprocess, sys, time
secret, me = sys.argv[1:3]
numbers = json.loads(sys.argv[3])
def system_call(name, *arguments):
    call("syscall", numbers[name], *arguments)
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
def fill(folder):
    with open(folder + "/file", "wb", buffering=0) as file:
        written = 0
        try:
            while written < 2**30:
                written += file.write(bytes(2**20))
        except OSError as error:
            os.unlink(folder + "/file")
            return error.strerror
    return "no limit"
def fork_bomb():
    pids = []
    try:
        while len(pids) < 1000:
            pid = os.fork()
            if not pid:
                time.sleep(100)
            pids.append(pid)
    except OSError as error:
        return error.strerror
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    return "no limit"
def connect(address):
    with socket.create_connection(address, 5):
        return "connected"
attacks = {
    "shadow": lambda: open("/etc/shadow").read(),
    "file of the caller": lambda: open(secret).read(),
    "environment": lambda: dict(os.environ),
    "processes": lambda: sorted(int(name) for name in os.listdir("/proc") if name.isdigit())[:1],
    "number of processes": lambda: len([name for name in os.listdir("/proc") if name.isdigit()]),
    "memory of the init": lambda: open("/proc/1/mem", "rb").read(1),
    "files of the init": lambda: os.listdir("/proc/1/fd"),
    "root of the init": lambda: os.listdir("/proc/1/root"),
    "signal to the init": lambda: os.kill(1, 9),
    "network": lambda: connect(("192.0.2.1", 80)),
    "metadata": lambda: connect(("169.254.169.254", 80)),
    "loopback": lambda: connect(("127.0.0.1", 1)),
    "mount": lambda: call("mount", b"x", b"/tmp", b"tmpfs", 0, None),
    "unmount": lambda: call("umount2", b"/tmp", 2),
    "ptrace": lambda: call("ptrace", 16, 1, 0, 0),
    "user namespace": lambda: call("unshare", 0x10000000),
    "control group": lambda: open(
        next(glob.iglob("/sys/fs/cgroup/**/*.procs", recursive=True), "/sys/missing"), "w"
    ),
    "system": lambda: open("/sys/kernel/profiling", "w"),
    "performance counters": lambda: system_call("perf_event_open", None, 0, -1, -1, 0),
    "memory of another process": lambda: call("process_vm_readv", 1, None, 0, None, 0, 0),
    "requests in a ring": lambda: system_call("io_uring_setup", 1, None),
    "keys": lambda: system_call("keyctl", 0, -3, 0),
    "program in Linux": lambda: system_call("bpf", 0, None, 0),
    "new process in a namespace": lambda: system_call("clone", 0x10000011, None, None, None, 0),
    "sockets of the machine": lambda: socket.socket(40, socket.SOCK_STREAM),
    "packets": lambda: socket.socket(17, socket.SOCK_RAW),
    "input for a terminal": lambda: call("ioctl", 0, 0x5412, b"x"),
    "mount namespace": lambda: call("unshare", 0x20000),
    "set the user": lambda: os.setuid(0),
    "chroot": lambda: os.chroot("/tmp"),
    "device": lambda: os.mknod("/tmp/disk", 0o60666, os.makedev(8, 0)),
    "disks": lambda: [name for name in os.listdir("/dev") if name.startswith(("sd", "vd", "mem"))],
    "namespaces again": lambda: open("/proc/sys/user/max_user_namespaces", "w").write("9"),
    "setting of Linux": lambda: open("/proc/sys/kernel/core_pattern", "w"),
    "network of Linux": lambda: open("/proc/sys/net/ipv4/ip_forward", "w"),
    "restart": lambda: open("/proc/sysrq-trigger", "w"),
    "memory of Linux": lambda: open("/proc/kcore", "rb").read(1),
    "page faults": lambda: system_call("userfaultfd", 0),
    "file by its handle": lambda: system_call("open_by_handle_at", -100, None, 0),
    "terminal": lambda: open("/dev/tty"),
    "abstract sockets": lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + sys.argv[4]),
    "descriptors": lambda: sorted(
        (int(name), os.readlink(f"/proc/self/fd/{name}").split(":")[0])
        for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")),
    "keys of others": lambda: [
        line for line in open("/proc/keys") if line.split()[5] != str(os.getuid())],
    "link to a file of the machine": lambda: os.link("/etc/passwd", "/tmp/passwd"),
    "root folder": lambda: open("/written", "w"),
    "etc": lambda: open("/etc/written", "w"),
    "disk": lambda: fill("/tmp"),
    "shared memory": lambda: fill("/dev/shm"),
    "quota": lambda: fill("/tmp/quota"),
    "memory": lambda: len(bytearray(2**30)),
    "fork bomb": fork_bomb,
    "more processes": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (10000, 10000)),
    "capabilities": lambda: [line.split()[1] for line in open("/proc/self/status")
                             if line.startswith("Cap")],
}
found = {}
for name, attack in attacks.items():
    try:
        found[name] = attack()
    except Exception as error:
        number = getattr(error, "errno", None)
        found[name] = errno.errorcode[number] if number else type(error).__name__
escape = "import time; print('escaped', flush=True); time.sleep(1000)"
child = subprocess.Popen([sys.executable, "-I", "-S", "-c", escape], env={}, stdout=subprocess.PIPE,
                         start_new_session=True)
child.stdout.readline()
print(json.dumps(found), flush=True)
"""


# Runs the program of a sandbox as the fork server does: root forks the first process itself.
FORKED = """
import json, os, runpy, sys
program, plan, *command = sys.argv[1:]
sandbox = runpy.run_path(program)
sandbox["prepare"]()
pid, status = sandbox["fork"]()
assert status is not None
if pid:
    _, ended = os.waitpid(pid, 0)
    sys.exit(sandbox["reported"](status, os.waitstatus_to_exitcode(ended)))
sandbox["enter"](json.loads(plan), status=status)
os.execvp(command[0], command)
"""


class Outside:
    """A user outside the sandbox, and the interpreter and the programs that the user can read.

    Args:
        user: the number of the user; None means the user of the tests.
        folder: a folder of that user.
        forked: whether a sandbox has no guard, as in a fork server of root.
    """

    def __init__(self, user: int | None, folder: Path, *, forked: bool = False) -> None:
        self.folder = folder
        self.user = user
        self.forked = forked
        self.connection_file = folder / "connection.json"
        self.connection_file.write_text("{}")
        self.sockets = folder / "sockets"
        self.sockets.mkdir(mode=0o700)
        self.secret = folder / "secret"
        self.secret.write_text("secret")
        self.program = sandbox.__file__
        self.python = sys.executable
        if user is not None:
            for module in (sandbox, sandbox_mounts, namespaces):
                shutil.copy(module.__file__, folder)
            self.program = str(folder / "sandbox.py")
            self.python = "/usr/bin/python3"
            for path in (folder, *folder.iterdir()):
                os.chown(path, user, user)

    def plan(self, **settings: Any) -> dict[str, Any]:
        sockets = [f"{self.sockets}/{number}" for number in range(2)]
        hidden = (str(self.secret), *settings.pop("hidden", ()))
        plan = confine(
            Sandbox(hidden=hidden, **settings),
            [self.python],
            sockets=sockets,
            limits=None,
            connection_file=str(self.connection_file),
        )
        if self.user is not None:
            # Without the interpreter of the tests, which this user may not see.
            visible = list(settings.get("visible", ()))
            plan |= {"uid": self.user, "gid": self.user, "visible": visible}
        return plan

    def start(self, plan: dict[str, Any], *arguments: str) -> subprocess.Popen[str]:
        """Start the interpreter in a sandbox."""
        user = {} if self.user is None else {"user": self.user, "group": self.user}
        program = ["-c", FORKED, self.program] if self.forked else [self.program]
        return subprocess.Popen(
            [self.python, "-I", "-S", *program, json.dumps(plan), self.python, *arguments],
            env={"GIVEN": "1"},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            **({} if self.user is None else {**user, "extra_groups": []}),
        )

    def run(self, code: str, *arguments: str, **settings: Any) -> tuple[int, str]:
        """Run code in a sandbox; return its exit status and its output."""
        process = self.start(self.plan(**settings), "-I", "-S", "-c", code, *arguments)
        output, _ = process.communicate(timeout=GUARD_SECONDS)
        return process.returncode, output


@pytest.fixture(params=["user of the tests", "nobody"])
def outside(request: pytest.FixtureRequest) -> Iterator[Outside]:
    user = NOBODY if request.param == "nobody" else None
    # Not tmp_path, which other users cannot enter.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        if user is not None:
            if os.geteuid() != 0:
                pytest.skip("only root can become another user")
            trial = ["/usr/bin/python3", "-I", "-S", "-c", "import ctypes"]
            with contextlib.suppress(OSError):
                if subprocess.run(trial, user=user, group=user, check=False).returncode == 0:
                    yield Outside(user, folder)
                    return
            pytest.skip("there is no /usr/bin/python3 for other users")
        forked = request.param == "forked by root"
        if forked and os.geteuid() != 0:
            pytest.skip("only root forks the first process of a sandbox itself")
        yield Outside(user, folder, forked=forked)


def attacked(outside: Outside, abstract: str) -> tuple[int, str]:
    """Run the attacks; *abstract* is the name of a socket of the machine."""
    return outside.run(
        f"import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**28, 2**28))\n{HOSTILE}",
        str(outside.secret),
        str(os.getpid()),
        json.dumps(NUMBERS),
        abstract,
        tmp=8 * 2**20,
        processes=20,
        writable={"/tmp/quota": 2**20},
    )


@pytest.mark.parametrize(
    "outside", ["user of the tests", "nobody", "forked by root"], indirect=True
)
def test_a_hostile_program_is_refused_or_bounded(outside: Outside) -> None:
    abstract = f"kernelproto-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"\0{abstract}")
        listening.listen()
        status, output = attacked(outside, abstract)
    assert status == 0, output
    found = json.loads(output.splitlines()[-1])
    assert found.pop("environment").items() >= {"GIVEN": "1"}.items()
    assert found.pop("capabilities") == ["0" * 16] * 5
    assert found.pop("number of processes") <= 3
    assert found.pop("descriptors") == [[0, "/dev/null"], [1, "pipe"], [2, "pipe"]]
    assert found.pop("keys of others") in ([], "ENOENT")  # if there are any keyrings
    refused = {"EACCES", "EINVAL", "EPERM", "EROFS", "ENOENT", "ENOSPC"}
    assert found.pop("file of the caller") in {"", *refused}
    assert found == found | {
        "processes": [1],
        "network": "ENETUNREACH",
        "metadata": "ENETUNREACH",
        "loopback": "ENETUNREACH",
        "user namespace": "EPERM",
        "performance counters": "EPERM",
        "memory of another process": "EPERM",
        "requests in a ring": "EPERM",
        "keys": "EPERM",
        "program in Linux": "EPERM",
        "new process in a namespace": "EPERM",
        "abstract sockets": "ECONNREFUSED",
        "page faults": "EPERM",
        "file by its handle": "EPERM",
        "terminal": "ENXIO",
        "link to a file of the machine": "EXDEV",
        "sockets of the machine": "EAFNOSUPPORT",
        "packets": "EAFNOSUPPORT",
        "input for a terminal": "EPERM",
        "disks": [],
        "memory": "MemoryError",
        "disk": os.strerror(28),
        "shared memory": os.strerror(28),
        "quota": os.strerror(28),
        "fork bomb": os.strerror(11),
    }
    others = {
        "shadow",
        "memory of the init",
        "files of the init",
        "root of the init",
        "mount",
        "unmount",
        "ptrace",
        "mount namespace",
        "set the user",
        "chroot",
        "device",
        "namespaces again",
        "control group",
        "system",
        "root folder",
        "etc",
        "setting of Linux",
        "network of Linux",
        "restart",
        "memory of Linux",
    }
    assert {name: found[name] for name in others if found[name] not in refused} == {}
    assert found["signal to the init"] in ("EPERM", None)  # the init ignores it
    assert found["more processes"] in ("EPERM", "ValueError")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can run kernels as other users")
def test_no_two_kernels_have_one_number_of_a_range(tmp_path: Path) -> None:
    uids = "2000000000-2000000001"
    code = "import os, time; print(os.getuid(), os.getgid(), flush=True); time.sleep(1000)"
    command = [sys.executable, "-I", "-S", "-c", code]
    plan = confine(Sandbox(uid=uids), command, sockets=(), limits=None)
    started: list[subprocess.Popen[str]] = []

    def start() -> str:
        started.append(
            subprocess.Popen(
                wrapped(command, plan),
                cwd="/",
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        assert started[-1].stdout is not None
        return started[-1].stdout.readline()

    try:
        assert {start(), start()} == {f"{uid} {uid}\n" for uid in (2000000000, 2000000001)}
        refused = "every user of 2000000000-2000000001 has an account or a kernel"
        assert start() == f"the sandbox cannot be made: {refused}\n"
        free = started[0]
        free.kill()
        free.wait()
        assert start() in {f"{uid} {uid}\n" for uid in (2000000000, 2000000001)}
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_every_call_of_the_table_is_refused(outside: Outside) -> None:
    code = (
        "import ctypes, json, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "for name, number in json.loads(sys.argv[1]).items():\n"
        "    if libc.syscall(number, -1, -1, -1, -1, -1) != -1 or ctypes.get_errno() != 1:\n"
        "        print(name, ctypes.get_errno())"
    )
    numbers = {k: v for k, v in NUMBERS.items() if k != "clone" and v is not None}
    assert outside.run(code, json.dumps(numbers)) == (0, "")


def test_a_call_that_is_newer_than_the_table_does_not_exist(outside: Outside) -> None:
    code = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(*[(libc.syscall(n, 0), ctypes.get_errno()) for n in (435, 467, 500)])"
    )
    assert outside.run(code) == (0, "(-1, 38) (-1, 38) (-1, 38)\n")


@pytest.mark.skipif(MACHINE != "x86_64", reason="the other architecture is x32")
def test_a_call_of_another_architecture_ends_the_process(outside: Outside) -> None:
    code = "import ctypes; ctypes.CDLL(None).syscall(0x40000000 | 39)"
    assert outside.run(code)[0] == -signal.SIGSYS
    assert outside.run(code, seccomp="none")[0] == 0


def test_without_a_filter_the_namespaces_still_confine(outside: Outside) -> None:
    code = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.unshare(0x10000000), ctypes.get_errno())"
    )
    assert outside.run(code, seccomp="none") == (0, "-1 28\n")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 15)", -15),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import ctypes; ctypes.string_at(0)", -11),
        ("import os; os.fork() or os._exit(5); os._exit(0)", 0),
    ],
)
def test_the_exit_status_is_the_kernels(outside: Outside, code: str, status: int) -> None:
    assert outside.run(code)[0] == status


def test_orphans_are_reaped_and_end_with_the_kernel(outside: Outside) -> None:
    code = (
        "import os, sys, time\n"
        "if not os.fork():\n"
        "    if not os.fork(): os._exit(0)\n"  # an orphan that ends: the init reaps it
        "    os._exit(0)\n"
        "os.wait()\n"
        "while len([name for name in os.listdir('/proc') if name.isdigit()]) > 2: time.sleep(0.01)"
    )
    assert outside.run(code) == (0, "")


def test_the_loopback_is_the_sandboxs_own(outside: Outside) -> None:
    code = (
        "import socket; server = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(server.getsockname()); print(socket.if_nameindex())"
    )
    assert outside.run(code, network="loopback") == (0, "[(1, 'lo')]\n")


def test_sockets_can_be_bound_and_the_folder_not_be_filled(outside: Outside) -> None:
    code = (
        "import os, socket, sys, time\n"
        "sockets = [socket.socket(socket.AF_UNIX) for _ in range(2)]\n"
        "for number, each in enumerate(sockets): each.bind(f'{sys.argv[1]}/{number}')\n"
        "while os.access(sys.argv[1], os.W_OK): time.sleep(0.01)\n"
        "try: open(sys.argv[1] + '/more', 'w')\n"
        "except OSError as error: print(type(error).__name__)"
    )
    status, output = outside.run(code, str(outside.sockets))
    assert (status, output in ("OSError\n", "PermissionError\n")) == (0, True)
    assert sorted(os.listdir(outside.sockets)) == ["0", "1"]
    assert outside.sockets.stat().st_mode & 0o777 == 0o700


def test_a_kernel_that_holds_a_file_among_its_sockets_is_ended(outside: Outside) -> None:
    code = (
        "import os, socket, sys, time\n"
        "file = open(sys.argv[1] + '/0', 'w'); os.unlink(file.name)\n"
        "for number in range(2): socket.socket(socket.AF_UNIX).bind(f'{sys.argv[1]}/{number}')\n"
        "time.sleep(1000)"
    )
    status, output = outside.run(code, str(outside.sockets))
    assert status == sandbox.NOT_MADE
    seen, held = "the kernel has made a file among its sockets", "mount attributes"
    assert seen in output or f"the sandbox cannot be made: {held}" in output


@pytest.mark.parametrize(
    "attack",
    [
        "open(f'{folder}/file', 'w')",
        "open(f'{folder}/0', 'w')",
        "os.mkdir(f'{folder}/folder')",
        "os.symlink('/run', f'{folder}/0')",
        "os.mkfifo(f'{folder}/0')",
    ],
)
def test_a_kernel_that_makes_files_among_its_sockets_is_ended(
    outside: Outside, attack: str
) -> None:
    code = f"import os, socket, sys, time; folder = sys.argv[1]; {attack}; time.sleep(1000)"
    status, output = outside.run(code, str(outside.sockets))
    assert status == sandbox.NOT_MADE
    assert "the kernel has made a file among its sockets" in output
    remove_files([os.fsencode(outside.sockets)])
    assert not outside.sockets.exists() or outside.user is not None


def test_a_visible_file_shows_through_a_hidden_folder(outside: Outside) -> None:
    shown, hidden = outside.folder / "a" / "shown", outside.folder / "a" / "hidden"
    shown.mkdir(parents=True)
    hidden.mkdir()
    (shown / "file").write_text("hello")
    code = (
        "import os, sys\n"
        "print(os.listdir(sys.argv[1]), open(sys.argv[1] + '/shown/file').read(), flush=True)"
    )
    for path in ("/", "/shown"):
        status, output = outside.run(
            f"{code}\nopen(sys.argv[1] + '{path}/new', 'w')",
            str(shown.parent),
            hidden=(str(shown.parent),),
            visible=(str(shown),),
        )
        assert (status, output.splitlines()[0]) == (1, "['shown'] hello")
        assert "Read-only file system" in output


def test_a_writable_folder_is_that_of_the_machine(outside: Outside) -> None:
    folder = outside.folder / "work"
    folder.mkdir()
    folder.chmod(0o777)
    code = "import sys; open(sys.argv[1] + '/file', 'w').write('kept')"
    for hidden in ((), (str(folder),), (str(outside.folder),)):
        settings = {"writable": {str(folder): None}, "hidden": hidden}
        assert outside.run(code, str(folder), **settings) == (0, "")
        assert (folder / "file").read_text() == "kept"
        (folder / "file").unlink()
        settings["writable"] = {str(folder): 2**20}
        assert outside.run(code, str(folder), **settings) == (0, "")
        assert list(folder.iterdir()) == []


def test_a_visible_folder_is_read_only_even_if_others_are_not(outside: Outside) -> None:
    folder = outside.folder / "shown"
    folder.mkdir()
    folder.chmod(0o777)
    code = "import os, sys; print(os.access(sys.argv[1], os.W_OK))"
    settings = {"read_only": False, "hidden": (str(outside.folder),)}
    assert outside.run(code, str(folder), visible=(str(folder),), **settings) == (0, "False\n")


def test_a_step_that_the_system_refuses_is_named(outside: Outside) -> None:
    plan = outside.plan() | {"cwd": "/missing"}
    process = outside.start(plan, "-c", "")
    output, _ = process.communicate(timeout=GUARD_SECONDS)
    assert output == "the sandbox cannot be made: No such file or directory: '/missing'\n"
    assert process.returncode == sandbox.NOT_MADE


@pytest.mark.parametrize("victim", ["guard", "group", "init"])
def test_nothing_outlives_kill_9(
    outside: Outside, victim: str, until_gone: Callable[[int], None]
) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(1000)']\n"
        "child = subprocess.Popen(sleep, env={}, start_new_session=True)\n"
        "print('up', flush=True); time.sleep(1000)"
    )
    process = outside.start(outside.plan(), "-I", "-S", "-c", code)
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], GUARD_SECONDS)
    assert ready
    assert process.stdout.readline() == "up\n"
    processes = descendants(process.pid)
    assert len(processes) == 3  # the init, the kernel, its child
    match victim:
        case "guard":
            process.kill()
        case "group":
            os.killpg(process.pid, signal.SIGKILL)
        case _:
            os.kill(processes[0], signal.SIGKILL)
    assert process.wait(GUARD_SECONDS) == -signal.SIGKILL
    process.stdout.close()
    for pid in processes:
        until_gone(pid)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    found = [int(child) for child in children]
    return found + [below for child in found for below in descendants(child)]
