"""Conversation: the requests of a client, and the state of each.

Theory of operation
===================

The client reports each sent message (``sent``) and each received message (``received``). For an
arrival, the conversation returns an Event: the request that the message belongs to, and the meaning
of the message. The conversation never sends, waits or decides.

Every request that expects a reply is one small automaton. Its states:

    SENT       nothing final has come back yet
    OVERTAKEN  nothing either, but the kernel has replied to a later execution
    REPLIED    the reply is here; the kernel's "idle" for this request is not
    IDLED      "idle" is here; the reply is not
    TRAILING   both are here; only silence tells that no more outputs come
    LOST       over without a reply: none will come
    DONE       over

An execute_request is over when both its reply (shell or control) and its "idle" (iopub) have
arrived, because these are different sockets and either message may come first, and because outputs
come before "idle" but not always before the reply. Any other request is over with its reply. A
request that the kernel aborted produces no outputs, so its reply ends it. The conversation forgets
a request that is over.

Some kernels say "idle" before the last outputs have left them (``trailing_seconds``). Their
executions stay open, TRAILING, until the client, which has the clock, has heard nothing for that
long and forgets them.

Lost replies
------------

A kernel may lose a reply, an "idle", or both, because the kernel's code raised unexpectedly, or an
interrupt came between two messages. The order of the messages proves the loss. Requests with the
same channel and subshell are one *line*: a kernel serves a line in order and replies in order. So a
reply to one request is a signal to the earlier ones of its line:

    LATER_REPLY  the kernel has replied to a later request
    LATER_DONE   a later execution is over

- After "idle", LATER_REPLY proves that the reply is lost, unless the later request was begun before
  that "idle": the kernel then serves the two side by side.
- After the reply, LATER_DONE proves that "idle" is lost: the result is there.
- Before both, a later reply proves little. Some kernels answer other requests while code runs, so
  only the reply to an execution counts. A few kernels run even executions side by side
  (``side_by_side``), so the request is not LOST, but OVERTAKEN: a sign of life revokes that, and
  ``give_up`` ends it after a silence. A reply out of order shows that a kernel is one of those few.

An aborted reply proves nothing: a kernel may abort its queue before it replies to the execution
that has failed.

The tables of ``transitions.py`` have all transitions; a pair that is not in them changes nothing.

The parent header of an arrival tells the Origin: a request that is still open (OWN), a request of
this session that is over or was given up (LATE: background threads write at any time), another
client's request (FOREIGN), or no request (KERNEL).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.large_json import is_large
from kernelproto.wire.lines import Lines
from kernelproto.wire.message import Message
from kernelproto.wire.request import Request
from kernelproto.wire.transitions import (
    REPLY_AND_IDLE,
    REPLY_IDLE_AND_SILENCE,
    REPLY_ONLY,
    Signal,
    State,
)


class Origin(StrEnum):
    """The sender of the request that an arriving message belongs to."""

    OWN = "own"
    LATE = "late"
    FOREIGN = "foreign"
    KERNEL = "kernel"


# For each output: a name of the module is read faster than a member of an enumeration.
_OTHER = Signal.OTHER
_OWN = Origin.OWN

_IOPUB_SIGNALS = {
    "stream": Signal.OUTPUT,
    "display_data": Signal.OUTPUT,
    "update_display_data": Signal.OUTPUT,
    "execute_result": Signal.OUTPUT,
    "error": Signal.OUTPUT,
    "clear_output": Signal.OUTPUT,
}

_QUESTION = "kernel_info_request"

# A kernel that never reports idle must not make the client grow.
_MOST_BUSY = 1024

_STATUS_SIGNALS = {"busy": Signal.BUSY, "idle": Signal.IDLE, "starting": Signal.STARTING}


class Event(msgspec.Struct, frozen=True):
    """The meaning of an arriving message.

    Attributes:
        signal: the meaning.
        origin: the sender of the message's request.
        message: the message.
        request: that request if the origin is OWN, in the new state.
        ended: the earlier requests that the message has ended.
    """

    signal: Signal
    origin: Origin
    message: Message
    request: Request | None = None
    ended: tuple[Request, ...] = ()


class Conversation:
    """The requests of one client session.

    Args:
        session: the client session id in the headers of sent messages.

    Attributes:
        trailing_seconds: how long after the reply and "idle" the kernel's outputs may arrive; zero
            for most kernels. A change applies to later requests.
        side_by_side: whether the kernel is known to run executions of one line side by side.
    """

    def __init__(self, session: str) -> None:
        self.trailing_seconds = 0.0
        self.side_by_side = False
        self._statuses = itertools.count()
        self._session = session
        self._numbers = itertools.count()
        self._open: dict[str, Request] = {}
        self._lines = Lines()
        # Insertion-ordered: the requests of any client that the kernel is busy with, and whether
        # each is another client's.
        self._busy_with: OrderedDict[str, bool] = OrderedDict()
        self._waits_for: str | None = None

    def __len__(self) -> int:
        """How many requests are open."""
        return len(self._open)

    @property
    def kernel_busy(self) -> bool:
        """Whether the kernel works on a request of any client, according to the messages."""
        return bool(self._busy_with or self._waits_for)

    @property
    def serves_others(self) -> bool:
        """Whether the kernel works on another client's request, according to the messages."""
        return self._waits_for is not None or any(self._busy_with.values())

    def sent(self, message: Message, channel: ChannelName) -> Request | None:
        """Note a message before it is sent.

        Returns:
            The open request, or None for a message that has no reply.
        """
        if not message.msg_type.endswith("_request"):
            return None
        transitions = REPLY_ONLY
        if message.msg_type == "execute_request":
            transitions = REPLY_IDLE_AND_SILENCE if self.trailing_seconds else REPLY_AND_IDLE
        number = next(self._numbers)
        request = Request(message, channel, transitions, self.trailing_seconds, number=number)
        self._open[message.msg_id] = request
        if request.is_execution:
            self._lines.add(request)
        return request

    def forget(self, msg_id: str) -> None:
        """Forget a request; later messages for this request are LATE."""
        request = self._open.pop(msg_id, None)
        if request is not None and request.is_execution:
            self._lines.remove(request)

    def give_up(self, request: Request) -> None:
        """End an open request without a reply, after a silence that leaves no other explanation."""
        request.state = State.LOST
        self._end(request)

    def assume_busy(self, msg_id: str) -> None:
        """Treat the kernel as busy until the answer to the request *msg_id*.

        For a client that connects to a busy kernel, and so has missed the last "busy".
        """
        self._waits_for = msg_id

    def open_requests(self) -> Iterator[Request]:
        """Return the open requests in the order in which they were sent."""
        return iter(self._open.values())

    def received(self, message: Message, channel: ChannelName) -> Event:
        """Return the meaning of an arriving message.

        Raises:
            MalformedMessage: the message is a status message and cannot be read.
        """
        signal = _signal(message, channel)
        parent = message.parent_header
        is_status = message.header.msg_type == "status"
        if is_status:
            if parent is None:
                self._note_status(signal, "", False)
            elif parent.msg_type != _QUESTION:  # sent without the user, and not work
                self._note_status(signal, parent.msg_id, parent.session != self._session)
        if parent is None:
            return Event(signal, Origin.KERNEL, message)
        if parent.msg_id == self._waits_for:
            self._waits_for = None
        request = self._open.get(parent.msg_id)
        if request is None:
            origin = Origin.LATE if parent.session == self._session else Origin.FOREIGN
            return Event(signal, origin, message)
        if is_status:
            self._number(request, signal)
        if not request.advance(signal):
            return Event(signal, _OWN, message, request)
        if request.is_execution:
            self._lines.note(request)
        ended: tuple[Request, ...] = ()
        if signal is Signal.REPLY or signal is Signal.ABORT:
            request.reply = message
            if signal is Signal.REPLY:
                self.side_by_side |= request.was_overtaken
                ended = self._tell_earlier(request, Signal.LATER_REPLY)
        if request.state is State.DONE or request.state is State.TRAILING:
            if request.is_execution and signal is not Signal.ABORT:
                ended += self._tell_earlier(request, Signal.LATER_DONE)
            if request.state is State.DONE:
                self.forget(parent.msg_id)
        return Event(signal, Origin.OWN, message, request, ended)

    def _number(self, request: Request, signal: Signal) -> None:
        number = next(self._statuses)
        if signal is Signal.BUSY and request.busy_at is None:
            request.busy_at = number
        elif signal is Signal.IDLE and request.idle_at is None:
            request.idle_at = number

    def _tell_earlier(self, request: Request, signal: Signal) -> tuple[Request, ...]:
        """Send a signal to the earlier requests of the line; return the ended requests."""
        in_order = request.is_execution and not self.side_by_side
        if signal is Signal.LATER_REPLY:
            for earlier in self._lines.sent_before(request) if in_order else ():
                earlier.advance(signal)
                earlier.was_overtaken = True
            ended = self._lines.idled_before(request)
        else:
            ended = self._lines.replied_before(request) if in_order else []
        for earlier in ended:
            earlier.advance(signal)
            self._end(earlier)
        return tuple(ended)

    def _end(self, request: Request) -> None:
        """Forget a request after the loss of the reply or "idle"."""
        msg_id = request.message.msg_id
        self.forget(msg_id)
        self._busy_with.pop(msg_id, None)

    def _note_status(self, signal: Signal, parent_id: str, foreign: bool) -> None:
        if signal is Signal.BUSY:
            self._busy_with[parent_id] = foreign
            if len(self._busy_with) > _MOST_BUSY:
                self._busy_with.popitem(last=False)
        elif signal is Signal.IDLE:
            self._busy_with.pop(parent_id, None)
        elif signal is Signal.STARTING:  # after a restart; all earlier work has ended
            self._busy_with.clear()
            self._waits_for = None


def _signal(message: Message, channel: ChannelName) -> Signal:
    msg_type = message.header.msg_type
    if channel == "iopub":
        if msg_type == "status":
            return _STATUS_SIGNALS.get(message.content.execution_state, _OTHER)
        return _IOPUB_SIGNALS.get(msg_type, _OTHER)
    if channel == "stdin":
        return Signal.INPUT if msg_type == "input_request" else Signal.OTHER
    if not msg_type.endswith("_reply"):
        return Signal.OTHER
    return Signal.ABORT if _is_aborted(message) else Signal.REPLY


def _is_aborted(reply: Message) -> bool:
    # The large content of an own reply is read before. Other large contents are not read here.
    if not reply.is_read and is_large(reply.parts[3]):
        return False
    # An unreadable reply still ends the request: the caller gets the error.
    try:
        return getattr(reply.content, "aborted", False)
    except MalformedMessage:
        return False
