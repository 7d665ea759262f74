"""Waiting for the reply to one request, and finding out that none will come.

Theory of operation
===================

A kernel that does not know a request need not say so. Its other messages tell whether the reply can
still come:

- "busy" for this request: it works on it, and may take as long as it likes.
- "idle" for this request: it is through with it. The reply comes by another socket and may be late,
  but not by much.
- Nothing at all: some kernels ignore requests on control. So after a while a *fence* is sent after
  the request: a kernel_info_request, which every kernel answers. The requests of a
  channel are served in order, hence a fence that is answered has found the request dealt with. On
  a busy shell both wait. A kernel that serves a channel's requests side by side is not judged by
  that as long as it reports "busy".
- Some kernels answer kernel_info on shell alone. A request on control therefore has a second fence
  there. Nobody promises an order between the two channels, so that one counts much later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import anyio

from kernelproto.client.dispatcher import Dispatcher
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import UnsupportedRequest
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import KernelInfoRequest
from kernelproto.wire.conversation import Event
from kernelproto.wire.message import Message
from kernelproto.wire.transitions import Signal, State

# How long a request goes without any sign of life before fences are sent after it.
_FENCE_SECONDS = 1.0

# How long a reply may take when the kernel is known to be through with the request.
_GRACE_SECONDS = 2.0

# The same when that is known from the other channel.
_GRACE_BESIDE_SECONDS = 5.0

# When the time is up it may be here nevertheless, and only the application has been too busy to
# let it in: how long that may take.
CATCHING_UP_SECONDS = 0.1

# Which fences a request has: their channels, and whether those are its own.
_FENCES: Mapping[ChannelName, Sequence[tuple[ChannelName, bool]]] = {
    "shell": [("shell", True)],
    "control": [("control", True), ("shell", False)],
}


class Reply(Waiter[Message]):
    """Waits for the reply to a plain request. Implements Pending."""

    __slots__ = ("_deadline", "_reported", "_scope")

    def __init__(self) -> None:
        super().__init__()
        self._reported = False
        self._deadline = math.inf
        self._scope: anyio.CancelScope | None = None

    def receive(self, event: Event) -> None:
        """Take in an arrival; see Pending."""
        if event.request is not None and event.request.reply is not None:
            self.set(event.request.reply)
        elif event.request is not None and event.request.state is State.LOST:
            self._wait_until(-math.inf)
        elif event.signal is Signal.BUSY:
            self._reported = True
            self._wait_until(math.inf)
        elif event.signal is Signal.IDLE:
            self._reported = True
            self._wait_until(anyio.current_time() + _GRACE_SECONDS)

    def passed(self, seconds: float) -> None:
        """Take note that the kernel has come to a fence; the reply may be late by *seconds*."""
        if not self._reported:
            self._wait_until(min(self._deadline, anyio.current_time() + seconds))

    async def wait_for_it(
        self, send_fences: Callable[[], Coroutine[Any, Any, None]]
    ) -> Message | None:
        """Wait for the reply; None when there will be none.

        Raises:
            Exception: a copy of the error that ``fail`` was called with.
        """
        with anyio.move_on_after(_FENCE_SECONDS):
            return await self.wait()
        # Beside the waiting: a kernel that does not read shell can answer on control.
        async with background_tasks() as tasks:
            if not self._reported:
                tasks.start_soon(send_fences)
            with anyio.CancelScope(deadline=self._deadline) as self._scope:
                return await self.wait()
            with anyio.move_on_after(CATCHING_UP_SECONDS) as self._scope:
                return await self.wait()
        return None

    def _wait_until(self, deadline: float) -> None:
        self._deadline = deadline
        if self._scope is not None:
            self._scope.deadline = deadline


class _Fence:
    """Implements Pending for a request that only shows that the kernel has come so far."""

    def __init__(self, reply: Reply, seconds: float) -> None:
        self._reply = reply
        self._seconds = seconds

    def receive(self, event: Event) -> None:
        if event.request is not None and event.request.reply is not None:
            self._reply.passed(self._seconds)

    def fail(self, error: Exception) -> None:
        """Count a refused reply as a reply; if the client is closed, the waiting call fails too."""
        self._reply.passed(self._seconds)


async def ask(
    dispatcher: Dispatcher, request: Message, channel: ChannelName, *, kernel: str
) -> Message:
    """Send a request and wait for its reply.

    Args:
        dispatcher: sends it.
        request: any but an execute_request.
        channel: "shell" or "control".
        kernel: the name of the kernel in the error.

    Raises:
        UnsupportedRequest: the kernel has dealt with the request, and not replied.
        KernelDied, ClientClosed: no reply can come.
    """
    reply = Reply()
    sent = [request.msg_id]

    async def send_fences() -> None:
        for place, own in _FENCES[channel]:
            fence = dispatcher.factory.message(
                "kernel_info_request",
                KernelInfoRequest(),
                subshell_id=request.header.subshell_id,  # each subshell has an order of its own
            )
            sent.append(fence.msg_id)
            seconds = _GRACE_SECONDS if own else _GRACE_BESIDE_SECONDS
            await dispatcher.send(fence, place, _Fence(reply, seconds))

    try:
        await dispatcher.send(request, channel, reply)
        found = await reply.wait_for_it(send_fences)
    finally:
        for msg_id in sent:
            dispatcher.forget(msg_id)
    if found is None:
        raise UnsupportedRequest(
            f"{kernel} has dealt with the {request.msg_type} and not replied: it does not know "
            f"this request on {channel}"
        )
    return found
