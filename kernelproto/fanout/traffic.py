"""Traffic: the requests of clients, and the messages in both directions, counted. Pure.

``OpenRequests`` measures how long one client waits for replies. ``Unanswered`` has the requests
that a kernel leaves unanswered at its death or restart: a request ends with its reply and its
status "idle". The server sends both on behalf of the kernel, or the client would wait indefinitely.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

_REQUEST, _REPLY = "_request", "_reply"
_CHANNELS = ("shell", "control")

# The bound of OpenRequests, for one client. Beyond this bound the oldest request is forgotten.
_MOST_OPEN_REQUESTS = 1000

# The bounds of Unanswered, for all clients of a kernel. Beyond them the oldest request is
# forgotten, and gets no reply if the kernel dies.
_MOST_REQUESTS = 10_000
_MOST_BYTES = 4 * 2**20

# Called with the msg_type of a request, and the seconds until the reply.
OnRoundTrip = Callable[[str, float], None]


class Traffic:
    """The messages between all clients and their kernels.

    Args:
        on_round_trip: called when the reply to a request is sent to the client.

    Attributes:
        received: the number of messages from clients.
        sent: the number of messages to clients.
    """

    def __init__(self, on_round_trip: OnRoundTrip) -> None:
        self.received = 0
        self.sent = 0
        self._on_round_trip = on_round_trip

    def requests(self) -> OpenRequests:
        """Return an empty table for the requests of one client."""
        return OpenRequests(self._on_round_trip)


class OpenRequests:
    """The requests of one client that wait for their replies.

    Args:
        on_round_trip: as for Traffic.
    """

    def __init__(self, on_round_trip: OnRoundTrip) -> None:
        self._on_round_trip = on_round_trip
        self._open: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def note_sent(self, request: Message, now: float) -> None:
        """Note a message of the client; only requests matter.

        Args:
            request: the message.
            now: the time, in seconds.
        """
        if not request.msg_type.endswith(_REQUEST):
            return
        self._open[request.msg_id] = request.msg_type, now
        if len(self._open) > _MOST_OPEN_REQUESTS:
            self._open.popitem(last=False)

    def note_answer(self, reply: Message, channel: ChannelName, now: float) -> None:
        """Note a message to the client; only replies matter.

        Args:
            reply: the message.
            channel: the channel.
            now: the time, in seconds.
        """
        parent = reply.parent_header
        if parent is None or channel not in _CHANNELS:
            return
        request = self._open.pop(parent.msg_id, None)
        if request is not None:
            msg_type, began_at = request
            self._on_round_trip(msg_type, now - began_at)


@dataclass(slots=True)
class Request:
    """A request that has not ended.

    Attributes:
        message: the request, without the content.
        channel: the channel of the request.
        replied: whether the kernel has replied.
        idle: whether the kernel has sent "idle" for this request.
        begun: whether the kernel has sent more than states for this request.
        input: the execute_input of this request, if the kernel has sent it.
        error: the error of this request, if the kernel has sent one.
        inherited: whether an earlier server has sent the request.
        resumed: whether the kernel has sent a message about the request to this server.
        execution_count: the count in the execute_input that an earlier server has received.
    """

    message: Message
    channel: ChannelName
    replied: bool = field(default=False)
    idle: bool = field(default=False)
    begun: bool = field(default=False)
    input: Message | None = field(default=None)
    error: Message | None = field(default=None)
    inherited: bool = field(default=False)
    resumed: bool = field(default=False)
    execution_count: int | None = field(default=None)

    @property
    def reply_type(self) -> str:
        """The msg_type of the reply."""
        return self.message.msg_type.removesuffix(_REQUEST) + _REPLY


class Unanswered:
    """The requests of all clients of one kernel, bounded in number and bytes, oldest first.

    Attributes:
        inherited_traffic: the number of messages about requests of an earlier server.
    """

    def __init__(self) -> None:
        self._requests: OrderedDict[str, Request] = OrderedDict()
        self._bytes = 0
        self.inherited_traffic = 0

    def __iter__(self) -> Iterator[Request]:
        return iter(list(self._requests.values()))

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def running(self) -> Message | None:
        """The oldest execute_request without a reply; the kernel runs this one."""
        return next(
            (
                request.message
                for request in self._requests.values()
                if request.message.msg_type == "execute_request" and not request.replied
            ),
            None,
        )

    def note_sent(self, message: Message, channel: ChannelName) -> None:
        """Note a client's message; only requests matter."""
        if channel not in _CHANNELS or not message.msg_type.endswith(_REQUEST):
            return
        self._remove(message.msg_id)
        # A copy of the header: the original would keep the whole received message in memory.
        header = bytes(message.raw_header)
        bare = Message(message.header, None, (header, b"{}", b"{}", b"{}"))
        self._requests[message.msg_id] = Request(bare, channel)
        self._bytes += len(header)
        while len(self._requests) > _MOST_REQUESTS or self._bytes > _MOST_BYTES:
            self._remove(next(iter(self._requests)))

    def inherit(self, request: Request) -> None:
        """Note a request that an earlier server has sent, after the earlier ones."""
        self.note_sent(request.message, request.channel)
        noted = self._requests.get(request.message.msg_id)
        if noted is not None:
            noted.inherited = True
            noted.execution_count = request.execution_count
            noted.begun = request.execution_count is not None

    def resume(self, message: Message) -> Request | None:
        """Return the inherited request that ran before this first message about it."""
        parent = message.parent_header
        request = None if parent is None else self._requests.get(parent.msg_id)
        if request is None or not request.inherited or request.resumed:
            return None
        request.resumed = True
        return None if _has_state(message, "busy") else request

    def note_received(self, message: Message, channel: ChannelName) -> bool:
        """Note a kernel's message; return whether a request changes."""
        parent = message.parent_header
        request = None if parent is None else self._requests.get(parent.msg_id)
        if request is None:
            return False
        if request.inherited:
            self.inherited_traffic += 1
        if channel == "iopub":
            request.begun |= message.msg_type != "status"
            if message.msg_type == "execute_input":
                request.input = message
                return True
            if message.msg_type == "error":
                request.error = message
            request.idle |= _has_state(message, "idle")
        elif channel == request.channel and message.msg_type.endswith(_REPLY):
            request.replied = True
        if request.replied and request.idle:
            self._remove(request.message.msg_id)
            return True
        return False

    def take(self, msg_id: str | None = None) -> Iterator[Request]:
        """Remove one request, or all, oldest first, and yield each."""
        for key in list(self._requests) if msg_id is None else [msg_id]:
            request = self._requests.get(key)
            if request is not None:
                self._remove(key)
                yield request

    def _remove(self, msg_id: str) -> None:
        request = self._requests.pop(msg_id, None)
        if request is not None:
            self._bytes -= len(request.message.raw_header)


def announces_more(message: Message) -> bool:
    """Return whether the kernel will send "idle" after this message of a request."""
    return message.parent_header is not None and not _has_state(message, "idle")


def _has_state(message: Message, state: str) -> bool:
    if message.msg_type != "status":
        return False
    try:
        return bool(message.content.execution_state == state)
    except MalformedMessage:
        return False
