"""The first process of a batch job: runs a kernel, and ends a kernel without an owner.

The file is copied to the folder of the kernel and run by path on a node, and so uses the standard
library only, of Python 3.8 or newer. ``job.json`` in the folder has the command.

The batch system sends signals to this process, which passes them on to its process group: to the
kernel and the kernel's child processes. If this process is killed, Linux kills the kernel.

The owner of the kernel changes the time of the file ``lease`` now and then. If the time stays the
same for the seconds in ``linger``, the owner has ended, and so does the kernel. Only differences
are compared, because the clocks of the machines may differ. If the file is missing for a minute,
the owner has given up the kernel, for example because the node did not answer, and the kernel ends
as well, even without ``linger``.

The output of the kernel goes to the file ``output``. If that is too long, the first part is lost.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from typing import Any

LEASE = "lease"
OUTPUT = "output"
END = "end.json"
PLAN = "job.json"

_PASSED_ON = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGCONT")

_CHECK_SECONDS = 1.0
_MISSING_SECONDS = 60.0
_TERMINATE_SECONDS = 5.0

_MOST_OUTPUT = 1024 * 1024
_KEPT_OUTPUT = 128 * 1024
_READ = 65536

_PR_SET_PDEATHSIG = 1


def main(folder: str) -> int:
    """Run the kernel of a folder; return the exit status of this process."""
    with open(os.path.join(folder, PLAN), encoding="utf-8") as file:
        plan: dict[str, Any] = json.load(file)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for name in (*_PASSED_ON, "SIGCHLD"):
        signal.signal(getattr(signal, name), _ignore)
    try:
        kernel = subprocess.Popen(
            plan["argv"],
            env={**os.environ, **plan["env"]},
            cwd=plan["cwd"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        print(f"cannot run {plan['argv'][0]!r}: {error}", flush=True)
        _write_end(folder, None, str(error))
        return 127
    lease = Lease(os.path.join(folder, LEASE), plan["linger"])
    output = Output(os.path.join(folder, OUTPUT))
    try:
        cause = _serve(kernel, wake, lease, output)
    finally:
        if kernel.poll() is None:
            kernel.kill()
            kernel.wait()
    _write_end(folder, kernel.returncode, cause)
    return kernel.returncode if kernel.returncode >= 0 else 128 - kernel.returncode


class Lease:
    """The file with a time that the owner of the kernel changes.

    Args:
        path: the path of the file.
        seconds: the time without a change after which the lease is over; None means no limit.
        missing: the time without the file after which the lease is over.
    """

    def __init__(self, path: str, seconds: float | None, missing: float = _MISSING_SECONDS) -> None:
        self._path = path
        self._seconds = seconds
        self._missing = missing
        self._seen: int | None = None
        self._since = time.monotonic()
        self._missing_since: float | None = None

    def is_over(self) -> bool:
        """Return whether the file has stayed the same, or has been missing, for too long."""
        now = time.monotonic()
        try:
            # Opening the file makes NFS ask the server for the time.
            with open(self._path, "rb") as file:
                seen: int | None = os.fstat(file.fileno()).st_mtime_ns
            self._missing_since = None
        except FileNotFoundError:
            seen = self._seen
            if self._missing_since is None:
                self._missing_since = now
            elif now - self._missing_since > self._missing:
                return True
        except OSError:
            seen = self._seen  # the server may be away: the file counts as unchanged
        if seen != self._seen:
            self._seen = seen
            self._since = now
        return self._seconds is not None and now - self._since > self._seconds


class Output:
    """The file with the last part of the kernel's output."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._kept = bytearray()
        self._length = 0

    def write(self, data: bytes) -> None:
        """Append to the file; rewrite a file that is too long. Errors are ignored."""
        self._kept += data
        del self._kept[:-_KEPT_OUTPUT]
        try:
            if self._length > _MOST_OUTPUT:
                with open(self._path, "wb") as file:
                    file.write(self._kept)
                self._length = len(self._kept)
            else:
                with open(self._path, "ab") as file:
                    file.write(data)
                self._length += len(data)
        except OSError:
            pass  # the disk is full, or the folder is gone


def _serve(kernel: subprocess.Popen[bytes], wake: int, lease: Lease, output: Output) -> str:
    """Serve the kernel until its end; return why this process has ended the kernel, or ""."""
    cause = ""
    deadline: float | None = None
    assert kernel.stdout is not None
    source = kernel.stdout.fileno()
    sources = [wake, source]
    while True:
        ready, _, _ = select.select(sources, [], [], _CHECK_SECONDS)
        if source in ready:
            data = os.read(source, _READ)
            if data:
                output.write(data)
            else:
                sources.remove(source)
        if wake in ready:
            for number in os.read(wake, _READ):
                if number != signal.SIGCHLD:
                    _pass_on(kernel, number)
        if kernel.poll() is not None:
            while source in sources and select.select([source], [], [], 0)[0]:
                data = os.read(source, _READ)
                if not data:
                    break
                output.write(data)
            return cause
        if not cause and lease.is_over():
            cause = "unclaimed"
            deadline = time.monotonic() + _TERMINATE_SECONDS
            _pass_on(kernel, signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            kernel.kill()


def _pass_on(kernel: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to the process group, without this process."""
    if os.getpgrp() != os.getpid():
        kernel.send_signal(number)  # the group has other processes
        return
    handler = signal.signal(number, signal.SIG_IGN)
    os.killpg(0, number)
    signal.signal(number, handler)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _ignore(number: int, frame: object) -> None:
    """Do nothing: the number arrives at the pipe."""


def _write_end(folder: str, returncode: int | None, cause: str) -> None:
    path = os.path.join(folder, END)
    try:
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump({"returncode": returncode, "cause": cause}, file)
        os.replace(path + ".new", path)
    except OSError:
        pass  # the folder is gone, so no program reads the file


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
