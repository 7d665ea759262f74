"""Registry: the interface of a store of kernels that several programs share.

Theory of operation
-------------------
A *node* is a program, or several programs on one machine, under a stable name. A node claims a
kernel for some seconds, and renews its claims before they lapse. Another node can claim the kernel
once the claim has lapsed or was released. The node itself can claim the kernel at any time, so a
program that was killed has its kernels again as soon as it is started again.

Each claim has a *fence*, a number larger than those of all earlier claims on the kernel. Every
change names the fence, and a change with an old fence has no effect. So a program that was
suspended while its claims lapsed cannot change a kernel that another node has claimed.

All times are the store's: the clocks of nodes may differ. A claim that has lapsed is still valid
until another node claims the kernel, so a store whose clock is set forward loses nothing, and one
whose clock is set back only delays other nodes.

A node whose registry does not answer keeps its kernels: it ends no kernel for that reason.

A *session* assigns a kernel to a document of a user. It is removed together with its kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import msgspec

from kernelproto.interfaces import KernelHandle


class RegisteredKernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel in a registry, at the time when it was read.

    Args:
        kernel_id: the id of the kernel.
        owner: the user that the kernel belongs to.
        name: the name among the kernels of this user.
        kernel_type: ``provider/name``.
        handle: the handle with which the kernel is adopted; None until the kernel was launched.
        age: seconds since the kernel was added.
        idle: seconds since its last use.
        node: the node that claimed the kernel last; "" if the kernel was released.
        fence: the number of the last claim.
        held: seconds until the claim lapses; 0 if it has lapsed or was released.
        start: the options of the kernel's start, as add() got them.
        note: the last text from set_notes().
        restarting: whether begin_restart() was called after the last set_handle().
    """

    kernel_id: str
    owner: str
    name: str
    kernel_type: str
    handle: KernelHandle | None
    age: float
    idle: float
    node: str
    fence: int
    held: float
    start: str = ""
    note: str = ""
    restarting: bool = False


class RegisteredSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session in a registry.

    Args:
        session_id: the id of the session.
        owner: the user that the session and its kernel belong to.
        path: the path of the document. Several sessions may have the same path.
        name: the name of the session.
        type: the type of the document.
        kernel_id: the id of the kernel.
    """

    session_id: str
    owner: str
    path: str
    name: str
    type: str
    kernel_id: str


class RegisteredNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node in a registry.

    Args:
        name: the name of the node.
        unseen: seconds since the node last renewed its claims.
    """

    name: str
    unseen: float


@runtime_checkable
class Registry(Protocol):
    """A store of kernels that outlive programs.

    Every method raises RegistryError if the store cannot be read or written; then nothing was
    changed. If a store on another machine does not confirm a change, the change may have been made.
    It is safe to repeat the call.
    """

    async def add(
        self,
        kernel_id: str,
        *,
        owner: str,
        name: str,
        kernel_type: str,
        node: str,
        seconds: float,
        start: str = "",
        max_kernels: int | None = None,
        max_per_owner: int | None = None,
    ) -> int | None:
        """Add a kernel and claim it, before it is launched.

        The limits are checked and the kernel is added in one step, so that nodes which add kernels
        at the same time do not exceed them. A kernel counts from add() until remove().

        Args:
            kernel_id: a new id.
            owner: the user.
            name: the name among the kernels of this user.
            kernel_type: ``provider/name``.
            node: the node that launches the kernel.
            seconds: how long the claim holds.
            start: the options of the start, for a restart by a later program.
            max_kernels: how many kernels the registry may have; None means any number.
            max_per_owner: how many kernels of this user it may have; None means any number.

        Returns:
            The fence; None if there is a kernel with this id, or this user has one of this name.

        Raises:
            PoolFull: the registry has *max_kernels*.
            QuotaExceeded: the user has *max_per_owner*.
        """
        ...

    async def claim(self, kernel_id: str, *, node: str, seconds: float) -> int | None:
        """Claim a kernel; return the fence.

        None means that another node holds the kernel, or that there is no such kernel.
        """
        ...

    async def renew(
        self, node: str, *, seconds: float, idle: Mapping[str, float] | None = None
    ) -> Mapping[str, int]:
        """Renew all claims of a node, in one step, and note that the node was seen.

        Args:
            node: the node.
            seconds: how long the claims hold from now on.
            idle: kernels that were used, and the seconds since their last use.

        Returns:
            The kernels that the node holds, with their fences. A kernel that is missing, or has
            another fence than that of the node's claim, belongs to another program.
        """
        ...

    async def set_handle(self, kernel_id: str, fence: int, handle: KernelHandle) -> bool:
        """Store the handle of a kernel that was launched or restarted.

        Returns:
            Whether the fence is that of the last claim; otherwise nothing was changed.
        """
        ...

    async def begin_restart(self, kernel_id: str, fence: int) -> bool:
        """Note that a kernel is about to be restarted; return as set_handle() does."""
        ...

    async def release(self, kernel_id: str, fence: int) -> bool:
        """Give up a kernel, so that any node can claim it; return as set_handle() does."""
        ...

    async def remove(self, kernel_id: str, fence: int) -> bool:
        """Remove a kernel that has ended; return as set_handle() does."""
        ...

    async def set_notes(self, node: str, notes: Mapping[str, str]) -> None:
        """Store a text with each kernel that a node holds, in one step; ignore other kernels.

        Args:
            node: the node.
            notes: the texts by the id of the kernel.
        """
        ...

    async def remove_unheld(self, *, seconds: float) -> list[str]:
        """Remove the kernels that no node has held for so many seconds; return their ids."""
        ...

    async def kernels(
        self, *, owner: str | None = None, kernel_id: str | None = None, unheld: bool = False
    ) -> list[RegisteredKernel]:
        """Return the kernels, the oldest first.

        Args:
            owner: the user; None means all users.
            kernel_id: the id of one kernel; None means all kernels.
            unheld: whether to return only kernels that no node holds.
        """
        ...

    async def count(self) -> int:
        """Return the number of all kernels."""
        ...

    async def set_session(self, session: RegisteredSession) -> bool:
        """Add a session, or change the session of this user with the same id.

        Returns:
            Whether the user has the kernel; otherwise nothing was changed.
        """
        ...

    async def remove_session(self, owner: str, session_id: str) -> bool:
        """Remove a session of a user; return whether there was one."""
        ...

    async def sessions(self, *, owner: str | None = None) -> list[RegisteredSession]:
        """Return the sessions of one user or of all users, the oldest first."""
        ...

    async def nodes(self) -> list[RegisteredNode]:
        """Return the nodes that have ever renewed a claim, by name."""
        ...

    async def secret(self) -> str:
        """Return a text that only the programs with this registry have.

        It is made by the first call, and stays the same. With it nodes prove to each other that
        they have the same registry.
        """
        ...
