"""Do not import psutil for answers that are known without it.

psutil lists all network interfaces for the default address, and all processes of the machine for
the children of a kernel that ends.
"""

from __future__ import annotations

import os
from typing import Any

from .hook import KERNEL, Hook, Need

CONNECTION = "jupyter_client.connect:ConnectionFileMixin"


def use_address_of_file(application: Any) -> None:
    """Have an application take the address in the connection file for the default address.

    jupyter_client makes the default before it looks into the file.
    """
    stock = application.load_connection_info

    def load_connection_info(info: Any) -> None:
        """Load connection info from a dict containing connection info."""
        if "ip" not in info:
            stock(info)
            return
        application._ip_default = lambda: info["ip"]
        try:
            stock(info)
        finally:
            del application._ip_default

    application.load_connection_info = load_connection_info


class NoChildren:
    """The part of a kernel that looks for child processes before the kernel ends."""

    def _process_children(self: Any) -> Any:
        """Retrieve child processes in the kernel's process group."""
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return []
        except (AttributeError, OSError):  # Windows and old versions of macOS have no waitid
            pass
        stock: Any = super()
        return stock._process_children()


ADDRESS = Hook(
    name="address",
    needs=[
        Need(f"{CONNECTION}.load_connection_info", "self, info", "get ip _ip_default"),
        Need(f"{CONNECTION}._ip_default", "self", "localhost"),
    ],
    install=use_address_of_file,
)

CHILDREN = Hook(
    name="children",
    needs=[Need(f"{KERNEL}._process_children", "self", "children")],
    mixins={KERNEL: NoChildren},
)
