"""The Jupyter messaging format without IO: bytes in, messages out, and back.

Nothing in this package awaits, opens, sleeps, reads a clock or draws a random number; what it needs
of the world is handed in.
"""

from kernelproto.wire.codec import Codec
from kernelproto.wire.connection import CHANNEL_NAMES, ChannelName, ConnectionInfo
from kernelproto.wire.conversation import Conversation, Event, Origin, Request
from kernelproto.wire.message import Frame, Header, Message, MessageFactory
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
    "ReplayWindow",
    "Request",
    "Signal",
    "Signer",
    "State",
]
