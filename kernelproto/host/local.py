"""The host of this machine: the folder, and connections to the host."""

from __future__ import annotations

import hashlib
import os
import tempfile

import anyio
import anyio.to_thread
from anyio.abc import ByteStream

from kernelproto.exceptions import LaunchError
from kernelproto.host.link import HostGone
from kernelproto.host.local_stream import connect_local
from kernelproto.launch.address.paths import runtime_folder
from kernelproto.launch.host_program import start_host
from kernelproto.launch.own_files import folder_fault
from kernelproto.launch.process.process_id import ProcessId

SOCKET = "socket"

# A path that is longer cannot be that of a socket on every system.
_LONGEST_SOCKET_PATH = 103

# A host that ends just now is waited for.
_ATTEMPTS = 100
_PAUSE_SECONDS = 0.02


def host_folder() -> str:
    """Return the folder of the host of this user and machine, which need not exist.

    Containers may share the runtime folder, so each has a host of its own. If the path of the
    runtime folder is too long for a socket, the folder is in the temporary folder.
    """
    machine = ProcessId.of(os.getpid()).machine
    runtime = runtime_folder()
    name = f"kernelproto-host-{_digest(machine.host, machine.boot, machine.pid_namespace)}"
    folder = os.path.join(runtime, name)
    if len(os.fsencode(os.path.join(folder, SOCKET))) <= _LONGEST_SOCKET_PATH:
        return folder
    return os.path.join(
        os.path.abspath(tempfile.gettempdir()), f"{name}-{_digest(str(os.geteuid()), runtime)}"
    )


class LocalConnect:
    """Connects to the host in a folder of this machine; a Connect function.

    Args:
        folder: the folder.
        starts: whether a host is started if there is none, until ``starts`` is set to False.
    """

    def __init__(self, folder: str, *, starts: bool) -> None:
        self.starts = starts
        self._folder = folder

    async def __call__(self) -> ByteStream:
        for _ in range(_ATTEMPTS):
            # In a shared temporary folder another user may have made the folder.
            if fault := folder_fault(self._folder, private=True):
                raise HostGone(f"the host of this machine is not trusted: {fault}")
            try:
                return await connect_local(os.path.join(self._folder, SOCKET))
            except (FileNotFoundError, ConnectionRefusedError):
                if not self.starts:
                    raise HostGone("the host of the kernel has ended") from None
            os.makedirs(os.path.dirname(self._folder), mode=0o700, exist_ok=True)
            await anyio.to_thread.run_sync(start_host, self._folder)
            await anyio.sleep(_PAUSE_SECONDS)
        raise LaunchError(f"the host in {self._folder!r} holds its lock and does not listen")


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
