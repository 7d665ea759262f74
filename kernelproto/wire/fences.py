"""Fences: find the executions to which the kernel will not reply.

Theory of operation
===================

A reply to a later request proves the loss (see ``conversation.py``), so the client's own traffic
reveals most losses at once. For the rest, the client looks at the open executions twice a second.
After the last execution of a silent line it sends a *fence*, a request that every kernel answers.
The kernel serves a line in order and answers the fence after the execution. So a fence never ends
running or queued code, and one fence for each line is enough:

- After "idle" the reply may take two seconds. Then kernel_info is the fence: the reply to the fence
  proves the loss. A kernel that is busy with another request by then needs no fence.
- After the reply, and before both, kernel_info is the first fence. Some kernels answer kernel_info
  while code runs; an answer that proves nothing is therefore followed by the second fence, a silent
  execute_request without code. An execution that the fence has overtaken has two more seconds for a
  sign of life.
- An interrupted execution has its fence two seconds later, any other one after ten. A fence that
  was aborted, or is lost as well, is repeated at most six times, each time after twice as long.

Time is counted in looks, so a delay in a busy event loop counts little.
"""

from __future__ import annotations

from collections.abc import Iterator

from kernelproto.wire.connection import ChannelName
from kernelproto.wire.content import ExecuteRequest, KernelInfoRequest
from kernelproto.wire.conversation import Conversation, Event
from kernelproto.wire.message import Message, MessageFactory
from kernelproto.wire.request import Line, Request
from kernelproto.wire.transitions import Signal, State

LOOK_SECONDS = 0.5
_GRACE_LOOKS = 4
_PATIENCE_LOOKS = 20
_MOST_FENCES = 6

# An execution is over with a reply and an "idle", and one of them is here.
_HALF_OVER = (State.IDLED, State.REPLIED)


class Fences:
    """Watches the executions of a conversation; true while any is watched.

    Call ``look`` every LOOK_SECONDS, end the requests of ``lost``, and send the fences of ``due``.

    Args:
        conversation: has the open requests.
        factory: makes the fences.
    """

    def __init__(self, conversation: Conversation, factory: MessageFactory) -> None:
        self._conversation = conversation
        self._factory = factory
        self._watched: dict[str, _Watched] = {}
        self._sent: dict[str, Fence] = {}

    def __bool__(self) -> bool:
        """Whether the last look has found an open execution."""
        return bool(self._watched)

    def note_interrupt(self) -> None:
        """Note an interrupt of the kernel, which may lose a message."""
        for request in self._executions():
            self._watched.setdefault(request.message.msg_id, _Watched(request)).expect_loss()

    def look(self) -> list[str]:
        """Count one look at each open execution.

        Returns:
            The msg_ids of the fences for executions that are over; forget these requests.
        """
        watched: dict[str, _Watched] = {}
        for request in self._executions():
            msg_id = request.message.msg_id
            watched[msg_id] = one = self._watched.get(msg_id) or _Watched(request)
            one.look()
        self._watched = watched
        obsolete = [
            msg_id
            for msg_id, fence in self._sent.items()
            if fence.watched.request.message.msg_id not in watched
        ]
        for msg_id in obsolete:
            del self._sent[msg_id]
        return obsolete

    def lost(self) -> list[Request]:
        """Return the executions with a lost reply, but not those with an unread reply."""
        return [watched.request for watched in self._watched.values() if self._is_lost(watched)]

    def due(self) -> Iterator[Fence]:
        """Make the fences to be sent now, one for each line at the most; send each at once."""
        last: dict[Line, _Watched] = {
            watched.request.line: watched
            for watched in self._watched.values()
            if not watched.request.over
        }
        for watched in last.values():
            if self._needs_fence(watched):
                yield self._fence(watched)

    def _executions(self) -> Iterator[Request]:
        for request in self._conversation.open_requests():
            if request.is_execution and request.message.msg_id not in self._sent:
                yield request

    def _is_lost(self, watched: _Watched) -> bool:
        request = watched.request
        if watched.state is not request.state or watched.looks < _GRACE_LOOKS:
            return False
        if request.state is State.IDLED:
            return self._conversation.kernel_busy
        return request.state is State.OVERTAKEN

    def _needs_fence(self, watched: _Watched) -> bool:
        if watched.state not in (State.SENT, *_HALF_OVER):
            return False
        if watched.state is not State.IDLED and self._conversation.side_by_side:
            return False
        return watched.is_due

    def _fence(self, watched: _Watched) -> Fence:
        watched.fences += 1
        watched.looks = 0
        executes = watched.was_passed and watched.state is not State.IDLED
        watched.was_passed = False
        channel, subshell_id = watched.request.line
        message = self._factory.message(*_content(executes=executes), subshell_id=subshell_id)
        fence = self._sent[message.msg_id] = Fence(message, channel, watched)
        return fence


class Fence:
    """A request with an answer that shows that the kernel has served the earlier requests.

    Attributes:
        message: the request.
        channel: the channel for the fence.
        watched: the execution before the fence.
    """

    __slots__ = ("channel", "message", "watched")

    def __init__(self, message: Message, channel: ChannelName, watched: _Watched) -> None:
        self.message = message
        self.channel: ChannelName = channel
        self.watched = watched

    def receive(self, event: Event) -> None:
        """Take in a message that belongs to the fence."""
        request = event.request
        if event.signal is Signal.REPLY and request is not None and not request.is_execution:
            self.watched.was_passed = not self.watched.request.over

    def fail(self, error: Exception) -> None:
        """Do nothing: the execution fails as well."""


class _Watched:
    """An open execution.

    Attributes:
        request: the execution.
        state: the state at the last look.
        looks: the number of looks in this state, since the last fence.
        fences: the number of fences after the execution in this state.
        was_passed: whether the kernel has answered a kernel_info_request from after the execution.
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
        """Whether a fence is due."""
        if self.was_passed:
            return True
        hurried = self.state in _HALF_OVER or self._expects_loss or self.request.was_overtaken
        looks = _GRACE_LOOKS if hurried else _PATIENCE_LOOKS
        return self.fences < _MOST_FENCES and self.looks >= looks * 2**self.fences

    def look(self) -> None:
        """Count one look."""
        if self.state is self.request.state:
            self.looks += 1
        else:
            self.state = self.request.state
            self.looks = self.fences = 0

    def expect_loss(self) -> None:
        """Send the next fence soon."""
        self._expects_loss = True
        self.looks = self.fences = 0


def _content(*, executes: bool) -> tuple[str, ExecuteRequest | KernelInfoRequest]:
    if not executes:
        return "kernel_info_request", KernelInfoRequest()
    return "execute_request", ExecuteRequest(
        code="", silent=True, store_history=False, allow_stdin=False, stop_on_error=False
    )
