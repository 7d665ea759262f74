"""ForkServer: an interpreter with ipykernel loaded that forks ready kernels; POSIX only.

Theory of operation
-------------------
The server is a separate process, programs/forkserver.py, with a single thread: this program has
several threads, and could not be forked safely. The two processes communicate over a pair of
sockets. The kernels are the server's children; the server reaps them and reports their end. When
this program ends, for any reason, the server kills its kernels; when the server dies, this program
kills them. Detached kernels go on without this program, without the server, and without both.

Tasks in any event loop, or in none, may wait for a kernel. So one thread of this program uses the
socket, to send the requests and receive the answers. Everything that an answer needs was opened
before the request, so the thread never lacks a descriptor.

There is one server for each set of preloaded modules, which starts with the first kernel. A server
is replaced if it has died, does not answer, or cannot give a kernel the state of this program, such
as other rights or another PYTHONPATH. A replaced server forks no more and ends with its last
kernel. If a server does not answer, this program itself sends the signals for its kernels.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from io import FileIO
from typing import Any, ClassVar

from kernelproto.exceptions import LaunchError
from kernelproto.launch.leftovers.watchdog import Hold
from kernelproto.launch.process.forked import ForkedProcess
from kernelproto.launch.process.forkserver_client import ForkServerClient, ServerLost
from kernelproto.launch.process.forkserver_link import Link
from kernelproto.launch.process.interpreter import PYTHON_OPTION, interpreter_settings
from kernelproto.launch.process.program_state import program_rights, program_state
from kernelproto.launch.process.sandbox import sandbox_environment
from kernelproto.launch.programs import forkserver, ipykernel
from kernelproto.launch.programs.forked_kernel import PARENT_VARIABLE
from kernelproto.launch.programs.watchdog import KERNEL_ID_VARIABLE

logger = logging.getLogger(__name__)

# In the key of a server for sandboxed kernels; no module has this name.
_SANDBOXED = "*sandboxed*"


async def fork_kernel(
    preload: Sequence[str],
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None,
    output: FileIO,
    sandbox: Mapping[str, Any] | None = None,
) -> ForkedProcess:
    """Fork a kernel with the state that this program has now.

    The call does not block. A cancelled call leaves no process.

    Args:
        preload: modules to import in addition to ipykernel.
        command: the command line that runs ipykernel.py by path; only the arguments are used.
        env: the kernel's whole environment.
        cwd: the working directory; None means this program's.
        output: takes standard output and standard error; standard input is empty.
        sandbox: the plan of the kernel's sandbox, see confinement.py; None means no sandbox.

    Raises:
        InvalidLaunchParameter: a module cannot be imported.
        LaunchError: no server can be started, or none answers.
        OSError: the fork has failed, or the working directory cannot be entered.
        ValueError: an argument or a variable cannot be handed to a process.
    """
    is_sandboxed = sandbox is not None
    server = ForkServer.running(preload, is_sandboxed=is_sandboxed)
    try:
        return await server.fork(command, env=env, cwd=cwd, output=output, sandbox=sandbox)
    except ServerLost as lost:
        logger.info("the fork server %d is replaced: %s", server.pid, lost)
        server.retire()
    try:
        server = ForkServer.running(preload, is_sandboxed=is_sandboxed)
        return await server.fork(command, env=env, cwd=cwd, output=output, sandbox=sandbox)
    except ServerLost as lost:
        raise LaunchError(
            f"the kernel cannot be forked, not even by a new server: {lost}"
        ) from None


class ForkServer:
    """The running server for a set of preloaded modules, from ``running``.

    Every method is thread-safe; close() and close_all() block.

    Args:
        preload: modules to import in addition to ipykernel.
        state: the state that kernels cannot change, see _fixed_state().
        is_sandboxed: whether the kernels are sandboxed. Then the server has none of the variables
            of this program that may be secret: a forked kernel could find them in memory.

    Attributes:
        pid: the number of the server's process.

    Raises:
        OSError: it cannot be started.
        RuntimeError: no thread can be started.
    """

    _lock: ClassVar = threading.Lock()
    servers: ClassVar[dict[tuple[str, ...], ForkServer]] = {}

    # Including replaced servers that have not ended.
    _all: ClassVar[list[ForkServer]] = []

    def __init__(
        self, preload: Sequence[str], state: Hashable, *, is_sandboxed: bool = False
    ) -> None:
        self._state = state
        with ExitStack() as undo:
            end, servers_end = socket.socketpair()
            undo.callback(end.close)
            with servers_end:
                link = Link(end)
                undo.callback(link.close)
                process = _start(preload, servers_end.fileno(), is_sandboxed)
            undo.callback(process.wait)
            undo.callback(process.kill)
            self.pid = process.pid
            hold = Hold()
            undo.callback(hold.close)
            self._client = ForkServerClient(link, process, hold)
            undo.pop_all()

    @property
    def dead(self) -> bool:
        """Whether the server forks no more."""
        return self._client.dead

    @property
    def is_running(self) -> bool:
        """Whether the server has not ended."""
        return self._client.is_running

    @classmethod
    def running(cls, preload: Sequence[str], *, is_sandboxed: bool = False) -> ForkServer:
        """Return the server for these modules; start one if none has the state of this program.

        Raises:
            OSError: it cannot be started.
            RuntimeError: no thread can be started.
        """
        modules = tuple(sorted(set(preload)))
        key = (*modules, _SANDBOXED) if is_sandboxed else modules
        with cls._lock:
            state = _fixed_state()
            server = cls.servers.get(key)
            if server is not None and not server.dead:
                if server._state == state:
                    return server
                server.retire()
            server = cls(modules, state, is_sandboxed=is_sandboxed)
            cls.servers[key] = server
            cls._all = [*(other for other in cls._all if other.is_running), server]
            return server

    async def fork(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        output: FileIO,
        sandbox: Mapping[str, Any] | None = None,
    ) -> ForkedProcess:
        """Fork a kernel; see fork_kernel().

        Raises:
            ServerLost: this server cannot fork the kernel; another one may.
        """
        request = {
            "argv": [
                *command[command.index(ipykernel.__file__) :],
                # In a sandbox the kernel does not see its parent, the fork server, and a detached
                # kernel outlives the server.
                *([] if PARENT_VARIABLE in env else [ipykernel.NO_PARENT]),
            ],
            "env": dict(env),
            "cwd": cwd,
            "state": program_state(),
            "sandbox": sandbox,
        }
        return await self._client.fork(request, output)

    def retire(self) -> None:
        """Have the server fork no more, and end with the last kernel."""
        self._client.retire()

    def close(self) -> None:
        """End the server and its kernels; block until the end, at most a few seconds."""
        self._client.join()

    @classmethod
    def close_all(cls) -> None:
        """End every server of this program with its kernels; the next fork starts a new server."""
        with cls._lock:
            servers = list(cls._all)
            cls.servers.clear()
            cls._all.clear()
        for server in servers:
            server.close()

    @classmethod
    def prepare_for_forks(cls) -> None:
        """Make sure that a fork of this program finds the lock free and can close the sockets."""
        os.register_at_fork(
            before=cls._lock.acquire,
            after_in_parent=cls._lock.release,
            after_in_child=cls._leave_all_to_parent,
        )

    @classmethod
    def _leave_all_to_parent(cls) -> None:
        # A server must notice the end of the owner, even if a fork of the owner lives on.
        for server in cls._all:
            server._client.leave_to_parent()
        cls.servers.clear()
        cls._all.clear()
        cls._lock.release()


def _fixed_state() -> Hashable:
    """Return the state of this program that a forked kernel cannot take over."""
    return program_rights(), frozenset(interpreter_settings(os.environ).items())


def _start(preload: Sequence[str], descriptor: int, is_sandboxed: bool) -> subprocess.Popen[bytes]:
    """Start the process of a server, which inherits the state and the rights of this thread."""
    # If this program runs in a kernel, the server does not belong to that kernel.
    env = {k: v for k, v in os.environ.items() if k != KERNEL_ID_VARIABLE}
    return subprocess.Popen(
        [
            sys.executable,
            PYTHON_OPTION,
            forkserver.__file__,
            str(descriptor),
            json.dumps(list(preload)),
        ],
        env=sandbox_environment(env) if is_sandboxed else env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[descriptor],
        start_new_session=True,
    )


ForkServer.prepare_for_forks()
atexit.register(ForkServer.close_all)
