"""ConnectionFile: the addresses and the keys of a new kernel, and the file with them.

Specification: "Connection files".
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Literal

from jupyter_core.paths import secure_write

from kernelproto.exceptions import LaunchError
from kernelproto.launch.address.paths import (
    DRAFT,
    SOCKET_NAME,
    choose_socket_folder,
    connection_file_name,
    kernel_of_connection_file,
    runtime_folder,
    socket_folder_name,
)
from kernelproto.launch.address.ports import release_ports, reserve_ports
from kernelproto.launch.leftovers.running import read_connection_file
from kernelproto.wire.connection import CHANNEL_NAMES, ChannelName, ConnectionInfo
from kernelproto.wire.registration import Registration

if TYPE_CHECKING:
    from kernelproto.transport.curve import CurveKeys

Transport = Literal["tcp", "ipc"]

LOOPBACK = "127.0.0.1"

_KEY_BYTES = 32

_SOCKET_NUMBERS = range(1, len(CHANNEL_NAMES) + 1)


class ConnectionFile:
    """The connection file of one kernel and, with ipc, the private folder of the sockets.

    Only the current user can read the file or reach the sockets. Make one with create(),
    create_for_registration() or given(), and call remove() after the end of the kernel.

    Attributes:
        path: the absolute path of the file that the kernel reads.
        own_path: the path that other programs find the kernel by; a copy may be there.
    """

    def __init__(
        self,
        path: str,
        undo: ExitStack,
        info: ConnectionInfo | None = None,
        *,
        own_path: str | None = None,
    ) -> None:
        self.path = path
        self.own_path = own_path or path
        self._undo = undo
        self._info = info
        self._is_given = own_path is not None

    @property
    def info(self) -> ConnectionInfo:
        """The contents of the file.

        Raises:
            LookupError: create_for_registration() made the file, and complete() was not called yet.
        """
        if self._info is None:
            raise LookupError("the kernel has not registered yet")
        return self._info

    @property
    def socket_folder(self) -> str | None:
        """The private folder of the ipc sockets; None with tcp and with sockets elsewhere."""
        if self._info is None or self._info.transport != "ipc":
            return None
        folder = os.path.dirname(self._info.ip)
        is_private = not self._is_given or os.path.basename(folder) == self._folder_name()
        return folder if is_private else None

    def _folder_name(self) -> str | None:
        """Return the name that create() would give to the folder of the sockets."""
        kernel_id = kernel_of_connection_file(self.own_path)
        return None if kernel_id is None else socket_folder_name(kernel_id)

    @property
    def sockets(self) -> list[str]:
        """The paths of the ipc sockets; none with tcp."""
        if self.socket_folder is None:
            return []
        return [f"{self.info.ip}-{number}" for number in _SOCKET_NUMBERS]

    @classmethod
    def create(
        cls,
        kernel_id: str,
        *,
        transport: Transport,
        ip: str = LOOPBACK,
        encrypted: bool = False,
        kernel_name: str = "",
    ) -> ConnectionFile:
        """Choose free addresses and new keys, and write them to the Jupyter runtime folder.

        Another program may take a tcp port before the kernel binds the port; then the kernel ends
        early.

        Args:
            kernel_id: the id in the name of the file, ``kernel-<kernel_id>.json``.
            transport: ``"tcp"`` or ``"ipc"``.
            ip: the IPv4 address that the kernel binds; without meaning for ipc.
            encrypted: whether the kernel gets CurveZMQ keys.
            kernel_name: the kernel type, for display.

        Raises:
            LaunchError: the file or the folder cannot be made; nothing is left of the attempt.
            InvalidLaunchParameter: *ip* is not an address of this machine.
        """
        with _new_file(kernel_id) as (path, undo):
            ip, ports = _choose_addresses(kernel_id, transport, ip, undo)
            keys = _curve_keys(encrypted)
            info = ConnectionInfo(
                transport=transport,
                ip=ip,
                shell_port=ports["shell"],
                iopub_port=ports["iopub"],
                stdin_port=ports["stdin"],
                control_port=ports["control"],
                hb_port=ports["hb"],
                key=_new_key(),
                kernel_name=kernel_name,
                curve_publickey=keys.public,
                curve_secretkey=keys.secret,
            )
            _write(path, info.to_json)
            return cls(path, undo.pop_all(), info)

    @classmethod
    def given(cls, kernel_id: str, path: str) -> ConnectionFile:
        """Use the connection file of a caller, which the caller removes together with the sockets.

        If the path differs from that of create(), the file is copied to that path, so that other
        programs find the kernel. remove() removes only the copy.

        Args:
            kernel_id: the id of the kernel.
            path: the path of the caller's file.

        Raises:
            DiscoveryError: the file cannot be read.
            RemoteProtocolError: the file is not a connection file.
            LaunchError: the copy cannot be made.
        """
        info = read_connection_file(path)
        given = os.path.abspath(path)
        if kernel_of_connection_file(given) == kernel_id:
            return cls(given, ExitStack(), info, own_path=given)
        with _new_file(kernel_id) as (copy, undo):
            _write(copy, info.to_json)
            return cls(given, undo.pop_all(), info, own_path=copy)

    @classmethod
    def create_for_registration(
        cls, registration: Registration, *, ip: str, port: int
    ) -> ConnectionFile:
        """Write a registration file, which complete() replaces with the connection file.

        Args:
            registration: the registration of the kernel.
            ip: the address that waits for the registration message.
            port: the port that waits for the registration.

        Raises:
            LaunchError: the file cannot be made; nothing is left of the attempt.
        """
        with _new_file(registration.kernel_id) as (path, undo):
            _write(path, partial(registration.file, ip=ip, port=port))
            return cls(path, undo.pop_all())

    def complete(self, info: ConnectionInfo) -> None:
        """Replace the registration file with the connection file, atomically.

        Raises:
            LaunchError: the connection file cannot be written.
        """
        with _errors_named(self.path):
            draft = self.path + DRAFT
            with ExitStack() as undo:
                undo.callback(_remove_file, draft)
                _write(draft, info.to_json)
                os.replace(draft, self.path)
        self._info = info

    def remove(self) -> None:
        """Remove the file and the sockets, and release the ports; more than once is fine."""
        self._undo.close()


def new_registration(kernel_id: str, *, ip: str, encrypted: bool, kernel_name: str) -> Registration:
    """Return the registration of a kernel that chooses its own ports; arguments as in create()."""
    keys = _curve_keys(encrypted)
    return Registration(
        kernel_id,
        ip=ip,
        key=_new_key(),
        kernel_name=kernel_name,
        curve_publickey=keys.public,
        curve_secretkey=keys.secret,
    )


def require_socket_folder(kernel_id: str) -> str:
    """Return the path of the folder for a kernel's ipc sockets; see choose_socket_folder().

    Raises:
        LaunchError: no folder can hold the sockets.
    """
    folder = choose_socket_folder(kernel_id)
    if folder is None:
        raise LaunchError(
            f"ipc sockets cannot be made: the path of the runtime folder, {runtime_folder()!r}, is "
            "too long for the address of a socket, or not valid UTF-8, and so is that of the "
            "temporary folder; set TMPDIR to a shorter path, or use tcp"
        )
    return folder


def _new_key() -> str:
    return secrets.token_hex(_KEY_BYTES)


@contextmanager
def _new_file(kernel_id: str) -> Generator[tuple[str, ExitStack]]:
    """Yield the path of the new file, and the undo steps in case the block fails."""
    path = os.path.join(runtime_folder(), connection_file_name(kernel_id))
    with ExitStack() as undo, _errors_named(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        undo.callback(_remove_file, path)
        yield path, undo


@contextmanager
def _errors_named(path: str) -> Generator[None]:
    # secure_write raises RuntimeError if the file system does not keep mode 0600. ValueError: the
    # path is not valid UTF-8.
    try:
        yield
    except LaunchError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise LaunchError(
            f"cannot make the connection file {path!r}: {error}; set JUPYTER_RUNTIME_DIR "
            "to a folder of yours on a local file system"
        ) from error


def _write(path: str, text: Callable[[], bytes]) -> None:
    # The text contains the keys. No variable holds it, because some tracebacks show variables.
    with secure_write(path, binary=True) as file:
        file.write(text())


def _choose_addresses(
    kernel_id: str, transport: Transport, ip: str, undo: ExitStack
) -> tuple[str, dict[ChannelName, int]]:
    """Return the ip and the ports for ConnectionInfo; *undo* gets the steps that release them."""
    if transport == "ipc":
        folder = require_socket_folder(kernel_id)
        os.mkdir(folder, mode=0o700)
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        return os.path.join(folder, SOCKET_NAME), dict(
            zip(CHANNEL_NAMES, _SOCKET_NUMBERS, strict=True)
        )
    ports = reserve_ports(len(CHANNEL_NAMES), ip)
    undo.callback(release_ports, ports)
    return ip, dict(zip(CHANNEL_NAMES, ports, strict=True))


def _remove_file(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


def _curve_keys(encrypted: bool) -> CurveKeys:
    """Return new keys, or empty ones for a connection without encryption."""
    from kernelproto.transport.curve import CurveKeys, new_curve_keys  # which loads zmq

    return new_curve_keys() if encrypted else CurveKeys("", "")
