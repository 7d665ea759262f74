"""Connection: one connection to a host by OpenSSH's own programs, shared by all kernels there.

Theory of operation
-------------------
A master, ``ssh -M``, authenticates once. All else goes through the socket on which the master
listens: the programs that run on the host, and the forwarding of a unix socket to that of the host.
The folder of these sockets belongs to this user alone.

The master goes into the background after the authentication, and ends a minute after the last use,
so that a program that was killed leaves no master. A master that was killed leaves its sockets, and
the next master would not listen there; so they are removed first. A master that does not answer is
killed.

The user's configuration applies: agent, jump hosts, host keys. Nothing is asked on the terminal.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

import anyio
import msgspec
from anyio.abc import ByteStream
from anyio.lowlevel import RunVar

from kernelproto.concurrency.shield import to_the_end
from kernelproto.host.local_stream import connect_local
from kernelproto.launch.command import Completed, run_command
from kernelproto.launch.process.process_id import ProcessId
from kernelproto.launch.programs import far_side
from kernelproto.ssh.failures import RemoteHostError, host_error, program_error, ssh_error
from kernelproto.ssh.names import safe_python

logger = logging.getLogger(__name__)

# How long the parts of a connection may take.
_CONNECT_SECONDS = 30.0
_CONTROL_SECONDS = 5.0
_PROGRAM_SECONDS = 60.0

# The exit status for errors of ssh.
_SSH_FAILED = 255

# The time from the last use of a master to its end.
_IDLE_SECONDS = 60

# A connection counts as lost after three of these without an answer.
_ALIVE_SECONDS = 5

_FOLDER = "kernelproto-ssh-"
_MOST_FOLDERS = 100

# Each of these would do more than to authenticate, or would ask on the terminal.
_OPTIONS = {
    "BatchMode": "yes",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "LogLevel": "ERROR",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
}
_MASTER_OPTIONS = {
    "ControlMaster": "yes",
    "ControlPersist": str(_IDLE_SECONDS),
    "ServerAliveInterval": str(_ALIVE_SECONDS),
    "ServerAliveCountMax": "3",
    "StreamLocalBindUnlink": "yes",
}


class HostOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a host is reached.

    Args:
        target: the destination for ssh, such as ``ada@node7.example.org``; None means the name of
            the host, which ~/.ssh/config may describe.
        python: the Python that runs kernelproto's part there, 3.9 or newer.
        ssh: the program ssh, with first arguments.
    """

    target: str | None = None
    python: str = "python3"
    ssh: tuple[str, ...] = ("ssh",)

    def __post_init__(self) -> None:
        """Refuse values that ssh or a shell would take for something else."""
        if self.target is not None and (not self.target or self.target.startswith("-")):
            raise ValueError("the target of a host is a destination for ssh, not an option")
        if not safe_python(self.python):
            raise ValueError(
                "the python of a host is a path with letters, digits, spaces and ./_+@:- alone"
            )
        if not self.ssh:
            raise ValueError("the ssh of a host is a command, such as ['ssh']")


class Connection:
    """The connection to one host, opened at the first use.

    Args:
        host: the name of the host.
        options: how the host is reached.

    Attributes:
        host: the same.
        unended: the claims of kernels that may run there although their launches have failed, by
            the ids of the kernels.
    """

    def __init__(self, host: str, options: HostOptions) -> None:
        self.host = host
        self.unended: dict[str, str] = {}
        self._options = options
        self._folder: str | None = None
        self._master: ProcessId | None = None
        self._forwarded: dict[str, str] = {}
        self._sockets = itertools.count(1)
        self._users = 0
        self._lock = anyio.Lock()

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[Connection]:
        """Keep the connection open for the block; the last block closes it."""
        self.hold()
        try:
            yield self
        finally:
            await self.release()

    def hold(self) -> None:
        """Keep the connection open until ``release``."""
        self._users += 1

    async def release(self) -> None:
        """Release the connection; the last user closes the connection, even when cancelled."""
        self._users -= 1
        if not self._users:
            await to_the_end(self._close, seconds=4 * _CONTROL_SECONDS)

    async def ask(self, op: str, **request: Any) -> Mapping[str, Any]:
        """Run ``far_side.py`` on the host; return the answer.

        No part of the request goes through a shell.

        Raises:
            RemoteHostError: the host cannot be reached, or the program has failed there.
        """
        word = secrets.token_hex(16)
        program = _program()
        loader = (
            'import sys;sys.exit("kernelproto needs Python 3.9 or newer, not %d.%d"'
            "%sys.version_info[:2])if sys.version_info<(3,9)else "
            f"exec(sys.stdin.buffer.read({len(program)}))"
        )
        command = f"exec {shlex.quote(self._options.python)} -I -c {shlex.quote(loader)}"
        data = program + msgspec.json.encode({"op": op, "word": word, **request}).decode()
        await self.open()
        arguments = ["-o", "ControlMaster=no", "-S", self._path("m"), self._target, command]
        done = await self._ssh(arguments, data, seconds=_PROGRAM_SECONDS)
        for line in done.stdout.splitlines():
            if line.startswith(word):
                return self._answer(line[len(word) :])
        if done.returncode == _SSH_FAILED:
            raise ssh_error(self.host, done.stderr)
        raise program_error(self.host, done.returncode, done.stderr)

    async def connect(self, path: str) -> ByteStream:
        """Connect to a unix socket of the host.

        Raises:
            RemoteHostError: the host cannot be reached, or does not let sockets be forwarded.
        """
        for is_last in (False, True):
            await self.open()
            local = self._forwarded.get(path) or await self._forward(path)
            try:
                with anyio.fail_after(_CONTROL_SECONDS):
                    return await connect_local(local)
            except (OSError, TimeoutError) as error:  # the master has just ended
                self._forwarded.pop(path, None)
                if is_last:
                    raise host_error(self.host, "unreachable", str(error)) from error
        raise AssertionError

    async def open(self) -> None:
        """Connect to the host, unless the connection is open.

        Raises:
            RemoteHostError: the host cannot be reached.
        """
        async with self._lock:
            if self._folder is None:
                _remove_leftovers()
                self._folder = tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-")
            if self._master is None or not await self._answers():
                await self._start_master()

    async def _start_master(self) -> None:
        self._end_master()
        log = self._path("log")
        with suppress(FileNotFoundError):
            os.unlink(log)
        master = ["-M", "-S", self._path("m"), "-N", "-f", *_flags(_MASTER_OPTIONS)]
        arguments = ["-E", log, *master, self._target]
        done = await self._ssh(arguments, seconds=_CONNECT_SECONDS)
        if done.returncode or not await self._answers():
            raise ssh_error(self.host, _read(log))

    async def _answers(self) -> bool:
        """Return whether the master answers, and note the master's process."""
        try:
            done = await self._control("check")
        except RemoteHostError:
            return False
        running = re.search(r"pid=(\d+)", done.stderr)
        if done.returncode or running is None:
            return False
        if self._master is None:
            self._master = ProcessId.of(int(running[1]))
        return True

    async def _forward(self, path: str) -> str:
        """Forward a unix socket to one of the host; return the path of the socket here."""
        async with self._lock:
            local = self._path(f"s{next(self._sockets)}")
            done = await self._control("forward", "-L", f"{local}:{path}")
            if done.returncode:
                raise ssh_error(self.host, done.stderr)
            self._forwarded[path] = local
            return local

    async def _close(self) -> None:
        async with self._lock:
            if self._users or self._folder is None:
                return
            if "m" in os.listdir(self._folder):
                with suppress(RemoteHostError):
                    await self._control("exit")
            self._end_master()
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _end_master(self) -> None:
        """Kill a master that does not end on request, and remove the sockets."""
        if self._master is not None and not self._master.is_gone:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self._master.pid, signal.SIGKILL)
        self._master = None
        for path in (*self._forwarded.values(), self._path("m")):
            with suppress(FileNotFoundError):
                os.unlink(path)
        self._forwarded.clear()

    async def _control(self, what: str, *arguments: str) -> Completed:
        """Ask the master to do something.

        The user's configuration is left out, because ssh would request the forwardings in it as
        well.
        """
        options = ["-F", os.devnull, "-S", self._path("m"), "-O", what, *arguments]
        command = [*self._options.ssh, *options, self._target]
        return await self._run(command, seconds=_CONTROL_SECONDS)

    async def _ssh(self, arguments: Sequence[str], data: str = "", *, seconds: float) -> Completed:
        command = [*self._options.ssh, *_flags(_OPTIONS), *arguments]
        return await self._run(command, data, seconds=seconds)

    async def _run(self, command: Sequence[str], data: str = "", *, seconds: float) -> Completed:
        try:
            return await run_command(command, input=data, seconds=seconds)
        except TimeoutError:
            words = f"no answer for {seconds:g} s"
            raise host_error(self.host, "unreachable", words) from None
        except OSError as error:
            words = f"{command[0]!r} cannot be run: {error.strerror}; install OpenSSH's client"
            raise host_error(self.host, "other", words) from error

    def _answer(self, line: str) -> Mapping[str, Any]:
        try:
            answer = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise host_error(self.host, "other", f"its answer is not valid: {error}") from None
        if "error" in answer:
            is_full = answer.get("fault") == "no_space"
            raise host_error(self.host, "no_space" if is_full else "other", str(answer["error"]))
        return answer

    @property
    def _target(self) -> str:
        return self._options.target or self.host

    def _path(self, name: str) -> str:
        assert self._folder is not None
        return os.path.join(self._folder, name)


_connections: RunVar[dict[tuple[str, HostOptions], Connection]] = RunVar("kernelproto_ssh")


def connection_to(host: str, options: HostOptions) -> Connection:
    """Return the connection of this event loop to a host; all kernels there share it."""
    connections: dict[tuple[str, HostOptions], Connection] | None = _connections.get(None)
    if connections is None:
        connections = {}
        _connections.set(connections)
    return connections.setdefault((host, options), Connection(host, options))


def _flags(options: Mapping[str, str]) -> list[str]:
    return [flag for name, value in options.items() for flag in ("-o", f"{name}={value}")]


@cache
def _program() -> str:
    """Return the program for the far side, which is ASCII."""
    with open(far_side.__file__, encoding="ascii") as file:
        return file.read() + "\nmain()\n"


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(64 * 1024).decode(errors="replace")
    except OSError:
        return ""


def _remove_leftovers() -> None:
    """Remove the folders of programs of this user that were killed; their masters end alone."""
    folder = tempfile.gettempdir()
    try:
        entries = [entry for entry in os.listdir(folder) if entry.startswith(_FOLDER)]
    except OSError:
        return
    for entry in entries[:_MOST_FOLDERS]:
        found = re.fullmatch(rf"{_FOLDER}(\d{{1,9}})-\w+", entry)
        path = os.path.join(folder, entry)
        with suppress(OSError):
            about = os.lstat(path)
            if found is None or about.st_uid != os.geteuid() or _is_running(int(found[1])):
                continue
            if not _listens(os.path.join(path, "m")):  # perhaps of another container
                shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(1)
        try:
            end.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except OSError:
            return True
    return True
