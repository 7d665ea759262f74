"""Forks of the program: a child inherits the objects of its parent, but not the parent's threads.

A child may use the library anew. An object that stands for something outside of the program (a
kernel, a connection, an event loop in a thread) belongs to the process that made it. In a child of
that process, using the object raises WrongProcess, and leaving its block changes nothing.
"""

from __future__ import annotations

import os

from kernelproto.exceptions import WrongProcess


class Owner:
    """The process that makes an object.

    Attributes:
        pid: the number of that process.
    """

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.pid = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether this process is the owner, and not a fork of it."""
        return os.getpid() == self.pid

    def check(self, what: str) -> None:
        """Do nothing in the owner.

        Args:
            what: the object, for the error.

        Raises:
            WrongProcess: this process is a fork of the owner.
        """
        if not self.is_here:
            raise WrongProcess(
                f"this {what} belongs to process {self.pid}, and process {os.getpid()} is a fork "
                "of it: start a kernel in this process, or connect to the other process's kernel "
                "with connect_kernel(kernel.connection_info)",
                pid=self.pid,
            )
