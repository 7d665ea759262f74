"""The interfaces of managers and providers whose kernels and messages outlive this program."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from kernelproto.interfaces import KernelHandle, KernelManager
from kernelproto.wire.connection import ConnectionInfo


@runtime_checkable
class KeepsMessages(Protocol):
    """Optional part of a KernelManager: messages wait outside this program for acknowledgements.

    The next owner of the kernel gets the messages that this one has not acknowledged. The messages
    of the kernel have the numbers 1, 2, 3 ... over all channels.
    """

    kernel_id: str

    @property
    def last_number(self) -> int:
        """The number of the last message that was received."""
        ...

    @property
    def acknowledged(self) -> int:
        """The number of the last message that this or an earlier owner has acknowledged."""
        ...

    @property
    def lost(self) -> int:
        """The number of messages that were lost before any owner has received them."""
        ...

    def hold(self) -> None:
        """Acknowledge only messages that ``confirm`` names, instead of all that arrive."""
        ...

    def confirm(self, number: int) -> None:
        """Acknowledge all messages up to a number, soon; ignore a lower one than before."""
        ...


@runtime_checkable
class NotesReadiness(Protocol):
    """Optional part of a KernelManager: a kernel that never gets ready ends after a time."""

    async def note_ready(self) -> None:
        """Let the kernel go on without this program: it is ready, so the caller has its handle."""
        ...


@runtime_checkable
class AdoptsMessages(Protocol):
    """Optional part of a KernelProvider whose managers implement KeepsMessages."""

    async def adopt_messages(self, handle: KernelHandle, /) -> tuple[ConnectionInfo, KernelManager]:
        """Adopt a kernel with all messages that are still kept, even acknowledged ones.

        The manager begins with the oldest of these messages, and holds all of them; see
        ``KeepsMessages.hold``. Otherwise this is ``Adopts.adopt``, with the same exceptions.
        """
        ...
