"""Traffic: what goes over the WebSockets of all kernels, in numbers. Pure.

A message costs an addition. Only requests, and the replies to them, are looked at.
"""

from __future__ import annotations

from collections.abc import Callable

from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

# Of one client. A request that the kernel ignores is forgotten when so many more have been sent.
_MOST_OPEN_REQUESTS = 1000

_REPLY_CHANNELS = ("shell", "control")

# Called with the msg_type of a request, and the seconds until its reply.
OnRoundTrip = Callable[[str, float], None]


class Traffic:
    """What all clients have sent and were sent.

    Args:
        on_round_trip: called for each request whose reply is sent to its client.

    Attributes:
        received: how many messages clients have sent.
        sent: how many they were sent.
    """

    def __init__(self, on_round_trip: OnRoundTrip) -> None:
        self.received = 0
        self.sent = 0
        self._on_round_trip = on_round_trip

    def requests(self) -> OpenRequests:
        """Return what remembers the requests of one client."""
        return OpenRequests(self._on_round_trip)


class OpenRequests:
    """The requests of one client that wait for their replies.

    Args:
        on_round_trip: as for Traffic.
    """

    def __init__(self, on_round_trip: OnRoundTrip) -> None:
        self._on_round_trip = on_round_trip
        self._open: dict[str, tuple[str, float]] = {}

    def note_sent(self, request: Message, now: float) -> None:
        """Take note of what the client has sent.

        Args:
            request: a message.
            now: the time, in seconds.
        """
        if not request.msg_type.endswith("_request"):
            return  # it has no reply
        self._open[request.msg_id] = request.msg_type, now
        if len(self._open) > _MOST_OPEN_REQUESTS:
            del self._open[next(iter(self._open))]

    def note_answer(self, reply: Message, channel: ChannelName, now: float) -> None:
        """Take note of what is sent to the client, except for what comes from iopub.

        Args:
            reply: a message.
            channel: where it came from.
            now: the time, in seconds.
        """
        parent = reply.parent_header
        if parent is None or channel not in _REPLY_CHANNELS:
            return
        request = self._open.pop(parent.msg_id, None)
        if request is not None:
            msg_type, began_at = request
            self._on_round_trip(msg_type, now - began_at)
