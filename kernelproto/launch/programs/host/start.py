"""Starts: how the host starts a kernel, as a child or by a fork server."""

from __future__ import annotations

import json
import math
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from ..watchdog import KERNEL_ID_VARIABLE, remove_files, remove_record, start_time
from .connection import Connection
from .forks import ForkServer
from .frames import MESSAGE_BYTES
from .kernel import Kernel, Place, write_file
from .message_log import Limits
from .process import Child, Output, Process

if TYPE_CHECKING:
    from .server import Server

_KERNEL_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_CONNECTION_FILE = "{connection_file}"
_PARENT_VARIABLE = "JPY_PARENT_PID"

_MOST_KERNELS = 1000
LONGEST_TOKEN = 200

# sockaddr_un.sun_path without the terminating zero.
_LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107


class Refused(Exception):
    """A request that is not carried out.

    Args:
        kind: the kind of the reason, a word for programs.
        reason: the reason in words.
        facts: further fields of the answer.
    """

    def __init__(self, kind: str, reason: str, **facts: object) -> None:
        super().__init__(reason)
        self.error = {"kind": kind, "reason": reason, **facts}


class _Pending:
    """A kernel with a requested fork.

    Attributes:
        abandoned: whether the kernel has to be ended at once.
    """

    def __init__(
        self,
        kernel: Kernel,
        connection: Connection,
        number: int,
        undo: ExitStack,
        request: Mapping[str, Any],
    ) -> None:
        self.kernel = kernel
        self.connection = connection
        self.number = number
        self.undo = undo
        self.request = request
        self.abandoned = False


class Starts:
    """Starts kernels.

    Args:
        server: the loop, with all kernels.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._servers: dict[str, ForkServer] = {}
        self._pending: dict[int, tuple[ForkServer, _Pending]] = {}
        self._forks = 0

    def start(
        self,
        connection: Connection,
        number: int,
        *,
        kernel: str,
        claim: str,
        attachment: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        connection_info: Mapping[str, Any],
        cwd: str | None = None,
        inherits: bool = False,
        linger: float | None = None,
        output: str | None = None,
        limits: Sequence[Sequence[int]] = (),
        state: dict[str, Any] | None = None,
        parent_variable: bool = True,
        fork: Mapping[str, Any] | None = None,
        paths: Mapping[str, str] | None = None,
        record: Mapping[str, Any] | None = None,
        machine: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        log: Mapping[str, int] | None = None,
    ) -> dict[str, Any] | None:
        """Start a kernel, and attach the connection as its owner.

        Args:
            connection: the connection.
            number: the number of the request.
            kernel: the id of the kernel, a UUID.
            claim: the secret of the owner.
            attachment: the id in which the owner numbers messages.
            argv: the command line; the host fills in ``{connection_file}``.
            env: the whole environment, to which the host adds the id of the kernel.
            connection_info: the key and other fields of the connection file; the host adds the
                addresses.
            cwd: the working directory; None means the home folder, or with *inherits* that of the
                host.
            inherits: whether the kernel has the variables of the host as well.
            linger: the seconds without an owner after which the kernel is ended; None means never.
            output: the path of a file for the output; None keeps the last 64 KiB.
            limits: the number, the soft and the hard value of the limits of the kernel's processes.
            state: the state of the program, see program_state.py.
            parent_variable: whether JPY_PARENT_PID is set, with which some kernels end.
            fork: None starts a program. Otherwise "command" runs forkserver.py, "modules" are those
                to preload, "key" is the same for kernels that one fork server can fork, and
                "sandbox" is a plan of a sandbox or None; *argv* are the arguments of ipykernel.py.
            paths: see Place.
            record: the record of the kernel, to which the host adds the host and the process.
            machine: the machine, for the record; see process_id.py.
            facts: any JSON, for every later owner.
            log: fields of Limits.

        Returns:
            The answer; None for a later answer.
        """
        if not _KERNEL_ID.fullmatch(kernel) or not 0 < len(claim) <= LONGEST_TOKEN:
            raise Refused("bad_request", "start: the id of the kernel or the claim is not valid")
        if connection.kernel is not None:
            raise Refused("bad_request", "start: this connection has a kernel already")
        pending = self._find(kernel)
        if pending is not None and pending.request["claim"] == claim:  # the connection was lost
            pending.connection, pending.number, pending.abandoned = connection, number, False
            return None
        if kernel in self._server.kernels or pending is not None:
            raise Refused("in_use", "this host has a kernel with this id")
        if len(self._server.kernels) + len(self._pending) >= _MOST_KERNELS:
            raise Refused("full", f"this host has {_MOST_KERNELS} kernels")
        folder = os.path.join(self._server.folder, kernel)
        place = Place(folder, paths or {})
        if place.longest_socket_path > _LONGEST_SOCKET_PATH:
            raise Refused("unfit", f"the path {place.sockets} is too long for sockets")
        started = Kernel(kernel, place, _limits(log), check_seconds(linger), time.monotonic())
        started.facts = dict(facts or {})
        started.info = {**connection_info, **started.connection}
        request = {"claim": claim, "attachment": attachment, "machine": machine}
        env = {**(os.environ if inherits else {}), **env, KERNEL_ID_VARIABLE: kernel}
        if parent_variable:
            env[_PARENT_VARIABLE] = str(os.getpid())
        command = [word.replace(_CONNECTION_FILE, place.connection_file) for word in argv]
        with ExitStack() as undo:
            try:
                self._make_files(started, {**(record or {}), "owner": _this(machine)}, undo)
                started.output = Output(output)
                undo.callback(started.output.close)
                where = cwd or (os.getcwd() if inherits else os.path.expanduser("~"))
                if fork is None:
                    started.process = Child(
                        command,
                        env=env,
                        cwd=where,
                        output=started.output.target,
                        limits=limits,
                        state=state,
                    )
                    started.output.close_target()
                else:
                    details = {
                        "argv": command,
                        "env": env,
                        "state": {**(state or {}), "limits": _changed(state, limits)},
                        "sandbox": fork.get("sandbox"),
                    }
                    forks = self._fork_server(fork, env)
                    self._forks += 1
                    forks.fork(self._forks, details, where, started.output.target, folder)
                    started.output.close_target()
                    pending = _Pending(started, connection, number, undo.pop_all(), request)
                    self._pending[self._forks] = forks, pending
                    return None
            except OSError as error:
                raise Refused(
                    "launch",
                    error.strerror or str(error),
                    errno=error.errno,
                    file=None if error.filename is None else os.fsdecode(error.filename),
                ) from None
            except (ValueError, subprocess.SubprocessError) as error:
                # The second: the process cannot have the state or the limits.
                kind = "launch" if isinstance(error, ValueError) else "unfit"
                raise Refused(kind, str(error), errno=None, file=None) from None
            undo.pop_all()
        return {"ok": self._finish(started, connection, request)}

    def abandon(self, kernel_id: str) -> bool:
        """End a kernel as soon as it is forked; return whether a fork was pending."""
        pending = self._find(kernel_id)
        if pending is not None:
            pending.abandoned = True
        return pending is not None

    @property
    def is_idle(self) -> bool:
        """Whether no kernel is about to be forked."""
        return not self._pending

    def close(self) -> None:
        """End the fork servers."""
        for server in self._servers.values():
            server.close()

    def _find(self, kernel_id: str) -> _Pending | None:
        found = [each for _, each in self._pending.values() if each.kernel.kernel_id == kernel_id]
        return found[0] if found else None

    def _make_files(self, kernel: Kernel, record: Mapping[str, Any], undo: ExitStack) -> None:
        place = kernel.place
        self._server.watch(kernel)
        undo.callback(self._server.forget, kernel)
        for path in dict.fromkeys((place.folder, place.sockets)):
            os.mkdir(path, mode=0o700)
            undo.callback(remove_files, [os.fsencode(path)])
        undo.callback(remove_files, [os.fsencode(place.connection_file)])
        write_file(place.connection_file, json.dumps(kernel.info, indent=2).encode())
        if place.record is not None:
            undo.callback(remove_record, os.fsencode(place.record))
        kernel.write_record(record)

    def _finish(
        self, kernel: Kernel, connection: Connection | None, request: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Serve a kernel with a running process; return the answer for the owner."""
        machine = request["machine"]
        with suppress(OSError):  # then the kernel is listed without a process
            kernel.write_record({"process": _identity(kernel.process, machine)})
        self._server.add(kernel)
        if connection is not None:
            kernel.attach(connection, request["claim"], request["attachment"])
            connection.attach(kernel, 0)
        return attached(kernel)

    def _fork_server(self, fork: Mapping[str, Any], env: Mapping[str, str]) -> ForkServer:
        key = str(fork["key"])
        server = self._servers.get(key)
        if server is None or not server.alive:
            outside = {name: value for name, value in env.items() if name != KERNEL_ID_VARIABLE}
            server = self._servers[key] = ForkServer(fork["command"], fork["modules"], outside)
            self._server.register(
                server.socket, selectors.EVENT_READ, partial(self._receive, key, server)
            )
        return server

    def _receive(self, key: str, server: ForkServer, events: int) -> None:
        for answer in server.receive():
            if "forked" in answer:
                _, pending = self._pending.pop(answer["forked"])
                self._note_forked(pending, answer["kernel"])
            elif "failed" in answer:
                _, pending = self._pending.pop(answer["failed"])
                kind = "unfit" if answer["unfit"] else "launch"
                error = {
                    "kind": kind,
                    **{name: answer[name] for name in ("reason", "errno", "file")},
                }
                self._note_failed(pending, error)
            elif "broken" in answer:
                modules = ", ".join(f"{name} ({why})" for name, why in answer["broken"].items())
                self._fail_all(server, f"the fork server cannot import {modules}", "launch")
            else:
                self._fail_all(server, "the fork server has ended")
                self._server.unregister(server.socket)
                server.socket.close()
                if self._servers.get(key) is server:
                    del self._servers[key]
        self._server.reap()

    def _fail_all(self, server: ForkServer, reason: str, kind: str = "unfit") -> None:
        server.alive = False
        for number, (by, pending) in list(self._pending.items()):
            if by is server:
                del self._pending[number]
                self._note_failed(pending, {"kind": kind, "reason": reason})

    def _note_forked(self, pending: _Pending, process: Process) -> None:
        kernel = pending.kernel
        kernel.process = process
        pending.undo.pop_all()
        connected = not pending.connection.is_over and pending.connection.kernel is None
        answer = self._finish(kernel, pending.connection if connected else None, pending.request)
        if pending.abandoned or not connected:
            self._server.end(kernel)
        if connected:
            self._server.answer(pending.connection, pending.number, {"ok": answer})

    def _note_failed(self, pending: _Pending, error: Mapping[str, Any]) -> None:
        pending.undo.close()
        self._server.answer(pending.connection, pending.number, {"error": dict(error)})


def attached(kernel: Kernel) -> dict[str, Any]:
    """Return the answer to a request that has attached a connection to a kernel."""
    return {
        "pid": kernel.process.pid,
        "started": kernel.process.started,
        "connection_info": kernel.info,
        "connection_file": kernel.place.connection_file,
        "facts": kernel.facts,
        "ended": kernel.ended is not None,
    }


def _this(machine: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return this process in the format of records, see process_id.py."""
    return {"pid": os.getpid(), "started": start_time(os.getpid()), "machine": machine}


def _identity(process: Process, machine: Mapping[str, Any] | None) -> dict[str, Any]:
    return {"pid": process.pid, "started": process.started, "machine": machine}


def _changed(
    state: Mapping[str, Any] | None, limits: Sequence[Sequence[int]]
) -> dict[str, Sequence[int]]:
    """Return the limits of a state, with those of the kernel."""
    changes = {str(number): values for number, *values in limits}
    return {**(state or {}).get("limits", {}), **changes}


def check_seconds(value: float | None) -> float | None:
    """Check a linger time.

    Raises:
        ValueError: the value is negative or no number.
    """
    if value is None:
        return None
    seconds = float(value)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{value!r} is no number of seconds")
    return seconds


def _limits(values: Mapping[str, int] | None) -> Limits:
    """Check the limits of a log.

    Raises:
        ValueError: a limit is no number of bytes.
    """
    limits = Limits(**(values or {}))
    amounts: list[Any] = list(limits)
    if not all(isinstance(value, int) and value >= 0 for value in amounts):
        raise ValueError("a limit of the log is no number of bytes")
    return limits._replace(largest=min(limits.largest, MESSAGE_BYTES))
