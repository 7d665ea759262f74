"""Request: an open request of a client, with its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message
from kernelproto.wire.transitions import REPLY_ONLY, Signal, State, Transitions

Line: TypeAlias = tuple[ChannelName, str | None]
"""A channel and a subshell: a kernel serves the requests of a line in order."""

_NO_STEPS: Mapping[Signal, State] = {}

_OVER = (State.DONE, State.LOST)


class Request:
    """An open request.

    Attributes:
        number: the place in the order of the requests of the session.
        message: the message of the request.
        channel: the channel on which the request was sent.
        line: the requests that the kernel serves in order with this one.
        is_execution: whether this is an execute_request.
        is_open: whether the request is neither over nor forgotten.
        state: the state.
        reply: the reply, once received.
        was_overtaken: whether the kernel has ever replied to a later execution before this one.
        busy_at: the number of the request's "busy" among the status messages; None before.
        idle_at: the number of the request's "idle"; None before.
        trailing_seconds: the length of the silence that ends a TRAILING request.
    """

    __slots__ = (
        "_transitions",
        "busy_at",
        "channel",
        "idle_at",
        "is_execution",
        "is_open",
        "line",
        "message",
        "number",
        "reply",
        "state",
        "trailing_seconds",
        "was_overtaken",
    )

    def __init__(
        self,
        message: Message,
        channel: ChannelName,
        transitions: Transitions,
        trailing_seconds: float = 0.0,
        *,
        number: int = 0,
    ) -> None:
        self.number = number
        self.message = message
        self.channel = channel
        self.line: Line = (channel, message.header.subshell_id)
        self.is_execution = transitions is not REPLY_ONLY
        self.trailing_seconds = trailing_seconds
        self.is_open = True
        self.state = State.SENT
        self.reply: Message | None = None
        self.was_overtaken = False
        self.busy_at: int | None = None
        self.idle_at: int | None = None
        self._transitions = transitions

    @property
    def over(self) -> bool:
        """Whether no more messages are expected for the request."""
        return self.state in _OVER

    def advance(self, signal: Signal) -> bool:
        """Make the table's transition for *signal*; return whether the table has one."""
        state = self._transitions.get(self.state, _NO_STEPS).get(signal)
        if state is None:
            return False
        self.state = state
        return True
