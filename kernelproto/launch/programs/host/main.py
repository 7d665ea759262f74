"""The start of the host: leaves the starter's session, locks the folder and listens."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import sys
import traceback
from contextlib import suppress

from ..reset_signals import reset_signals
from ..watchdog import kill_members, remove_files
from .server import Server, listen

# How the process that was started learns that a host listens.
_READY = b"ready"

# A host in a pod waits so long for the program that has made the pod.
_POD_PATIENCE_SECONDS = 60.0

_LOCK = "lock"
_ERROR = "error"


def main(arguments: list[str]) -> None:
    """Start a host in the background, unless one runs; exit when the host listens.

    Args:
        arguments: the folder of the host. The parent folder must exist. If a port and the folder of
            a certificate follow, this process is the host itself, see serve_pod().
    """
    folder, *rest = arguments
    folder = os.path.abspath(folder)
    if rest:
        port, certificate = rest
        serve_pod(folder, int(port), certificate)
        return
    fault = _prepare_folder(folder)
    if fault is not None:
        sys.exit(fault)
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.close(read_end)
        os.setsid()
        if os.fork() == 0:
            _run(folder, write_end)
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        report = pipe.read()
    os.wait()
    if report != _READY:
        sys.exit(report.decode("utf-8", "replace") or "the host ended before it listened")


def serve_pod(folder: str, port: int, certificate: str) -> None:
    """Be the host of a pod: listen on its address with TLS, until the last kernel has ended.

    SIGTERM, with which Kubernetes ends a pod, ends the host with its kernels.

    Args:
        folder: the folder of the host, whose parent must exist.
        port: the port, at the address in the environment variable POD_IP.
        certificate: the folder of the certificate, see tls.py.
    """
    address = os.environ["POD_IP"]
    fault = _prepare_folder(folder)
    if fault is not None:
        sys.exit(fault)
    from .tls import server_context  # ssl takes 10 ms

    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family, backlog=128)
    tls = server_context(certificate)
    server = Server(listener, folder, tls=tls, patience=_POD_PATIENCE_SECONDS)
    signal.signal(signal.SIGTERM, lambda signum, frame: server.stop())
    try:
        server.run()
    finally:
        server.close()


def _prepare_folder(folder: str) -> str | None:
    """Make the folder; return why the folder cannot be used, or None."""
    try:
        with suppress(FileExistsError):
            os.mkdir(folder, mode=0o700)
        about = os.lstat(folder)
    except OSError as error:
        return f"the folder {folder} cannot be made: {error.strerror}"
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        return f"{folder} is not a folder of this user"
    if about.st_mode & 0o077:
        return f"other users may enter {folder}: chmod 700 {folder}"
    return None


def _run(folder: str, report: int) -> None:
    """Be the host; never returns."""
    try:
        lock = _lock(folder)
        if lock is None:
            os.write(report, _READY)  # another host listens, or is about to
            os._exit(0)
        _leave_starter()
        _clear_up(folder)
        listener = listen(folder)
        os.write(report, _READY)
        os.close(report)
    except BaseException as error:
        os.write(report, f"the host cannot start in {folder}: {error}".encode())
        os._exit(1)
    server = Server(listener, folder)
    try:
        server.run()
    except BaseException:
        with suppress(OSError), open(os.path.join(folder, _ERROR), "w", encoding="utf-8") as file:
            traceback.print_exc(file=file)
    finally:
        with suppress(OSError):
            os.unlink(os.path.join(folder, "socket"))
        server.close()
        with suppress(OSError):
            os.unlink(os.path.join(folder, _LOCK))
        with suppress(OSError):  # there is an error to read
            os.rmdir(folder)
        os._exit(0)


def _lock(folder: str) -> int | None:
    """Lock the folder until the end of this process; return None if another host has the lock."""
    path = os.path.join(folder, _LOCK)
    while True:
        with suppress(FileExistsError):  # a host that has ended just now has removed the folder
            os.mkdir(folder, mode=0o700)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        with suppress(FileNotFoundError):
            # Otherwise another host has removed the file meanwhile.
            if os.path.samestat(os.fstat(lock), os.stat(path)):
                return lock
        os.close(lock)


def _leave_starter() -> None:
    """Release everything inherited from the program that has started the host."""
    reset_signals()
    for signum in (signal.SIGHUP, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    os.chdir("/")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _clear_up(folder: str) -> None:
    """Remove the leftovers of a host that was killed together with its watchdog."""
    names = os.listdir(folder)
    left = [name for name in names if os.path.isdir(os.path.join(folder, name))]
    kill_members({name.encode() for name in left})
    remove_files(os.path.join(os.fsencode(folder), os.fsencode(name)) for name in left)
    remove_files([os.path.join(os.fsencode(folder), _ERROR.encode())])
