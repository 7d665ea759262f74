"""The program of a fork server: an interpreter with ipykernel loaded that forks ready kernels.

Run as ``python forkserver.py FD MODULES``. The program imports nothing of kernelproto, because the
kernels inherit all modules of the program. FD is the number of a Unix socket to the owner. Requests
and answers are lines of JSON:

    {"fork": 1, "sandboxed": false}
    with three descriptors: one for the output, one of the owner's working directory, one of a file
    with {"argv": [...], "env": {...}, "cwd": ..., "state": {...}, "sandbox": ...}
        -> {"forked": 1, "pid": 123, "entered": true}; "entered" is false if entering takes long,
           and {"entered": 1} or the failure follows
        -> {"failed": 1, "errno": 2, "reason": "...", "file": ..., "unfit": false}
    {"signal": 15, "pid": 123, "number": 2, "by": 17.5}
        -> {"signalled": 2}
    {"keep": 123}: let the kernel with this process go on after the owner
    {"retire": true}: fork no more, and end when the last kernel has ended
    -> {"ready": true, "broken": {"module": "why"}, "threads": 1}     once, at the start
    -> {"ended": 123, "returncode": 0, "cpu_seconds": ..., "peak_memory": ...}   for each kernel

MODULES is a JSON list of modules to load in addition to ipykernel. ``cwd`` may be relative to the
owner's working directory; ``state`` is described in program_state.py, ``sandbox`` in sandbox.py.
``unfit`` means that a kernel of this server cannot take over the state of the owner, but a kernel
of a new server can. ``by`` is the monotonic time after which the owner has sent the signal.

Theory of operation
-------------------
Only a process with a single thread can be forked safely, so the server is one loop. The loop never
waits for a kernel: a forked process may hang on entering the working directory. The kernels are
children of this process. A kernel that has ended keeps its number until it is reaped. The rest of
the group is killed before, so no signal ever reaches another process with the same number. When the
owner ends, the socket closes; then the server kills all kernels and ends. Kernels that are kept go
on without the server: init becomes their parent and reaps them. The owner has recorded a kernel
before asking the server to keep the kernel, so none is left without a record.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import importlib.util
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

# The modules that ipykernel imports at the start, not on its own import.
LATE_IMPORTS = (
    "IPython.core.completerlib",
    "IPython.core.debugger",
    "IPython.core.logger",
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

# If a forked process takes longer than this to become a kernel, the owner gets an extra message
# about the fork. Most take less time, and a start without that message is shorter.
ENTERING_SECONDS = 0.05

# The descriptors that come with a request for a fork.
DESCRIPTORS = 3

# The unit in which getrusage counts memory.
UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    """Serve until the owner has ended; in a forked process, run the kernel."""
    del sys.path[0]  # this file's folder, with modules that would hide others of the same names
    owner = socket.socket(fileno=int(sys.argv[1]))
    names = "forked_kernel", "ipykernel", "early_exit", "sandbox"
    kernel, program, early_exit, sandbox = map(load, names)
    sandbox.prepare()  # otherwise each sandboxed kernel loads the module
    load("reset_signals").reset_signals()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_open_files()
    os.environ[kernel.PARENT_VARIABLE] = str(os.getpid())  # ipykernel reads this on import
    broken = preload(json.loads(sys.argv[2]))
    with contextlib.suppress(Exception):  # each kernel reports its failures
        program.prepare()
    os.chdir("/")  # the kernels get working directories; the server keeps none of them in use
    loaded = early_exit.survey(), early_exit.users_modules()
    request = Server(owner, kernel, sandbox).serve(broken)
    if request is not None:
        kernel.be_kernel(request, program)
        early_exit.leave(*loaded)


def load(name: str) -> Any:
    """Load a file of this folder, so that a kernel cannot import the file by name."""
    spec = importlib.util.spec_from_file_location(name, f"{os.path.dirname(__file__)}/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def raise_open_files() -> None:
    """Raise the limit of descriptors as far as allowed; each kernel gets the limit of the owner."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS allows fewer than the hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def preload(modules: list[str]) -> dict[str, str]:
    """Import ipykernel and the modules; return those that cannot be imported, with the reason."""
    broken: dict[str, str] = {}
    for name in ["ipykernel.kernelapp", *modules]:
        try:
            importlib.import_module(name)
        except Exception as error:
            broken[name] = f"{type(error).__name__}: {error}"
    for name in LATE_IMPORTS:
        with contextlib.suppress(Exception):  # other versions of ipykernel need other modules
            importlib.import_module(name)
    return broken


class Server:
    """Forks, signals and reaps.

    Args:
        owner: the socket.
        kernel: the module forked_kernel.py.
        sandbox: the module sandbox.py.
    """

    def __init__(self, owner: socket.socket, kernel: Any, sandbox: Any) -> None:
        self.owner = owner
        self.kernel = kernel
        self.sandbox = sandbox
        self.kernels: set[int] = set()
        self.kept: set[int] = set()
        self.statuses: dict[int, int] = {}  # pipes from the processes 1 of sandboxes
        self.entering: dict[int, Any] = {}  # the class is in forked_kernel.py
        self.requests = b""
        # In the order of the requests; None if this process had no descriptors left for them.
        self.descriptors: list[list[int] | None] = []
        self.retired = False
        self.wake, self.woken = socket.socketpair()
        for end in (self.wake, self.woken):
            end.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.owner, selectors.EVENT_READ)
        self.selector.register(self.wake, selectors.EVENT_READ)

    def serve(self, broken: dict[str, str]) -> dict[str, Any] | None:
        """Serve until the owner ends; return the request in a forked process, otherwise None."""
        signal.signal(signal.SIGCHLD, wake_up)
        signal.set_wakeup_fd(self.woken.fileno(), warn_on_full_buffer=False)
        gc.collect()
        gc.freeze()  # otherwise collections in a kernel would copy all shared memory
        threads = threads_after_fork()
        self.tell({"ready": True, "broken": broken, "threads": threads})
        if broken or threads > 1:
            return None
        while not (self.retired and not self.kernels):
            untold = [entering for entering in self.entering.values() if not entering.told]
            timeout = ENTERING_SECONDS if untold else None
            ready = {key.fileobj: key.data for key, _ in self.selector.select(timeout)}
            for entering in filter(None, ready.values()):
                self.look_after(entering)
            for entering in untold:
                if time.monotonic() - entering.forked > ENTERING_SECONDS:
                    self.tell_forked(entering, entered=False)
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
        return None

    def receive(self) -> bool:
        """Read requests and descriptors; return whether the owner is still connected."""
        try:
            data, descriptors, flags, _ = socket.recv_fds(self.owner, LINE_BYTES, DESCRIPTORS)
        except ConnectionError:
            return False
        except OSError:  # for example out of memory: the request stays in the socket
            time.sleep(0.01)
            return True
        if len(descriptors) == DESCRIPTORS:
            self.descriptors.append(descriptors)
        elif descriptors or flags & socket.MSG_CTRUNC:
            close_all(descriptors)
            self.descriptors.append(None)
        self.requests += data
        return bool(data)

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Carry out a request; in a forked process, return the request."""
        if "fork" in request:
            return self.fork(request)
        if "signal" in request:
            self.signal(request)
        elif "keep" in request:
            self.kept.add(request["keep"])
        else:
            self.retired = True
        return None

    def signal(self, request: dict[str, Any]) -> None:
        """Send a signal to the group of a kernel that has not ended."""
        self.reap()
        if request["pid"] in self.kernels and time.monotonic() < request["by"]:
            signal_group(request["pid"], request["signal"])
        self.tell({"signalled": request["number"]})

    def fork(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Fork a kernel; return the request in the forked process."""
        descriptors = self.descriptors.pop(0)
        mine: list[int] = []
        try:
            if descriptors is None:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            mine += descriptors
            if self.retired:
                raise OSError(errno.EPERM, "this fork server has been replaced")
            failures, failure = os.pipe()
            mine += failures, failure
            pid, status = self.sandbox.fork() if request["sandboxed"] else (os.fork(), None)
        except OSError as error:
            close_all(mine)
            self.tell(self.kernel.failed(request, error))
            return None
        if pid == 0:
            os.close(failures)
            self.close()
            request["enter_sandbox"] = partial(self.sandbox.enter, status=status)
            self.kernel.become_kernel(request, *descriptors, failure)
            return request
        close_all([*descriptors, failure])
        self.kernels.add(pid)
        if status is not None:
            self.statuses[pid] = status
        entering = self.entering[pid] = self.kernel.Entering(request["fork"], pid, failures)
        self.selector.register(failures, selectors.EVENT_READ, entering)
        return None

    def look_after(self, entering: Any) -> None:
        """Tell the owner whether a forked process has become a kernel, once that is known."""
        if entering.pid not in self.entering or not entering.is_over():
            return
        del self.entering[entering.pid]
        self.selector.unregister(entering.failures)
        os.close(entering.failures)
        if entering.report:
            self.tell(json.loads(entering.report))
        elif entering.told:
            self.tell({"entered": entering.number})
        else:
            self.tell_forked(entering, entered=True)

    def tell_forked(self, entering: Any, *, entered: bool) -> None:
        """Tell the owner that a process was forked, and whether it has become a kernel."""
        if entering.pid in self.entering or entered:
            entering.told = True
            self.tell({"forked": entering.number, "pid": entering.pid, "entered": entered})

    def reap(self) -> None:
        """Reap the kernels that have ended, each after the kill of the rest of its group.

        There is no query for each kernel: that would take too long if many kernels end together.
        """
        while self.kernels:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if ended is None:
                return
            pid = ended.si_pid
            if pid not in self.kernels:  # started by a module
                os.waitpid(pid, 0)
                continue
            if pid in self.entering:
                self.look_after(self.entering[pid])
            signal_group(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            returncode = os.waitstatus_to_exitcode(status)
            if pid in self.statuses:
                returncode = self.sandbox.reported(self.statuses.pop(pid), returncode)
            self.kernels.discard(pid)
            self.kept.discard(pid)
            self.tell(
                {
                    "ended": pid,
                    "returncode": returncode,
                    "cpu_seconds": usage.ru_utime + usage.ru_stime,
                    "peak_memory": usage.ru_maxrss * UNIT,
                }
            )

    def leave(self) -> None:
        """Kill every kernel, except those to keep, because the owner has ended."""
        for pid in self.kernels - self.kept:
            signal_group(pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the descriptors of the server, in a forked process.

        The objects that own them are closed, because an open object would later close another file
        with the same number.
        """
        for mine in (self.selector, self.owner, self.wake, self.woken):
            mine.close()
        close_all(entering.failures for entering in self.entering.values())
        close_all(self.statuses.values())
        for descriptors in self.descriptors:
            close_all(descriptors or ())

    def tell(self, message: dict[str, object]) -> None:
        """Send a message to the owner; the loop notices if the owner has ended."""
        with contextlib.suppress(OSError):
            self.owner.sendall(json.dumps(message).encode() + b"\n")


def signal_group(pid: int, signum: int) -> None:
    """Send a signal to the group of a child, or to a child that has no group yet."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        try:
            os.killpg(pid, signum)
        except ProcessLookupError:
            os.kill(pid, signum)


def wake_up(signum: int, frame: object) -> None:
    """Do nothing; because of this handler, Python writes to the wake-up descriptor."""


def threads_after_fork() -> int:
    """Return how many threads this process has after a fork.

    Numerical libraries end their threads before a fork and start them again when needed. All other
    threads would be missing in the kernels, and the locks that they hold would stay locked.
    """
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1  # unknown


def close_all(descriptors: Iterable[int]) -> None:
    """Close descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)


if __name__ == "__main__":
    main()
