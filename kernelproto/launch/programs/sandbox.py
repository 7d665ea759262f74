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

A fork server of root forks the init itself, into a new pid namespace. Then there is no guard: the
init reports the exit status to the fork server, and ends with the fork server.

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
import select
import signal
import socket
import stat
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

if sys.platform != "win32":  # the package imports this file on all platforms
    import resource

HOST_NAME = "sandbox"
# The exit status of a guard that could not make the sandbox, or of an ended kernel.
NOT_MADE = 125

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

Plan = dict[str, Any]

# The modules namespaces.py and sandbox_mounts.py, after prepare().
linux: Any = None
mounts: Any = None


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
    """Load the modules of a sandbox; the fork server does so once for all kernels."""
    global linux, mounts
    if linux is None:
        linux, mounts = load("namespaces"), load("sandbox_mounts")
        mounts.linux = linux


def fork() -> tuple[int, int | None]:
    """Fork a process that is to call enter(), if possible as the first one of a pid namespace.

    Returns:
        The number of the process, 0 in it, as of os.fork(); and a pipe: in this process for
        reported(), in the other one for enter(). The pipe is None if the other process becomes a
        guard.

    Raises:
        OSError: the fork has failed.
    """
    if os.geteuid() != 0:
        return os.fork(), None
    statuses, status = os.pipe()
    try:
        pid = linux.fork_first()
    except OSError:
        os.close(statuses)
        os.close(status)
        raise
    if pid is None:
        os.close(statuses)
        os.close(status)
        return os.fork(), None
    os.close(status if pid else statuses)
    return pid, statuses if pid else status


def reported(statuses: int, returncode: int) -> int:
    """Return the exit status that an init has reported, or else the status of the init."""
    report = os.read(statuses, 64)
    os.close(statuses)
    return int(report) if report else returncode


def enter(plan: Plan, inherited: Sequence[int] = (), status: int | None = None) -> None:
    """Put this process into a sandbox; return in the process that is to be the kernel.

    This process becomes the guard, or the init, and never returns. The process must have one
    thread.

    Args:
        plan: the sandbox.
        inherited: descriptors that only the kernel's process keeps. The first one, if any, is a
            pipe to the fork server.
        status: a pipe for the exit status of the kernel, if this process is already the first one
            of a pid namespace; see fork().

    The exceptions are raised in any of the processes; the caller then ends the process.

    Raises:
        OSError: the system lacks a resource.
        ValueError: the system refuses a step.
    """
    try:
        make_processes(plan, inherited, status)
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise ValueError(failure(error)) from error


def make_processes(plan: Plan, inherited: Sequence[int], status: int | None) -> None:
    """Make the processes; return in the kernel's."""
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
    kinds = linux.ISOLATED | (linux.NEWNET if plan["network"] != "full" else 0)
    is_first = status is not None
    linux.unshare("new namespaces", kinds & ~linux.NEWPID if is_first else kinds)
    if inherited and plan["ends_with_server"]:
        end_with_reader(inherited[0])
    if status is None:
        status = fork_init(inherited)
    if plan["network"] == "loopback":
        linux.bring_up_loopback()
    socket.sethostname(HOST_NAME)
    mounts.mount_files(plan)
    kernel = os.fork()
    if kernel:
        for descriptor in inherited:
            os.close(descriptor)
        be_init(kernel, plan, status)
    os.close(status)
    if claim is not None:
        claim.close()  # the other processes keep the claim
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


def fork_init(inherited: Sequence[int]) -> int:
    """Become the guard, and fork the init; return the pipe for the exit status in the init."""
    statuses, status = os.pipe()
    signs, sign = os.pipe()
    init = os.fork()
    if init:
        for descriptor in (*inherited, status, signs):
            os.close(descriptor)
        guard(init, statuses, sign)
    os.close(statuses)
    os.close(sign)
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    if not os.read(signs, 1):  # the guard has been killed before that
        os._exit(NOT_MADE)
    os.close(signs)
    return status


def end_with_reader(pipe: int) -> None:
    """Have Linux end this process with its parent, the fork server, which reads the pipe.

    The fork server may be killed before the owner knows the number of this process.
    """
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(pipe, 0)
    if poll.poll(0):  # the fork server has been killed before that
        os._exit(NOT_MADE)


def guard(init: int, statuses: int, sign: int) -> NoReturn:
    """Wait for the init; end as the kernel has ended."""
    linux.prctl(linux.PR_SET_DUMPABLE, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(sign, b".")
    _, ended = os.waitpid(init, 0)
    returncode = reported(statuses, os.waitstatus_to_exitcode(ended))
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
    with contextlib.suppress(BrokenPipeError):  # the fork server has ended
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
