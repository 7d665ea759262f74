"""The ipc sockets of a sandboxed kernel that jupyter_client launches.

A sandbox without the machine's network needs ipc sockets in a folder of their own, and
jupyter_client puts sockets into the folder of all kernels. So its KernelManager gets the address of
another folder. The address stays the same when the kernel is restarted, as clients expect.
"""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress

from jupyter_client.manager import KernelManager

from kernelproto.launch.address.connection_file import require_socket_folder
from kernelproto.launch.address.paths import SOCKET_NAME, connection_file_name, runtime_folder


class PrivateSockets:
    """The folder of the sockets, and the connection file in which the kernel reads its address.

    If this program is killed, the record of the launch names both, so that they are removed.

    Args:
        manager: the KernelManager; it gets the address of the sockets.

    Attributes:
        connection_file: the path for write().

    Raises:
        LaunchError: no folder can hold the sockets.
    """

    def __init__(self, manager: KernelManager) -> None:
        kernel_id = str(uuid.uuid4())
        self.connection_file = os.path.join(runtime_folder(), connection_file_name(kernel_id))
        self._manager = manager
        self._folder = require_socket_folder(kernel_id)
        manager.transport = "ipc"
        manager.ip = os.path.join(self._folder, SOCKET_NAME)

    def make_folder(self) -> None:
        """Make the folder, empty; call this before jupyter_client chooses the sockets in it."""
        shutil.rmtree(self._folder, ignore_errors=True)
        os.makedirs(self._folder, mode=0o700)

    def write(self) -> None:
        """Copy the connection file of the KernelManager."""
        with open(self._manager.connection_file, "rb") as file:
            content = file.read()
        self._remove_file()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(self.connection_file, flags, 0o600), "wb") as file:
            file.write(content)

    def remove(self) -> None:
        """Remove the folder and the file, when the kernel has ended."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._remove_file()

    def _remove_file(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self.connection_file)
