"""Conversation: what a client has asked of a kernel, and what has become of it.

Theory of operation
===================

The conversation is told what was sent (``sent``) and what arrived (``received``). It answers with
an Event that says whose the arrival is and what it means; it never sends, waits or decides.

Every request that expects a reply is one small automaton. Its states:

    SENT      nothing final has come back yet
    REPLIED   the reply is here; the kernel's "idle" for this request is not
    IDLED     "idle" is here; the reply is not
    TRAILING  both are here; only silence tells that no more outputs come
    DONE      over; the conversation has forgotten the request

An execute_request is over when both its reply (shell or control) and its "idle" (iopub) have
arrived, because these are different sockets and either may come first, and because outputs come
before "idle" but not always before the reply. Any other request is over with its reply. A request
that the kernel aborted produces no outputs, so its reply ends it.

Some kernels say "idle" before the last outputs have left them (``trailing_seconds``). Their
executions stay open, TRAILING, until whoever has the clock finds that it was quiet for that long,
and forgets them.

The tables below are the whole of it; a pair that is not in them changes nothing.

Whose an arrival is (Origin) is told by its parent header: a request that is still open (OWN), one
of this session that is over or was given up (LATE: background threads write whenever they like),
another client's request (FOREIGN), or none at all (KERNEL).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message


class State(StrEnum):
    """How far a request has come."""

    SENT = "sent"
    REPLIED = "replied"
    IDLED = "idled"
    TRAILING = "trailing"
    DONE = "done"


class Signal(StrEnum):
    """What an arriving message means for its request."""

    BUSY = "busy"
    IDLE = "idle"
    OUTPUT = "output"
    INPUT = "input"
    REPLY = "reply"
    ABORT = "abort"
    STARTING = "starting"
    OTHER = "other"


class Origin(StrEnum):
    """Whose request an arriving message belongs to."""

    OWN = "own"
    LATE = "late"
    FOREIGN = "foreign"
    KERNEL = "kernel"


Transitions = Mapping[State, Mapping[Signal, State]]

REPLY_AND_IDLE: Transitions = {
    State.SENT: {
        Signal.REPLY: State.REPLIED,
        Signal.IDLE: State.IDLED,
        Signal.ABORT: State.DONE,
    },
    State.REPLIED: {Signal.IDLE: State.DONE},
    State.IDLED: {Signal.REPLY: State.DONE, Signal.ABORT: State.DONE},
}

REPLY_IDLE_AND_SILENCE: Transitions = {
    State.SENT: {
        Signal.REPLY: State.REPLIED,
        Signal.IDLE: State.IDLED,
        Signal.ABORT: State.DONE,
    },
    State.REPLIED: {Signal.IDLE: State.TRAILING},
    State.IDLED: {Signal.REPLY: State.TRAILING, Signal.ABORT: State.DONE},
}

REPLY_ONLY: Transitions = {
    State.SENT: {Signal.REPLY: State.DONE, Signal.ABORT: State.DONE},
}

_NO_STEPS: Mapping[Signal, State] = {}

_IOPUB_SIGNALS = {
    "stream": Signal.OUTPUT,
    "display_data": Signal.OUTPUT,
    "update_display_data": Signal.OUTPUT,
    "execute_result": Signal.OUTPUT,
    "error": Signal.OUTPUT,
    "clear_output": Signal.OUTPUT,
}

# A kernel that never reports idle must not make the client grow.
_MOST_BUSY = 1024

_STATUS_SIGNALS = {"busy": Signal.BUSY, "idle": Signal.IDLE, "starting": Signal.STARTING}


class Request:
    """A request under way.

    Attributes:
        message: the request itself.
        channel: where it was sent.
        state: how far it has come.
        reply: its reply, once that is here.
        trailing_seconds: how long a silence ends it when it is TRAILING.
    """

    __slots__ = ("_transitions", "channel", "message", "reply", "state", "trailing_seconds")

    def __init__(
        self,
        message: Message,
        channel: ChannelName,
        transitions: Transitions,
        trailing_seconds: float = 0.0,
    ) -> None:
        self.message = message
        self.channel = channel
        self.trailing_seconds = trailing_seconds
        self.state = State.SENT
        self.reply: Message | None = None
        self._transitions = transitions

    def advance(self, signal: Signal) -> bool:
        """Take the step that the table has for *signal*; return whether there is one."""
        state = self._transitions.get(self.state, _NO_STEPS).get(signal)
        if state is None:
            return False
        self.state = state
        return True


class Event(msgspec.Struct, frozen=True):
    """What an arriving message means.

    Attributes:
        signal: its meaning.
        origin: whose request it belongs to.
        message: the message.
        request: that request when the origin is OWN, in the state that the message has brought it
            to.
    """

    signal: Signal
    origin: Origin
    message: Message
    request: Request | None = None


class Conversation:
    """The requests of one client session.

    Args:
        session: the client session id, as it stands in the headers that are sent.

    Attributes:
        trailing_seconds: how long the kernel's outputs may trail behind its reply and "idle"; zero
            for most kernels. It counts for what is sent from then on.
    """

    def __init__(self, session: str) -> None:
        self.trailing_seconds = 0.0
        self._session = session
        self._open: dict[str, Request] = {}
        # Insertion-ordered: the requests, anybody's, that the kernel is busy with.
        self._busy_with: dict[str, None] = {}

    def __len__(self) -> int:
        """How many requests are open."""
        return len(self._open)

    @property
    def kernel_busy(self) -> bool:
        """Whether the kernel works on anybody's request, as far as its status messages tell."""
        return bool(self._busy_with)

    def sent(self, message: Message, channel: ChannelName) -> Request | None:
        """Take note of a message before it is sent.

        Returns:
            The open request, or None for a message that nobody replies to.
        """
        if not message.msg_type.endswith("_request"):
            return None
        transitions = REPLY_ONLY
        if message.msg_type == "execute_request":
            transitions = REPLY_IDLE_AND_SILENCE if self.trailing_seconds else REPLY_AND_IDLE
        request = Request(message, channel, transitions, self.trailing_seconds)
        self._open[message.msg_id] = request
        return request

    def forget(self, msg_id: str) -> None:
        """Give up a request; whatever still arrives for it is LATE."""
        self._open.pop(msg_id, None)

    def received(self, message: Message, channel: ChannelName) -> Event:
        """Say what an arriving message means.

        Raises:
            MalformedMessage: it is a status message whose content cannot be read.
        """
        signal = _signal(message, channel)
        parent = message.parent_header
        if message.header.msg_type == "status":
            self._note_status(signal, parent.msg_id if parent is not None else "")
        if parent is None:
            return Event(signal, Origin.KERNEL, message)
        request = self._open.get(parent.msg_id)
        if request is None:
            origin = Origin.LATE if parent.session == self._session else Origin.FOREIGN
            return Event(signal, origin, message)
        if request.advance(signal):
            if signal is Signal.REPLY or signal is Signal.ABORT:
                request.reply = message
            if request.state is State.DONE:
                del self._open[parent.msg_id]
        return Event(signal, Origin.OWN, message, request)

    def _note_status(self, signal: Signal, parent_id: str) -> None:
        if signal is Signal.BUSY:
            self._busy_with[parent_id] = None
            if len(self._busy_with) > _MOST_BUSY:
                del self._busy_with[next(iter(self._busy_with))]
        elif signal is Signal.IDLE:
            self._busy_with.pop(parent_id, None)
        elif signal is Signal.STARTING:  # again: whatever it was busy with, it is no more
            self._busy_with.clear()


def _signal(message: Message, channel: ChannelName) -> Signal:
    msg_type = message.msg_type
    if channel == "iopub":
        if msg_type == "status":
            return _STATUS_SIGNALS.get(message.content.execution_state, Signal.OTHER)
        return _IOPUB_SIGNALS.get(msg_type, Signal.OTHER)
    if channel == "stdin":
        return Signal.INPUT if msg_type == "input_request" else Signal.OTHER
    if not msg_type.endswith("_reply"):
        return Signal.OTHER
    return Signal.ABORT if _is_aborted(message) else Signal.REPLY


def _is_aborted(reply: Message) -> bool:
    # A reply that cannot be read still ends its request: who waits for it sees what is wrong with
    # it.
    try:
        return getattr(reply.content, "aborted", False)
    except MalformedMessage:
        return False
