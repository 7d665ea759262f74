"""How a process that the fork server has forked becomes a kernel.

forkserver.py loads this file, which imports nothing of kernelproto.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
from typing import Any

# The backend of matplotlib in ipykernel, unless MPLBACKEND names another one.
INLINE_BACKEND = "module://matplotlib_inline.backend_inline"

# The variable with the number of the process with which an ipykernel ends.
PARENT_VARIABLE = "JPY_PARENT_PID"
KERNEL_ID_VARIABLE = "KERNELPROTO_KERNEL_ID"

OOM_SCORE = "/proc/self/oom_score_adj"

# More than the report of a failure has.
REPORT_BYTES = 2**16


class Entering:
    """A forked process that is becoming a kernel.

    Args:
        number: the number of the request.
        pid: the number of the process.
        failures: a pipe that the process closes once it is a kernel; before, it may write an error.
    """

    def __init__(self, number: int, pid: int, failures: int) -> None:
        os.set_blocking(failures, False)
        self.number = number
        self.pid = pid
        self.failures = failures
        self.report = b""
        self.forked = time.monotonic()
        self.told = False

    def is_over(self) -> bool:
        """Read the report; return whether it is complete."""
        try:
            while chunk := os.read(self.failures, REPORT_BYTES):
                self.report += chunk
        except BlockingIOError:
            return False
        return True


def become_kernel(
    request: dict[str, Any], output: int, working_directory: int, details: int, failure: int
) -> None:
    """Make this forked process like a new one; report a failure and end."""
    try:
        request |= read_details(details)
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(nothing)
        os.close(output)
        set_environment(request["env"])
        if PARENT_VARIABLE in os.environ:
            os.environ[PARENT_VARIABLE] = str(os.getppid())
        name_process(os.environ.get(KERNEL_ID_VARIABLE, ""))
        time.tzset()
        choose_backend()
        request["unfit"] = True
        take_over(request["state"])
        request["unfit"] = False
        if request["sandbox"] is not None:
            os.close(working_directory)
            request["enter_sandbox"](request["sandbox"], [failure])  # and the working directory
        else:
            os.fchdir(working_directory)
            os.close(working_directory)
            if request["cwd"] is not None:
                os.chdir(request["cwd"])
        reseed()
    except BaseException as error:
        os.write(failure, json.dumps(failed(request, error)).encode())
        os._exit(1)
    os.close(failure)  # tells the server that this process is a kernel


def read_details(descriptor: int) -> dict[str, Any]:
    """Read the details of the request from a file, and close the file.

    The server does not read them: all later kernels could find them in their memory.
    """
    with open(descriptor, "rb", buffering=0) as file:
        file.seek(0)
        details: dict[str, Any] = json.loads(file.read())
    return details


def set_environment(wanted: dict[str, str]) -> None:
    """Change the variables that differ; most of them are those of the server."""
    current = dict(os.environ)
    for name in current.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if current.get(name) != value:
            os.environ[name] = value


def take_over(state: dict[str, Any]) -> None:
    """Take over the state of the owner; see program_state.py."""
    if state["ignores_hangup"]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if state["umask"] is not None:
        os.umask(state["umask"])
    affinity = state["affinity"]
    if affinity is not None and os.sched_getaffinity(0) != set(affinity):
        os.sched_setaffinity(0, affinity)
    score = state["oom_score_adj"]
    if score is not None:
        with open(OOM_SCORE, "rb", buffering=0) as file:  # text would load a codec
            current = file.read().strip()
        if current != score.encode():
            with open(OOM_SCORE, "wb", buffering=0) as file:
                file.write(score.encode())
    if os.getpriority(os.PRIO_PROCESS, 0) != state["nice"]:
        os.setpriority(os.PRIO_PROCESS, 0, state["nice"])
    for number, limits in state["limits"].items():
        if resource.getrlimit(int(number)) != tuple(limits):
            resource.setrlimit(int(number), tuple(limits))


def name_process(kernel_id: str) -> None:
    """Name the process after the kernel, because environment and command line are the server's.

    See process_name() in watchdog.py.
    """
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(f"kernel-{kernel_id[:8]}")


def reseed() -> None:
    """Seed the random numbers, so that each kernel of the server gets others."""
    random.seed()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    uuid: Any = sys.modules.get("uuid")
    if uuid is not None:
        uuid._node = uuid._last_timestamp = None


def choose_backend() -> None:
    """Choose the backend that matplotlib would have if the kernel had loaded matplotlib."""
    matplotlib: Any = sys.modules.get("matplotlib")
    if matplotlib is not None:
        matplotlib.rcParams["backend"] = os.environ.get("MPLBACKEND") or INLINE_BACKEND


def be_kernel(request: dict[str, Any], program: Any) -> None:
    """Run ipykernel.

    Args:
        request: the request for the fork.
        program: the module ipykernel.py.
    """
    sys.argv = request["argv"]
    program.name_launcher()
    program.main()


def failed(request: dict[str, Any], error: BaseException) -> dict[str, object]:
    """Return the message that reports a failure."""
    return {
        "failed": request["fork"],
        "errno": getattr(error, "errno", None),
        "reason": getattr(error, "strerror", None) or str(error),
        "file": getattr(error, "filename", None),
        "unfit": request.get("unfit", False),
    }
