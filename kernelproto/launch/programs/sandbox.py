"""A program that puts itself into a sandbox and then runs a kernel. Linux only.

Run as ``python -I -S sandbox.py PLAN COMMAND...``, where PLAN is JSON, see ``confine`` in
confinement.py. The fork server calls ``enter`` in a forked process instead. The program imports
nothing of kernelproto.

Theory of operation
-------------------
Three processes: the *guard* is the started process, which makes the namespaces and then only
reports the exit status. The guard's child, the *init*, is process 1 of the new pid namespace. The
init mounts the files and reaps orphans. When the init ends, Linux kills every process of the
namespace, of any group, session or environment. The init's child is the *kernel*. The init ends
with the kernel, and with the guard.

All three share one process group, so a signal to the group reaches the kernel directly. The guard
and the init ignore it.

The kernel enters a user namespace of its own before running, and gives up all capabilities. The
kernel can never gain rights over the mounts, which belong to another user namespace. The kernel's
processes are counted in its user namespace. A filter of system calls comes last, because the filter
refuses some of the calls that make a sandbox.

The folder of the ipc sockets is the only folder of the host that a kernel could fill. The init
makes it read-only as soon as the sockets exist, which is before the kernel reads a request. A
kernel that makes other files there is ended.

The guard enters the control groups first, so their limits hold for all three processes.

Every step raises an error if the system refuses it. No step is optional.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

if sys.platform != "win32":  # the package imports this file on all platforms
    import resource

# One quota holds for all of these.
TMP = "/tmp"
HOME = "/tmp/home"
SHARED_MEMORY = "/tmp/.shm"

HOST_NAME = "sandbox"
# The exit status of a guard that could not make the sandbox, or of an ended kernel.
NOT_MADE = 125

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}

# Signals that the system sends for faults of a process, and those that cannot be ignored.
FAULTS = (
    *("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP"),
    *("SIGCHLD", "SIGKILL", "SIGSTOP"),
)
IGNORED = [signum for signum in signal.Signals if signum.name not in FAULTS]

# Errors that are not a refusal; the launch names the resource.
SHORTAGES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}

# How often the init looks for the kernel's sockets.
SEAL_SECONDS = 0.005

# Bytes of a private folder for each file there.
BYTES_PER_FILE = 4096

Plan = dict[str, Any]

# The module namespaces.py, after prepare().
linux: Any = None


def main(plan: Plan, command: list[str]) -> None:
    """Run the command in a sandbox."""
    try:
        enter(plan)
    except (OSError, ValueError) as error:
        os.write(2, f"{error}\n".encode())
        os._exit(NOT_MADE)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"cannot run {command[0]!r} in the sandbox: {error.strerror}")


def failure(error: OSError) -> str:
    """Return the message for a sandbox that could not be made."""
    file = "" if error.filename is None else f": {os.fsdecode(error.filename)!r}"
    return f"the sandbox cannot be made: {error.strerror}{file}"


def prepare() -> None:
    """Load the module of system calls; the fork server does so once for all kernels."""
    global linux
    if linux is None:
        linux = load("namespaces")


def enter(plan: Plan, inherited: Sequence[int] = ()) -> None:
    """Put this process into a sandbox; return in the process that is to be the kernel.

    This process becomes the guard and never returns. The process must have one thread.

    Args:
        plan: the sandbox.
        inherited: descriptors that only the kernel's process keeps.

    The exceptions are raised in any of the three processes; the caller then ends the process.

    Raises:
        OSError: the system lacks a resource.
        ValueError: the system refuses a step.
    """
    try:
        make_processes(plan, inherited)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise ValueError(failure(error)) from error


def make_processes(plan: Plan, inherited: Sequence[int]) -> None:
    """Make the three processes; return in the kernel's."""
    prepare()
    for folder in plan["control_groups"]:
        linux.write(f"{folder}/cgroup.procs", "0")  # this process, and so all children
    handlers = {signum: signal.getsignal(signum) for signum in IGNORED}
    for signum in IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    is_root = os.geteuid() == 0
    claim = None
    if "uids" in plan:
        plan["uid"], claim = linux.claim_user(*plan["uids"])
        plan["gid"] = plan["uid"]
    if not is_root:
        linux.enter_user_namespace()
    network = linux.NEWNET if plan["network"] != "full" else 0
    linux.unshare("new namespaces", linux.ISOLATED | network)
    statuses, status = os.pipe()
    signs, sign = os.pipe()
    init = os.fork()
    if init:
        for descriptor in (*inherited, status, signs):
            os.close(descriptor)
        guard(init, statuses, sign)
    os.close(statuses)
    os.close(sign)
    if claim is not None:
        claim.close()  # the guard keeps the claim
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if not os.read(signs, 1):  # the guard has been killed before that
        os._exit(NOT_MADE)
    os.close(signs)
    if plan["network"] == "loopback":
        linux.bring_up_loopback()
    socket.sethostname(HOST_NAME)
    mount_files(plan)
    kernel = os.fork()
    if kernel:
        for descriptor in inherited:
            os.close(descriptor)
        be_init(kernel, plan, status)
    os.close(status)
    if is_root:
        os.setgroups([])
        os.setresgid(*(plan["gid"],) * 3)
        os.setresuid(*(plan["uid"],) * 3)
        # Otherwise root owns the files of this process in /proc.
        linux.prctl(linux.PR_SET_DUMPABLE, 1)
    linux.leave_keyring()
    linux.enter_user_namespace()
    linux.write("/proc/sys/user/max_user_namespaces", "0")
    for number, soft, hard in plan["limits"]:
        resource.setrlimit(number, (soft, hard))
    linux.drop_capabilities()
    os.chdir(plan["cwd"])
    if plan["filter"] is not None:
        linux.filter_system_calls(bytes.fromhex(plan["filter"]))
    for signum, handler in handlers.items():
        if handler is not None:
            signal.signal(signum, handler)


def guard(init: int, statuses: int, sign: int) -> NoReturn:
    """Wait for the init; end as the kernel has ended."""
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(sign, b".")
    _, ended = os.waitpid(init, 0)
    report = os.read(statuses, 64)
    returncode = int(report) if report else os.waitstatus_to_exitcode(ended)
    if returncode < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -returncode not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-returncode, signal.SIG_DFL)
        os.kill(os.getpid(), -returncode)
    os._exit(returncode if returncode >= 0 else 128 - returncode)


def be_init(kernel: int, plan: Plan, status: int) -> NoReturn:
    """Seal the sockets, reap every process until the kernel's end, and report its status."""
    sealed = False
    returncode = NOT_MADE
    try:
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
        while True:
            pid, code = os.waitpid(-1, 0 if sealed else os.WNOHANG)
            if pid == kernel:
                returncode = os.waitstatus_to_exitcode(code)
                break
            if not sealed and has_sockets(plan):
                seal(plan)
                has_sockets(plan)  # the kernel may have made a file meanwhile
                sealed = True
            elif not pid:
                time.sleep(SEAL_SECONDS)
    except OSError as error:
        os.write(2, f"{failure(error)}\n".encode())
    os.write(status, str(returncode).encode())
    os._exit(0)


def has_sockets(plan: Plan) -> bool:
    """Return whether the kernel has made its sockets; raise OSError for other files."""
    folder: str | None = plan["socket_folder"]
    made = [] if folder is None else os.listdir(folder)
    for path in (f"{folder}/{name}" for name in made):
        if path not in plan["sockets"] or not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError(errno.EPERM, "the kernel has made a file among its sockets", path)
    return len(made) == len(plan["sockets"])


def seal(plan: Plan) -> None:
    """Make the folder of the sockets read-only; give up the rights of the init."""
    folder = plan["socket_folder"]
    if folder is not None:
        if os.geteuid() == 0:
            os.chmod(folder, 0o700)
        linux.set_attributes(folder, linux.ATTR_RDONLY)
    linux.drop_capabilities()


def mount_files(plan: Plan) -> None:
    """Mount the files that the kernel sees."""
    umask = os.umask(0o022)
    linux.keep_mounts_private()
    connection_file: str | None = plan["connection_file"]
    connection = b""
    if connection_file is not None:
        with open(connection_file, "rb", buffering=0) as file:
            connection = file.read()
    devices = {name: os.open(f"/dev/{name}", os.O_PATH) for name in DEVICES}
    # Opened before anything covers them: mounts are made from these descriptors.
    shown = {path: os.open(path, os.O_PATH) for path in plan["visible"]}
    written = {path: os.open(path, os.O_PATH) for path in plan["writable"]}
    folder = plan["socket_folder"]
    sockets: int | None = None if folder is None else os.open(folder, os.O_PATH)
    if folder is not None and os.geteuid() == 0:
        os.chown(folder, -1, plan["gid"])
        os.chmod(folder, 0o770)
    read_only = linux.ATTR_RDONLY if plan["read_only"] else 0
    linux.set_attributes("/", read_only | linux.ATTR_NOSUID | linux.ATTR_NODEV, recursive=True)
    if not read_only and os.path.ismount("/sys"):  # the kernel may own control groups
        linux.set_attributes("/sys", linux.ATTR_RDONLY, recursive=True)
    # The order puts a folder before its files. Covers have the opposite order, so that a folder
    # which is shown again shows no hidden subfolder.
    covers = sorted(plan["hidden"], reverse=True)
    for path in covers:
        cover(path, devices["null"])
    mount_private(TMP, plan["tmp"], "1777")
    for path, mode in ((HOME, 0o700), (SHARED_MEMORY, 0o1777)):
        os.mkdir(path)
        os.chmod(path, mode)
    if os.geteuid() == 0:
        os.chown(HOME, plan["uid"], plan["gid"])
    for path in sorted({*shown, *written}):
        is_writable = path in written
        bind((written if is_writable else shown)[path], path, is_writable=is_writable)
        if not is_writable:
            linux.set_attributes(path, linux.ATTR_RDONLY, recursive=True)
    for path, size in sorted(plan["private"].items()):
        make_place(path, is_folder=True)
        mount_private(path, size, "1777")
    if connection_file is not None:
        place(connection_file, connection, plan)
    if folder is not None and sockets is not None:
        bind(sockets, folder, is_writable=True)
        os.close(sockets)
    mount_devices(devices)
    for path in set(covers) - {*written, *plan["private"]}:  # there another mount hides the cover
        if os.path.isdir(path) and os.path.ismount(path):
            linux.set_attributes(path, linux.ATTR_RDONLY)
    linux.mount("proc", "/proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    for descriptor in (*devices.values(), *shown.values(), *written.values()):
        os.close(descriptor)
    os.umask(umask)


def cover(path: str, null: int) -> None:
    """Hide a file or a folder."""
    try:
        mode = os.stat(path).st_mode
    except PermissionError:  # hidden already: the kernel has no more rights than this process
        return
    if stat.S_ISDIR(mode):
        options = f"size=1m,nr_inodes={BYTES_PER_FILE},mode=0755"
        linux.mount("tmpfs", path, linux.MS_NOSUID | linux.MS_NODEV, options)
    else:
        bind(null, path)  # without the device, and so not even readable


def mount_private(path: str, size: int, mode: str) -> None:
    """Mount an empty folder with a quota."""
    files = max(size // BYTES_PER_FILE, 64)
    linux.mount(
        "tmpfs",
        path,
        linux.MS_NOSUID | linux.MS_NODEV,
        f"size={size},nr_inodes={files},mode={mode}",
    )


def mount_devices(devices: dict[str, int]) -> None:
    """Mount a /dev with harmless devices only."""
    shared_memory = os.open(SHARED_MEMORY, os.O_PATH)
    linux.mount("tmpfs", "/dev", linux.MS_NOSUID | linux.MS_NOEXEC, "size=64k,mode=0755")
    for name, descriptor in devices.items():
        bind(descriptor, f"/dev/{name}")
        linux.set_attributes(f"/dev/{name}", 0, clear=linux.ATTR_NODEV)
    for name, target in LINKS.items():
        os.symlink(target, f"/dev/{name}")
    os.mkdir("/dev/pts")
    linux.mount(
        "devpts",
        "/dev/pts",
        linux.MS_NOSUID | linux.MS_NOEXEC,
        "newinstance,ptmxmode=0666,mode=620",
    )
    os.symlink("pts/ptmx", "/dev/ptmx")
    bind(shared_memory, "/dev/shm", is_writable=True)
    os.close(shared_memory)
    linux.set_attributes("/dev", linux.ATTR_RDONLY)


def place(path: str, content: bytes, plan: Plan) -> None:
    """Write a file that the kernel may read, into a folder that was covered."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with open(descriptor, "wb", buffering=0) as file:
        file.write(content)
        if os.geteuid() == 0:
            os.fchown(file.fileno(), plan["uid"], plan["gid"])


def bind(descriptor: int, path: str, *, is_writable: bool = False) -> None:
    """Mount an open file or folder at a path."""
    source = f"/proc/self/fd/{descriptor}"  # even if another mount covers the path
    make_place(path, is_folder=os.path.isdir(source))
    linux.bind(source, path)
    if is_writable:
        linux.set_attributes(path, 0, clear=linux.ATTR_RDONLY, recursive=True)


def make_place(path: str, *, is_folder: bool) -> None:
    """Make a file or folder as a mount point, unless it exists."""
    if os.path.lexists(path):
        return
    try:
        os.makedirs(path if is_folder else os.path.dirname(path), exist_ok=True)
        if not is_folder:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o444))
    except OSError as error:
        raise OSError(error.errno, f"{path!r} cannot be made: {error.strerror}") from error


def load(name: str) -> Any:
    """Load a file of this folder."""
    import importlib.util  # here, because the package imports this file

    path = os.path.join(os.path.dirname(__file__), f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
