"""Reachability: whether a kernel on another machine can be reached, and why not."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


class Reachability:
    """Whether a kernel can be reached; the kernel's manager updates the state, all others read it.

    A new kernel can be reached.

    Attributes:
        is_over: whether the connection is not needed any more.
    """

    __slots__ = ("_changed", "_problem", "is_over")

    def __init__(self) -> None:
        self.is_over = False
        self._problem: str | None = None
        # Imported here, so that kernelproto.interfaces can be imported without anyio.
        from kernelproto.concurrency.bell import Bell

        self._changed = Bell()

    @property
    def problem(self) -> str | None:
        """The reason in words why the kernel cannot be reached; None while reachable."""
        return self._problem

    def lose(self, problem: str) -> None:
        """Note that the kernel cannot be reached; a further call replaces the reason.

        Args:
            problem: the reason in words, such as "the connection to node7 was lost".
        """
        self._problem = problem
        self._changed.ring()

    def regain(self) -> None:
        """Note that the kernel can be reached again."""
        self._problem = None
        self._changed.ring()

    def end(self) -> None:
        """Note that the kernel has ended, or was given up: no task has to wait for it any more."""
        self.is_over = True
        self.regain()

    async def until_lost(self) -> str:
        """Wait until the kernel cannot be reached; return the reason in words."""
        while self._problem is None:
            await self._changed.wait()
        return self._problem

    async def until_regained(self) -> None:
        """Wait until the kernel can be reached, or *is_over* is true."""
        while self._problem is not None:
            await self._changed.wait()


@runtime_checkable
class MayBecomeUnreachable(Protocol):
    """Optional part of a KernelManager: the connection to a running kernel may be lost.

    An unreachable kernel counts as neither dead nor idle. ``is_alive`` returns True, ``wait`` waits
    until the end of the kernel is known for sure, and the methods that act on the kernel wait for
    the connection, or raise KernelUnreachable. The channels keep messages, and send them when the
    kernel can be reached again. ``cleanup`` and ``detach`` nevertheless take a limited time. The
    manager connects again without a request; only callers give up.

    Attributes:
        reachability: whether the kernel can be reached. The manager calls ``lose``, ``regain`` and
            ``end``.
    """

    reachability: Reachability

    async def probe(self) -> bool:
        """Find out whether the kernel can be reached now; take a few seconds at most.

        For an unreachable kernel, ``reachability`` gets the reason before this returns False.
        """
        ...
