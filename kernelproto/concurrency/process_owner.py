"""Owners of objects: the process, and the event loop, that an object belongs to.

A fork of the program inherits the objects of the parent, but not the parent's threads.

A child may use the library for new kernels. A kernel, a connection or an event loop in a thread
belongs to the process that made the object. In a child of this process, using the object raises
WrongProcess, and leaving the object's block changes nothing.
"""

from __future__ import annotations

import os

from anyio.lowlevel import current_token

from kernelproto.exceptions import WrongEventLoop, WrongProcess

_pid = os.getpid()


def _after_fork_in_child() -> None:
    global _pid
    _pid = os.getpid()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class Owner:
    """The process that makes an object.

    Attributes:
        pid: the process id.
    """

    __slots__ = ("pid",)

    def __init__(self) -> None:
        self.pid = _pid

    @property
    def is_here(self) -> bool:
        """Whether this process is the owner, and not a forked child."""
        return self.pid == _pid  # without a system call: sockets ask for every message

    def check(self, what: str) -> None:
        """Do nothing in the owner.

        Args:
            what: the object, for the error.

        Raises:
            WrongProcess: this process is a fork of the owner.
        """
        if not self.is_here:
            raise WrongProcess(
                f"this {what} belongs to process {self.pid}, and process {_pid} is its forked "
                "child: start a kernel in this process, or connect to the other process's kernel "
                "with connect_kernel(kernel.connection_info)",
                pid=self.pid,
            )


class LoopOwner(Owner):
    """The process and the event loop in which an object is made."""

    __slots__ = ("_token",)

    def __init__(self) -> None:
        super().__init__()
        self._token = current_token()

    def check(self, what: str) -> None:
        """Do nothing in the event loop of the owner.

        Args:
            what: the object, for the error.

        Raises:
            WrongProcess: this process is a fork of the owner.
            WrongEventLoop: another event loop runs here.
        """
        super().check(what)
        if current_token() != self._token:
            raise WrongEventLoop(
                f"this {what} belongs to another event loop: use and leave it in the event loop "
                "that opened it; with pytest-asyncio, give the fixture and its tests the same "
                "loop_scope"
            )
