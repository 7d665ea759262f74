"""LostReplies: finds the executions to which the kernel will not reply.

Theory of operation
===================

A reply to a later request proves the loss (see ``wire/conversation.py``), so the client's own
traffic reveals most losses at once. For the rest, a task looks at the open executions twice a
second. Behind the last execution of a line that is silent it sends a *fence*, a request that every
kernel answers. The kernel comes to the fence when it is done with the execution, so a fence cannot
strike code that runs or waits for its turn, and one fence for each line is enough:

- After "idle" the reply may take two seconds. Then kernel_info is the fence: its reply proves the
  loss. A kernel that is busy with something else by then needs none.
- After the reply, and before both, kernel_info is the first fence. Some kernels answer it while
  code runs; an answer that proves nothing is therefore followed by the second fence, a silent
  execute_request without code. An execution that it has overtaken has two more seconds for a sign
  of life.
- An execution that was interrupted has its fence two seconds later, any other one after ten. A
  fence that was aborted, or is lost as well, is repeated: each time after twice as long, six times
  at the most.

Time is counted in looks, so the time that a busy application keeps from its event loop counts
little.
"""

from __future__ import annotations

from contextlib import suppress

import anyio

from kernelproto.client.dispatcher import Dispatcher
from kernelproto.client.reply import CATCHING_UP_SECONDS
from kernelproto.concurrency.task_groups import StartTask
from kernelproto.exceptions import KernelProtoError
from kernelproto.wire.content import ExecuteRequest, KernelInfoRequest
from kernelproto.wire.conversation import Event, Line, Request
from kernelproto.wire.transitions import Signal, State

_LOOK_SECONDS = 0.5
_GRACE_LOOKS = 4
_PATIENCE_LOOKS = 20
_MOST_FENCES = 6

# An execution is over with a reply and an "idle", and one of them is here.
_HALF_OVER = (State.IDLED, State.REPLIED)


class LostReplies:
    """Watches the executions of one client while there are any.

    Args:
        dispatcher: sends the fences, and ends the executions.
        start_task: runs the task.
    """

    def __init__(self, dispatcher: Dispatcher, start_task: StartTask) -> None:
        self._dispatcher = dispatcher
        self._start_task = start_task
        self._watching = False
        self._watched: dict[str, _Watched] = {}
        self._fences: dict[str, _Fence] = {}

    def watch(self) -> None:
        """See that a task looks at the open executions."""
        if not self._watching:
            self._watching = True
            self._start_task(self._watch)

    def note_interrupt(self) -> None:
        """Take note that the kernel was interrupted, which may cost it a message."""
        for request in self._dispatcher.conversation.open_requests():
            if request.is_execution and request.message.msg_id not in self._fences:
                watched = self._watched.setdefault(request.message.msg_id, _Watched(request))
                watched.expect_loss()

    async def _watch(self) -> None:
        try:
            with suppress(KernelProtoError):  # nothing can be sent any more: nothing is open
                await anyio.sleep(_LOOK_SECONDS)
                while self._look():
                    await self._act()
                    await anyio.sleep(_LOOK_SECONDS)
        finally:
            self._watching = False

    def _look(self) -> bool:
        """Count one look at each open execution; return whether there are any."""
        watched: dict[str, _Watched] = {}
        for request in self._dispatcher.conversation.open_requests():
            msg_id = request.message.msg_id
            if request.is_execution and msg_id not in self._fences:
                watched[msg_id] = one = self._watched.get(msg_id) or _Watched(request)
                one.look()
        self._watched = watched
        for msg_id, fence in list(self._fences.items()):
            if fence.watched.request.message.msg_id not in watched:
                del self._fences[msg_id]
                self._dispatcher.forget(msg_id)
        return bool(watched)

    async def _act(self) -> None:
        lost = [watched for watched in self._watched.values() if self._is_lost(watched)]
        if lost:
            # The reply may be here, unread.
            await anyio.sleep(CATCHING_UP_SECONDS)
            for watched in lost:
                if self._is_lost(watched):
                    self._dispatcher.give_up(watched.request)
        last: dict[Line, _Watched] = {
            watched.request.line: watched
            for watched in self._watched.values()
            if not watched.request.over
        }
        for watched in last.values():
            if self._needs_fence(watched):
                await self._send_fence(watched)

    def _is_lost(self, watched: _Watched) -> bool:
        request = watched.request
        if watched.state is not request.state or watched.looks < _GRACE_LOOKS:
            return False
        if request.state is State.IDLED:
            return self._dispatcher.conversation.kernel_busy
        return request.state is State.OVERTAKEN

    def _needs_fence(self, watched: _Watched) -> bool:
        if watched.state not in (State.SENT, *_HALF_OVER):
            return False
        if watched.state is not State.IDLED and self._dispatcher.conversation.side_by_side:
            return False
        return watched.is_due

    async def _send_fence(self, watched: _Watched) -> None:
        request = watched.request
        watched.fences += 1
        watched.looks = 0
        fence = self._dispatcher.factory.message(
            *_content(executes=watched.was_passed and watched.state is not State.IDLED),
            subshell_id=request.message.header.subshell_id,
        )
        watched.was_passed = False
        self._fences[fence.msg_id] = pending = _Fence(watched)
        channel, _ = request.line
        await self._dispatcher.send(fence, channel, pending)


class _Watched:
    """An open execution.

    Attributes:
        request: the execution.
        state: the state in which it was seen last.
        looks: how many times it was seen like that, since the last fence.
        fences: how many fences are behind it since it has this state.
        was_passed: whether the kernel has answered a kernel_info_request behind it.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self.state = request.state
        self.looks = 0
        self.fences = 0
        self.was_passed = False
        self._expects_loss = False

    @property
    def is_due(self) -> bool:
        """Whether it is time for a fence."""
        if self.was_passed:
            return True
        hurried = self.state in _HALF_OVER or self._expects_loss or self.request.was_overtaken
        looks = _GRACE_LOOKS if hurried else _PATIENCE_LOOKS
        return self.fences < _MOST_FENCES and self.looks >= looks * 2**self.fences

    def look(self) -> None:
        """Look at it once."""
        if self.state is self.request.state:
            self.looks += 1
        else:
            self.state = self.request.state
            self.looks = self.fences = 0

    def expect_loss(self) -> None:
        """Send the next fence soon."""
        self._expects_loss = True
        self.looks = self.fences = 0


class _Fence:
    """Implements Pending for a request that only shows that the kernel has come so far."""

    def __init__(self, watched: _Watched) -> None:
        self.watched = watched

    def receive(self, event: Event) -> None:
        request = event.request
        if event.signal is Signal.REPLY and request is not None and not request.is_execution:
            self.watched.was_passed = not self.watched.request.over

    def fail(self, error: Exception) -> None:
        """Do nothing: the execution fails as well."""


def _content(*, executes: bool) -> tuple[str, ExecuteRequest | KernelInfoRequest]:
    if not executes:
        return "kernel_info_request", KernelInfoRequest()
    return "execute_request", ExecuteRequest(
        code="", silent=True, store_history=False, allow_stdin=False, stop_on_error=False
    )
