"""Reply: waits for the reply to one request, or finds that no reply will come.

Theory of operation
===================

A kernel may ignore requests that it does not support. Its other messages show whether the reply can
still come:

- "busy" for this request: the kernel works on the request, without a time limit. But the reply and
  "idle" may both be lost. So the client sends the fence described below, half a minute later. After
  the answer to the fence, the client waits one more minute for the reply: a few kernels serve the
  requests of a channel side by side, so the answer alone proves nothing.
- "idle" for this request: the kernel has finished the request. The reply comes by another socket
  and may be a little late.
- No message: some kernels ignore requests on control. So after a while the client sends a *fence*
  after the request: a kernel_info_request, which every kernel answers. A kernel serves the requests
  of a channel in order, so the answer to the fence shows that the kernel has passed the request. On
  a busy shell both wait. A fence without an answer is repeated at most six times, each time after
  twice as long.
- Some kernels answer kernel_info only on shell. So a request on control has a second fence on
  shell. The order between the two channels is undefined, so that fence counts much later.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import anyio

from kernelproto.client.dispatcher import Dispatcher
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import ReplyLost, UnsupportedRequest
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import KernelInfoRequest
from kernelproto.wire.conversation import Event
from kernelproto.wire.message import Message
from kernelproto.wire.transitions import Signal, State

# The time without any message after which the client sends fences.
_FENCE_SECONDS = 1.0

# How long a reply may take after the kernel has finished or passed the request.
_GRACE_SECONDS = 2.0

# The time from "busy" to the first fence, and the time between fences.
_BUSY_FENCE_SECONDS = 30.0
_MOST_FENCES = 6

# How long a reply may take after an answered fence if "busy" was the last sign of the request.
_LOST_SECONDS = 60.0

# How long a reply may take if only the fence on the other channel was answered.
_GRACE_BESIDE_SECONDS = 5.0

# After a deadline the message may have arrived and be unread, because the application was busy: the
# time that the client still waits for this message.
CATCHING_UP_SECONDS = 0.1

# The fences of a request: the channel, and whether this is the request's own channel.
_FENCES: Mapping[ChannelName, Sequence[tuple[ChannelName, bool]]] = {
    "shell": [("shell", True)],
    "control": [("control", True), ("shell", False)],
}


class Reply(Waiter[Message]):
    """Waits for the reply to a plain request. Implements Pending.

    Attributes:
        is_begun: whether "busy" is the last sign of the request.
    """

    __slots__ = ("_deadline", "_passed", "_reported", "_scope", "is_begun")

    def __init__(self) -> None:
        super().__init__()
        self.is_begun = False
        self._passed = False
        self._reported = False
        self._deadline = math.inf
        self._scope: anyio.CancelScope | None = None

    def receive(self, event: Event) -> None:
        """Take in a message; see Pending."""
        if event.request is not None and event.request.reply is not None:
            self.set(event.request.reply)
        elif event.request is not None and event.request.state is State.LOST:
            self.is_begun = False
            self._wait_until(-math.inf)
        elif event.signal is Signal.BUSY:
            self._reported = self.is_begun = True
            patience = _LOST_SECONDS if self._passed else math.inf
            self._wait_until(anyio.current_time() + patience)
        elif event.signal is Signal.IDLE:
            self._reported = True
            self.is_begun = False
            self._wait_until(anyio.current_time() + _GRACE_SECONDS)

    def note_fence(self, *, own: bool) -> None:
        """Take note of the answer to a fence.

        Args:
            own: whether the fence was sent on the channel of the request.
        """
        self._passed |= own
        if not self._reported:
            seconds = _GRACE_SECONDS if own else _GRACE_BESIDE_SECONDS
        elif self.is_begun and own:
            seconds = _LOST_SECONDS
        else:
            return
        self._wait_until(min(self._deadline, anyio.current_time() + seconds))

    async def wait_for_it(
        self,
        send_fences: Callable[[], Coroutine[Any, Any, None]],
        catch_up: Callable[[], Awaitable[bool]],
    ) -> Message | None:
        """Wait for the reply; return None if no reply will come.

        Args:
            send_fences: sends the fences of the request.
            catch_up: waits until the received messages are read.

        Raises:
            Exception: a copy of the error that ``fail`` was called with.
        """
        with anyio.move_on_after(_FENCE_SECONDS):
            return await self.wait()
        # In a task of its own: the kernel can answer on control while shell is not read.
        async with background_tasks() as tasks:
            tasks.start_soon(self._send_fences, send_fences)
            unread = True
            while unread:
                with anyio.CancelScope(deadline=self._deadline) as self._scope:
                    return await self.wait()
                unread = await catch_up()
            if self.is_set:
                return await self.wait()
            with anyio.move_on_after(CATCHING_UP_SECONDS) as self._scope:
                return await self.wait()
        return None

    async def _send_fences(self, send: Callable[[], Coroutine[Any, Any, None]]) -> None:
        pause = _BUSY_FENCE_SECONDS
        if self._reported:
            await anyio.sleep(pause)
        for _ in range(_MOST_FENCES):
            await send()
            await anyio.sleep(pause)
            if self._passed:
                return
            pause *= 2

    def _wait_until(self, deadline: float) -> None:
        self._deadline = deadline
        if self._scope is not None:
            self._scope.deadline = deadline


class _Fence:
    """Implements Pending for the fence: an answer shows that the kernel has passed the request."""

    def __init__(self, reply: Reply, own: bool) -> None:
        self._reply = reply
        self._own = own

    def receive(self, event: Event) -> None:
        if event.request is not None and event.request.reply is not None:
            self._reply.note_fence(own=self._own)

    def fail(self, error: Exception) -> None:
        """Count a refused reply as a reply; if the client is closed, the waiting call fails too."""
        self._reply.note_fence(own=self._own)


async def ask(
    dispatcher: Dispatcher, request: Message, channel: ChannelName, *, kernel: str
) -> Message:
    """Send a request and wait for the reply.

    Args:
        dispatcher: sends the request.
        request: any request except an execute_request.
        channel: "shell" or "control".
        kernel: the name of the kernel in the error.

    Raises:
        UnsupportedRequest: the kernel has passed the request without a reply.
        ReplyLost: the kernel has begun the request and went on without a reply.
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
            await dispatcher.send(fence, place, _Fence(reply, own))

    try:
        await dispatcher.send(request, channel, reply)
        found = await reply.wait_for_it(send_fences, dispatcher.catch_up)
    finally:
        for msg_id in sent:
            dispatcher.forget(msg_id)
    if found is None and reply.is_begun:
        raise ReplyLost(
            f"{kernel} began the {request.msg_type}, went on with other requests and sent no "
            "reply: the outcome is unknown"
        )
    if found is None:
        raise UnsupportedRequest(
            f"{kernel} went on without a reply to the {request.msg_type}: it does not support this "
            f"request on {channel}"
        )
    return found
