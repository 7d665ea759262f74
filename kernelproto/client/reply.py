"""Waiting for what belongs to one request."""

from __future__ import annotations

from typing import Protocol

import anyio

from kernelproto.client.waiter import Waiter
from kernelproto.exceptions import UnsupportedRequest
from kernelproto.wire.conversation import Event, Signal
from kernelproto.wire.message import Message

# How long a reply may take when the kernel has already said that it is through with the request.
# They come by different sockets, so the reply may be late, but not by much.
_GRACE_SECONDS = 2.0

# When the time is up it may be here nevertheless, and only the application has been too busy to
# let it in: how long that may take.
CATCHING_UP_SECONDS = 0.1


class Pending(Protocol):
    """Whoever waits for what belongs to one request."""

    def receive(self, event: Event) -> None:
        """Take in an arrival."""
        ...

    def fail(self, error: Exception) -> None:
        """Give up: nothing more will arrive."""
        ...


class Reply(Waiter[Message]):
    """Waits for the reply to a plain request."""

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        super().__init__()
        self._scope = anyio.CancelScope()

    def receive(self, event: Event) -> None:
        """Take in an arrival; see Pending."""
        if event.request is not None and event.request.reply is not None:
            self.set(event.request.reply)
        elif event.signal is Signal.IDLE:
            self._scope.deadline = anyio.current_time() + _GRACE_SECONDS

    async def to(self, request: Message) -> Message:
        """Wait for the reply to *request*, once.

        Raises:
            UnsupportedRequest: the kernel has dealt with the request, and not replied.
            Exception: what ``fail`` was called with.
        """
        with self._scope:
            return await self.wait()
        with anyio.move_on_after(CATCHING_UP_SECONDS):
            return await self.wait()
        raise UnsupportedRequest(
            f"the kernel has dealt with the {request.msg_type} and not replied: it does not know "
            "this request"
        )
