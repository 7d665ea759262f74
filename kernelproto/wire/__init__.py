"""The Jupyter messaging format without I/O: bytes in, messages out, and back.

Nothing in this package awaits, opens, sleeps, reads a clock or draws a random number; the caller
provides time and identifiers. ``Session`` is the whole protocol of a client in one object.
"""

from kernelproto.wire.codec import Codec
from kernelproto.wire.connection import CHANNEL_NAMES, ChannelName, ConnectionInfo
from kernelproto.wire.conversation import Conversation, Event, Origin
from kernelproto.wire.message import Frame, Header, Message, MessageFactory
from kernelproto.wire.request import Request
from kernelproto.wire.session import Refusal, Session
from kernelproto.wire.signing import ReplayWindow, Signer
from kernelproto.wire.transitions import Signal, State

__all__ = [
    "CHANNEL_NAMES",
    "ChannelName",
    "Codec",
    "ConnectionInfo",
    "Conversation",
    "Event",
    "Frame",
    "Header",
    "Message",
    "MessageFactory",
    "Origin",
    "Refusal",
    "ReplayWindow",
    "Request",
    "Session",
    "Signal",
    "Signer",
    "State",
]
