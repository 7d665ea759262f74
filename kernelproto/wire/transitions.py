"""The states of a request, and the signals that change them; see ``conversation.py``."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class State(StrEnum):
    """The state of a request."""

    SENT = "sent"
    OVERTAKEN = "overtaken"
    REPLIED = "replied"
    IDLED = "idled"
    TRAILING = "trailing"
    LOST = "lost"
    DONE = "done"


class Signal(StrEnum):
    """The effect of a message on a request; the last two affect the earlier requests."""

    BUSY = "busy"
    IDLE = "idle"
    OUTPUT = "output"
    INPUT = "input"
    REPLY = "reply"
    ABORT = "abort"
    STARTING = "starting"
    OTHER = "other"
    LATER_REPLY = "later_reply"
    LATER_DONE = "later_done"


Transitions = Mapping[State, Mapping[Signal, State]]

_OVERTAKEN: Mapping[Signal, State] = {
    Signal.BUSY: State.SENT,
    Signal.OUTPUT: State.SENT,
    Signal.INPUT: State.SENT,
    Signal.REPLY: State.REPLIED,
    Signal.IDLE: State.IDLED,
    Signal.ABORT: State.DONE,
}

REPLY_AND_IDLE: Transitions = {
    State.SENT: {
        Signal.REPLY: State.REPLIED,
        Signal.IDLE: State.IDLED,
        Signal.ABORT: State.DONE,
        Signal.LATER_REPLY: State.OVERTAKEN,
    },
    State.OVERTAKEN: _OVERTAKEN,
    State.REPLIED: {Signal.IDLE: State.DONE, Signal.LATER_DONE: State.DONE},
    State.IDLED: {
        Signal.REPLY: State.DONE,
        Signal.ABORT: State.DONE,
        Signal.LATER_REPLY: State.LOST,
    },
}

REPLY_IDLE_AND_SILENCE: Transitions = {
    State.SENT: REPLY_AND_IDLE[State.SENT],
    State.OVERTAKEN: _OVERTAKEN,
    State.REPLIED: {Signal.IDLE: State.TRAILING, Signal.LATER_DONE: State.DONE},
    State.IDLED: {
        Signal.REPLY: State.TRAILING,
        Signal.ABORT: State.DONE,
        Signal.LATER_REPLY: State.LOST,
    },
}

REPLY_ONLY: Transitions = {
    State.SENT: {Signal.REPLY: State.DONE, Signal.ABORT: State.DONE},
}
