"""The program of a fork server: an interpreter with ipykernel loaded that forks ready kernels.

It is run by its path, ``python forkserver_process.py FD MODULES``, and imports nothing of
kernelproto: what it imports, its kernels have. FD is the number of a Unix socket, on which its
owner asks, in lines of JSON, and is answered in the same way:

    {"fork": 1, "argv": [...], "env": {...}, "cwd": ...} and the descriptor for the output
        -> {"forked": 1, "pid": 123}  or  {"failed": 1, "errno": 2, "reason": "...", "file": ...}
    {"signal": 15, "pid": 123}
    -> {"ready": true, "broken": {"module": "why"}, "threads": 1}     once, when it has begun
    -> {"ended": 123, "returncode": 0, "cpu_seconds": ..., "peak_memory": ...}   for each kernel

MODULES is a JSON list of modules to load beside ipykernel.

Theory of operation
-------------------
Only a process with a single thread can be forked safely, so there is one loop and nothing else. The
kernels are children of this process. One that has ended keeps its number until it is reaped; before
that what is left of its group is killed, so no signal ever reaches a stranger who was given the
number again. When the owner is gone, so is the other end of the socket: all kernels are killed, and
the server ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import time
from typing import Any

# What ipykernel imports when it is started, beyond what importing it imports.
LATE_IMPORTS = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.oinspect",
    "IPython.extensions.storemagic",
    "IPython.utils.wildcard",
    "debugpy.server.api",
    "encodings.idna",
    "faulthandler",
    "ipykernel.debugger",
    "ipykernel.ipkernel",
    "psutil",
    "sqlite3",
    "tornado.gen",
    "tornado.locks",
    "tornado.platform.asyncio",
    "tornado.queues",
)

LINE_BYTES = 2**16

# Where ipykernel has matplotlib draw, unless MPLBACKEND says otherwise.
INLINE_BACKEND = "module://matplotlib_inline.backend_inline"

# Whose end an ipykernel does not outlive.
PARENT_VARIABLE = "JPY_PARENT_PID"
KERNEL_ID_VARIABLE = "KERNELPROTO_KERNEL_ID"

# What getrusage counts memory in.
UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Serve until the owner is gone; in a forked kernel, be that kernel."""
    del sys.path[0]  # the folder of this file, whose modules have names that others have, too
    owner = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # ipykernel reads it when it is imported
    broken = preload(json.loads(sys.argv[2]))
    kernel = Server(owner).serve(broken)
    if kernel is not None:
        be_kernel(kernel)


def preload(modules: list[str]) -> dict[str, str]:
    """Import everything; return what could not be imported, and why."""
    broken: dict[str, str] = {}
    for name in ["ipykernel.kernelapp", *modules]:
        try:
            importlib.import_module(name)
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
    for name in LATE_IMPORTS:
        with contextlib.suppress(Exception):  # another version of ipykernel needs something else
            importlib.import_module(name)
    return broken


class Server:
    """Forks, signals and reaps.

    Args:
        owner: the socket.
    """

    def __init__(self, owner: socket.socket) -> None:
        self.owner = owner
        self.kernels: set[int] = set()
        self.requests = b""
        self.descriptors: list[int] = []
        self.wake, self.woken = socket.socketpair()
        for end in (self.wake, self.woken):
            end.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.owner, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def serve(self, broken: dict[str, str]) -> dict[str, Any] | None:
        """Serve until the owner is gone; return the request in a forked kernel, None at the end."""
        signal.signal(signal.SIGCHLD, wake_up)
        signal.set_wakeup_fd(self.woken.fileno(), warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # collections in a kernel would touch, and so copy, all that is shared
        self.tell({"ready": True, "broken": broken, "threads": threads_after_fork()})
        while True:
            ready = {key.fileobj for key, _ in self.selector.select()}
            if self.wake in ready:
                with contextlib.suppress(BlockingIOError):
                    self.wake.recv(4096)
                self.reap()
            if self.owner in ready:
                if not self.receive():
                    self.leave()
                    return None
                while b"\n" in self.requests:
                    line, _, self.requests = self.requests.partition(b"\n")
                    kernel = self.answer(json.loads(line))
                    if kernel is not None:
                        return kernel

    def receive(self) -> bool:
        """Take in requests and descriptors; return whether the owner is still there."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.owner, LINE_BYTES, 16)
        except ConnectionError:
            return False
        self.descriptors += descriptors
        self.requests += data
        return bool(data)

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Do what is asked; return the request in a forked kernel."""
        if "signal" in request:
            self.reap()
            if request["pid"] in self.kernels:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(request["pid"], request["signal"])
            return None
        output = self.descriptors.pop(0)
        failures, failure = os.pipe()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(failures)
            os.close(failure)
            os.close(output)
            self.tell(failed(request, error))
            return None
        if pid == 0:
            os.close(failures)
            self.close()
            become_kernel(request, output, failure)
            return request
        os.close(output)
        os.close(failure)
        with open(failures, "rb") as pipe:
            report = pipe.read()
        if report:
            os.waitpid(pid, 0)
            self.tell(json.loads(report))
        else:
            self.kernels.add(pid)
            self.tell({"forked": request["fork"], "pid": pid})
        return None

    def reap(self) -> None:
        """Reap the kernels that have ended, each after the rest of its group was killed."""
        for pid in list(self.kernels):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
                continue
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            self.kernels.discard(pid)
            self.tell(
                {
                    "ended": pid,
                    "returncode": os.waitstatus_to_exitcode(status),
                    "cpu_seconds": usage.ru_utime + usage.ru_stime,
                    "peak_memory": usage.ru_maxrss * UNIT,
                }
            )

    def leave(self) -> None:
        """Kill every kernel: the owner is gone."""
        for pid in self.kernels:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)

    def close(self) -> None:
        """Close all that is the server's, in a forked kernel.

        By its objects, not by its numbers: an object that is not told would later close what has
        the number then.
        """
        for mine in (self.selector, self.owner, self.wake, self.woken):
            mine.close()
        for descriptor in self.descriptors:
            os.close(descriptor)

    def tell(self, message: dict[str, object]) -> None:
        """Tell the owner; one that is gone is noticed in the loop."""
        with contextlib.suppress(OSError):
            self.owner.sendall(json.dumps(message).encode() + b"\n")


def wake_up(signum: int, frame: object) -> None:
    """Do nothing: that the signal was handled writes to the wake-up descriptor."""


def threads_after_fork() -> int:
    """Return how many threads this process has after a fork.

    Numerical libraries end theirs before a fork and start them again when they need them. Whatever
    is still there would be missing in the kernels, perhaps with a lock in its hands.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1  # no way to know


def become_kernel(request: dict[str, Any], output: int, failure: int) -> None:
    """Turn this forked process into what a new one would be; report what fails, and end."""
    try:
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
        os.environ.clear()
        os.environ.update(request["env"])
        if PARENT_VARIABLE in os.environ:
            os.environ[PARENT_VARIABLE] = str(os.getppid())
        name_process(os.environ.get(KERNEL_ID_VARIABLE, ""))
        time.tzset()
        choose_backend()
        if request["cwd"] is not None:
            os.chdir(request["cwd"])
        reseed()
    except BaseException as error:
        os.write(failure, json.dumps(failed(request, error)).encode())
        os._exit(1)
    os.close(failure)  # which the server waits for


def name_process(kernel_id: str) -> None:
    """Let the system tell which kernel this is; its environment and command line are the server's.

    See process_name() in watchdog_process.py.
    """
    with contextlib.suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(f"kernel-{kernel_id[:8]}")


def reseed() -> None:
    """Give this process random numbers of its own; what reads the system's has them anyway."""
    random.seed()
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    uuid: Any = sys.modules.get("uuid")
    if uuid is not None:
        uuid._node = uuid._last_timestamp = None


def choose_backend() -> None:
    """Have matplotlib draw where it would have, had it been loaded by the kernel itself."""
    matplotlib: Any = sys.modules.get("matplotlib")
    if matplotlib is not None:
        matplotlib.rcParams["backend"] = os.environ.get("MPLBACKEND") or INLINE_BACKEND


def be_kernel(request: dict[str, Any]) -> None:
    """Run ipykernel."""
    sys.argv = request["argv"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def failed(request: dict[str, Any], error: BaseException) -> dict[str, object]:
    """Say what has failed."""
    return {
        "failed": request["fork"],
        "errno": getattr(error, "errno", None),
        "reason": getattr(error, "strerror", None) or str(error),
        "file": getattr(error, "filename", None),
    }


if __name__ == "__main__":
    main()
