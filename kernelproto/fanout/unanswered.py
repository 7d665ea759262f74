"""Unanswered: the requests that clients have sent to a kernel and that have not ended yet. Pure.

A request has ended when its reply and its "idle" have come. A kernel that dies, or is restarted,
sends neither, so the server does it for the kernel: else a client would wait for ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

# Of all clients of a kernel. Beyond that the oldest request is forgotten, and gets no reply if the
# kernel dies.
_MOST_REQUESTS = 10_000
_MOST_BYTES = 4 * 2**20

_REQUEST, _REPLY = "_request", "_reply"
_CHANNELS = ("shell", "control")


@dataclass(slots=True)
class Request:
    """A request that has not ended.

    Attributes:
        message: the request, with an empty content.
        channel: where it was sent.
        replied: whether its reply has come.
        idle: whether its "idle" has come.
    """

    message: Message
    channel: ChannelName
    replied: bool = field(default=False)
    idle: bool = field(default=False)

    @property
    def reply_type(self) -> str:
        """The msg_type of its reply."""
        return self.message.msg_type.removesuffix(_REQUEST) + _REPLY


class Unanswered:
    """The requests of all clients of one kernel, bounded in number and bytes."""

    def __init__(self) -> None:
        self._requests: dict[str, Request] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def running(self) -> Message | None:
        """The oldest execute_request without a reply, which is the one that the kernel runs."""
        return next(
            (
                request.message
                for request in self._requests.values()
                if request.message.msg_type == "execute_request" and not request.replied
            ),
            None,
        )

    def note_sent(self, message: Message, channel: ChannelName) -> None:
        """Take note of a client's message; only requests matter."""
        if channel not in _CHANNELS or not message.msg_type.endswith(_REQUEST):
            return
        self._remove(message.msg_id)
        # Neither the content nor the buffer that the header is part of is kept.
        header = bytes(message.raw_header)
        bare = Message(message.header, None, (header, b"{}", b"{}", b"{}"))
        self._requests[message.msg_id] = Request(bare, channel)
        self._bytes += len(header)
        while len(self._requests) > _MOST_REQUESTS or self._bytes > _MOST_BYTES:
            self._remove(next(iter(self._requests)))

    def note_received(self, message: Message, channel: ChannelName) -> None:
        """Take note of a kernel's message."""
        parent = message.parent_header
        request = None if parent is None else self._requests.get(parent.msg_id)
        if request is None:
            return
        if channel == "iopub":
            request.idle |= _is_idle(message)
        elif channel == request.channel and message.msg_type.endswith(_REPLY):
            request.replied = True
        if request.replied and request.idle:
            self._remove(request.message.msg_id)

    def take(self, msg_id: str | None = None) -> Iterator[Request]:
        """Remove one request, or all, oldest first; give each."""
        for key in list(self._requests) if msg_id is None else [msg_id]:
            request = self._requests.get(key)
            if request is not None:
                self._remove(key)
                yield request

    def _remove(self, msg_id: str) -> None:
        request = self._requests.pop(msg_id, None)
        if request is not None:
            self._bytes -= len(request.message.raw_header)


def _is_idle(message: Message) -> bool:
    if message.msg_type != "status":
        return False
    try:
        return bool(message.content.execution_state == "idle")
    except MalformedMessage:
        return False
