"""JobProcess: a kernel's process on Windows. Tests cover its logic, but have not run on Windows.

Differences from POSIX:

- A job object holds the processes together, and ends them when the last handle is closed, even by
  the death of this program; so there is no watchdog.
- An event interrupts the kernel, which inherits the handle of the event and finds the number in the
  variable JPY_INTERRUPT_EVENT. JPY_PARENT_PID is a handle too, with which the kernel waits for the
  end of this program.
- anyio cannot wait for the end of a process, so a thread does, and writes to a socket.
- anyio cannot wait for a pipe, so a thread reads each pipe.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from io import FileIO
from typing import Protocol

import anyio

from kernelproto.exceptions import UnsupportedRequest
from kernelproto.launch.output.forward import Forwarder
from kernelproto.launch.process.interface import Exit

_TAIL_BYTES = 64 * 1024
_PARENT = "JPY_PARENT_PID"
_TERMINATED = 1  # the exit status of a process that was ended

# A process that has left the job may go on writing.
_JOIN_SECONDS = 1.0


class Win32(Protocol):
    """The functions of Windows that are needed; handles are numbers."""

    def create_event(self) -> int:
        """Return an event that children inherit."""
        ...

    def set_event(self, event: int) -> None:
        """Set an event, which wakes waiting threads."""
        ...

    def this_process(self) -> int:
        """Return a handle on this process that children inherit."""
        ...

    def create_job(self) -> int:
        """Return a job object, which ends its processes when the last handle is closed."""
        ...

    def put_into_job(self, job: int, process: subprocess.Popen[bytes]) -> None:
        """Make a process part of a job, with all later child processes."""
        ...

    def end_job(self, job: int, status: int) -> None:
        """End every process of a job with an exit status."""
        ...

    def close(self, handle: int) -> None:
        """Close a handle."""
        ...

    def start(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None,
        output: FileIO,
        inherited: Sequence[int],
    ) -> subprocess.Popen[bytes]:
        """Start a process without a console that inherits these handles and no others."""
        ...


class JobProcess:
    """A process with its child processes; attributes and exceptions as ProcessGroup's.

    Args:
        command: the program with arguments.
        env: the whole environment, in which a handle replaces JPY_PARENT_PID.
        cwd: the working directory; None means the caller's.
        output: takes standard output and standard error.
        win32: the functions of the system.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        output: FileIO,
        win32: Win32,
    ) -> None:
        self.exit: Exit | None = None
        self.killed = False
        self._win32 = win32
        self._turn = anyio.Lock()
        with ExitStack() as undo, ExitStack() as once_started:
            self._event = win32.create_event()
            undo.callback(win32.close, self._event)
            handles = {"JPY_INTERRUPT_EVENT": self._event, "IPY_INTERRUPT_EVENT": self._event}
            self._job: int | None = None
            if _PARENT in env:
                self._job = win32.create_job()
                undo.callback(win32.close, self._job)
                handles[_PARENT] = win32.this_process()
                once_started.callback(win32.close, handles[_PARENT])
            variables = {name: str(handle) for name, handle in handles.items()}
            inherited = sorted({*handles.values()})
            self._popen = win32.start(command, {**env, **variables}, cwd, output, inherited)
            self.pid = self._popen.pid
            with ExitStack() as end:
                end.callback(self._popen.wait)
                end.callback(self._popen.kill)
                if self._job is not None:
                    # Child processes from before this line are not in the job; there was no time to
                    # start any.
                    win32.put_into_job(self._job, self._popen)
                self._sign, signaller = socket.socketpair()
                undo.callback(self._sign.close)
                end.callback(signaller.close)
                self._thread = threading.Thread(
                    target=self._watch, args=[signaller], name=f"kernelproto-wait-{self.pid}"
                )
                self._thread.daemon = True
                self._thread.start()
                end.pop_all()
            self._handles = undo.pop_all()

    def poll(self) -> bool:
        if self.exit is None and self._popen.poll() is not None:
            self.exit = Exit(self._popen.returncode, cpu_seconds=0.0, peak_memory=None)
            self._end_job()
        return self.exit is not None

    async def wait(self) -> int | None:
        async with self._turn:
            while not self.poll():
                await anyio.wait_readable(self._sign)
        return None if self.exit is None else self.exit.returncode

    def signal(self, signum: int) -> None:
        """Do the nearest equivalent of a signal.

        Raises:
            UnsupportedRequest: there is none.
        """
        match signum:
            case 0:
                pass
            case signal.SIGINT:
                self.interrupt()
            case signal.SIGTERM | 9:
                self.kill()
            case _:
                raise UnsupportedRequest(f"there is no signal {signum} on Windows")

    def interrupt(self) -> None:
        """Set the interrupt event of the kernel."""
        if not self.poll():
            self._win32.set_event(self._event)

    def terminate(self) -> None:
        """End the group: Windows cannot ask a process without a window to end."""
        self.kill()

    def kill(self) -> None:
        if not self.poll():
            self.killed = True
            self._popen.kill()
            self._end_job()

    def abort(self) -> None:
        """End the group, block until the end, and close(); after a failed launch."""
        self.kill()
        self._popen.wait()
        self.close()

    def close(self) -> None:
        if self.poll():
            self._thread.join()
            self._handles.close()

    def outlive(self) -> None:
        """Do nothing: without a job object, a process goes on after this program."""

    def release(self) -> None:
        self._handles.close()

    def _end_job(self) -> None:
        if self._job is not None:
            self._win32.end_job(self._job, _TERMINATED)

    def _watch(self, signaller: socket.socket) -> None:
        with signaller:
            self._popen.wait()
            with suppress(OSError):  # the process has been released, which closed the other end
                signaller.send(b".")


class ThreadedTail:
    """The last 64 KiB of the output, like OutputTail on POSIX, with a thread for each pipe.

    Args:
        forwarder: gets the whole output.

    Attributes:
        write_end: the end of the pipe for the process; close this end once the process has it.
    """

    def __init__(self, forwarder: Forwarder | None = None) -> None:
        self._kept = bytearray()
        self._forwarder = forwarder
        read_fd, write_fd = os.pipe()
        self._read_end = FileIO(read_fd, "r")
        self.write_end = FileIO(write_fd, "w")
        self._thread = threading.Thread(target=self._read, name="kernelproto-output", daemon=True)
        self._thread.start()

    def text(self) -> str:
        """Return the tail of the output so far; bytes that are not UTF-8 become U+FFFD."""
        return self._kept.decode("utf-8", "replace")

    def close(self) -> None:
        """Read the rest of the output, once all writers have ended."""
        self.write_end.close()
        self._thread.join(_JOIN_SECONDS)

    def _read(self) -> None:
        with self._read_end:
            while chunk := self._read_end.read(_TAIL_BYTES):
                self._kept = (self._kept + chunk)[-_TAIL_BYTES:]
                if self._forwarder is not None:
                    self._forwarder.put(chunk)
        if self._forwarder is not None:
            self._forwarder.end()


if sys.platform == "win32":
    import ctypes
    from ctypes import wintypes

    class _SecurityAttributes(ctypes.Structure):
        _fields_ = [
            ("length", wintypes.DWORD),
            ("descriptor", wintypes.LPVOID),
            ("inherit_handle", wintypes.BOOL),
        ]

    class _BasicLimits(ctypes.Structure):
        _fields_ = [
            ("process_time", ctypes.c_int64),
            ("job_time", ctypes.c_int64),
            ("flags", wintypes.DWORD),
            ("minimum_working_set", ctypes.c_size_t),
            ("maximum_working_set", ctypes.c_size_t),
            ("active_processes", wintypes.DWORD),
            ("affinity", ctypes.c_size_t),
            ("priority_class", wintypes.DWORD),
            ("scheduling_class", wintypes.DWORD),
        ]

    class _ExtendedLimits(ctypes.Structure):
        _fields_ = [
            ("basic", _BasicLimits),
            ("io_counters", ctypes.c_uint64 * 6),
            ("process_memory", ctypes.c_size_t),
            ("job_memory", ctypes.c_size_t),
            ("peak_process_memory", ctypes.c_size_t),
            ("peak_job_memory", ctypes.c_size_t),
        ]

    _EXTENDED_LIMITS = 9  # JobObjectExtendedLimitInformation
    _KILL_ON_JOB_CLOSE = 0x2000
    _SAME_ACCESS = 2

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    for _name in ("CreateEventW", "CreateJobObjectW", "GetCurrentProcess"):
        getattr(_kernel32, _name).restype = wintypes.HANDLE

    def _checked(result: int | None) -> int:
        if not result:
            raise ctypes.WinError(ctypes.get_last_error())
        return result

    class SystemWin32:
        """The functions themselves."""

        def create_event(self) -> int:
            attributes = _SecurityAttributes(ctypes.sizeof(_SecurityAttributes), None, True)
            return _checked(_kernel32.CreateEventW(ctypes.byref(attributes), False, False, None))

        def set_event(self, event: int) -> None:
            _checked(_kernel32.SetEvent(wintypes.HANDLE(event)))

        def this_process(self) -> int:
            this = wintypes.HANDLE(_kernel32.GetCurrentProcess())
            copy = wintypes.HANDLE()
            _checked(
                _kernel32.DuplicateHandle(
                    this, this, this, ctypes.byref(copy), 0, True, _SAME_ACCESS
                )
            )
            return _checked(copy.value)

        def create_job(self) -> int:
            job = _checked(_kernel32.CreateJobObjectW(None, None))
            limits = _ExtendedLimits()
            limits.basic.flags = _KILL_ON_JOB_CLOSE
            _checked(
                _kernel32.SetInformationJobObject(
                    wintypes.HANDLE(job),
                    _EXTENDED_LIMITS,
                    ctypes.byref(limits),
                    ctypes.sizeof(limits),
                )
            )
            return job

        def put_into_job(self, job: int, process: subprocess.Popen[bytes]) -> None:
            handle = int(vars(process)["_handle"])
            _checked(
                _kernel32.AssignProcessToJobObject(wintypes.HANDLE(job), wintypes.HANDLE(handle))
            )

        def end_job(self, job: int, status: int) -> None:
            _checked(_kernel32.TerminateJobObject(wintypes.HANDLE(job), status))

        def close(self, handle: int) -> None:
            _checked(_kernel32.CloseHandle(wintypes.HANDLE(handle)))

        def start(
            self,
            command: Sequence[str],
            env: Mapping[str, str],
            cwd: str | None,
            output: FileIO,
            inherited: Sequence[int],
        ) -> subprocess.Popen[bytes]:
            flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
            return subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                startupinfo=subprocess.STARTUPINFO(
                    lpAttributeList={"handle_list": list(inherited)}
                ),
                creationflags=flags,
            )
