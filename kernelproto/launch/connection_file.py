"""ConnectionFile: the addresses and the key of a new kernel, and the file that hands them to it.

Specification: "Connection files".
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
import tempfile
from contextlib import ExitStack, suppress
from typing import Literal

from jupyter_core.paths import jupyter_runtime_dir, secure_write

from kernelproto.exceptions import LaunchError
from kernelproto.wire.connection import CHANNEL_NAMES, ChannelName, ConnectionInfo

Transport = Literal["tcp", "ipc"]

_LOOPBACK = "127.0.0.1"
_KEY_BYTES = 32
_SOCKET_NAME = "kernel"
_SOCKET_NUMBERS = range(1, len(CHANNEL_NAMES) + 1)

# Below those that systems hand out by themselves. A client that tries to connect before the kernel
# listens could be given one of those for its own end, and then it would talk to itself.
_PORTS = range(20_000, 30_000)

# sockaddr_un.sun_path without its terminating zero.
_LONGEST_SOCKET_PATH = 103 if sys.platform == "darwin" else 107

# A kernel binds its ports some 100 ms after they were chosen, and until then the operating system
# offers them to the next kernel as well: what is promised to one must not be promised to another.
_promised_ports: set[int] = set()


class ConnectionFile:
    """The connection file of one kernel and, with ipc, the private folder of its sockets.

    Made by create(); whoever holds it calls remove() when the kernel is gone.

    Attributes:
        info: what the file says.
        path: where the file is, absolute.
    """

    def __init__(self, info: ConnectionInfo, path: str, undo: ExitStack) -> None:
        self.info = info
        self.path = path
        self._undo = undo

    @classmethod
    def create(
        cls, kernel_id: str, *, transport: Transport, kernel_name: str = ""
    ) -> ConnectionFile:
        """Choose free addresses and a fresh key, and write them to the Jupyter runtime folder.

        Only the current user can read the file or reach the ipc sockets. tcp ports are free now and
        may be taken by another program before the kernel binds them; that kernel then ends early.

        Args:
            kernel_id: names the file, ``kernel-<kernel_id>.json``.
            transport: ``"tcp"``, on the loopback interface, or ``"ipc"``.
            kernel_name: the kernel type, for people.

        Raises:
            LaunchError: the file or the folder cannot be made; nothing is left of the attempt.
        """
        # The kernel may be given another working directory than this process has.
        runtime_folder = os.path.abspath(jupyter_runtime_dir())
        path = os.path.join(runtime_folder, f"kernel-{kernel_id}.json")
        with ExitStack() as undo:
            try:
                os.makedirs(runtime_folder, mode=0o700, exist_ok=True)
                ip, ports = _choose_addresses(transport, runtime_folder, undo)
                info = ConnectionInfo(
                    transport=transport,
                    ip=ip,
                    shell_port=ports["shell"],
                    iopub_port=ports["iopub"],
                    stdin_port=ports["stdin"],
                    control_port=ports["control"],
                    hb_port=ports["hb"],
                    key=secrets.token_hex(_KEY_BYTES),
                    kernel_name=kernel_name,
                )
                undo.callback(_remove_file, path)
                with secure_write(path, binary=True) as file:
                    file.write(info.to_json())
            # secure_write raises RuntimeError where the file system does not keep mode 0600;
            # ValueError is a path that cannot be written as UTF-8.
            except (OSError, RuntimeError, ValueError) as error:
                raise LaunchError(
                    f"cannot make the connection file {path!r}: {error}; set JUPYTER_RUNTIME_DIR "
                    "to a folder of yours on a local file system"
                ) from error
            return cls(info, path, undo.pop_all())

    def remove(self) -> None:
        """Remove the file and the sockets, and give the ports free; more than once is fine."""
        self._undo.close()


def _choose_addresses(
    transport: Transport, runtime_folder: str, undo: ExitStack
) -> tuple[str, dict[ChannelName, int]]:
    """Return what ConnectionInfo calls ip, and the ports; *undo* learns how to give them back."""
    if transport == "ipc":
        folder = _make_socket_folder(runtime_folder)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        return os.path.join(folder, _SOCKET_NAME), dict(
            zip(CHANNEL_NAMES, _SOCKET_NUMBERS, strict=True)
        )
    ports = _promise_free_ports(len(CHANNEL_NAMES))
    undo.callback(_promised_ports.difference_update, ports)
    return _LOOPBACK, dict(zip(CHANNEL_NAMES, ports, strict=True))


def _make_socket_folder(runtime_folder: str) -> str:
    """Make a folder that only the current user can enter, with a path short enough for sockets."""
    folder = tempfile.mkdtemp(prefix="kernel-", dir=runtime_folder)
    if _fits_socket_address(folder):
        return folder
    os.rmdir(folder)
    folder = tempfile.mkdtemp(prefix="kernel-")
    if _fits_socket_address(folder):
        return folder
    os.rmdir(folder)
    raise OSError(
        f"the path {folder!r} is too long for ipc; set TMPDIR to a shorter one or use tcp"
    )


def _fits_socket_address(folder: str) -> bool:
    socket_path = os.path.join(folder, f"{_SOCKET_NAME}-{_SOCKET_NUMBERS[-1]}")
    return len(os.fsencode(socket_path)) <= _LONGEST_SOCKET_PATH


def _promise_free_ports(count: int) -> list[int]:
    """Return *count* free loopback ports that are promised to no kernel of this process."""
    ports: list[int] = []
    with ExitStack() as probes:
        # The probes stay open together: it makes the ports differ, and it keeps another thread from
        # being offered one of them before it is entered as promised.
        for candidate in secrets.SystemRandom().sample(_PORTS, len(_PORTS)):
            probe = probes.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                probe.bind((_LOOPBACK, candidate))
            except OSError:
                continue  # somebody has it already
            port: int = probe.getsockname()[1]
            if port not in _promised_ports:
                ports.append(port)
            if len(ports) == count:
                _promised_ports.update(ports)
                return ports
    raise OSError(f"{count} free ports between {_PORTS[0]} and {_PORTS[-1]} are not to be had")


def _remove_file(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
