"""jupyter_server's limits for the outputs of a WebSocket, and its traceback setting. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import msgspec

from kernelproto.exceptions import MalformedMessage
from kernelproto.wire.large_json import LARGE_BYTES
from kernelproto.wire.message import Message

# Outputs of these types are neither counted nor discarded.
_EXEMPT = {"status", "comm_open", "execute_input"}

# Outputs are sent again once the rate is below this part of the limit.
_RESUME_AT = 0.8


@dataclass(frozen=True, slots=True)
class Rates:
    """The limits for one WebSocket, as ZMQChannelsWebsocketConnection has them.

    Args:
        messages: outputs per second; 0 means no limit.
        stream_bytes: bytes of stream outputs per second; 0 means no limit.
        window: the seconds over which both are averaged.
    """

    messages: float
    stream_bytes: float
    window: float


class OutputLimit:
    """Decides which outputs of a kernel are discarded, by the rules of jupyter_server.

    Above a limit all outputs are discarded, except status, comm_open and execute_input, until the
    rate falls or the kernel is idle. Replies are never discarded.
    """

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._sent: deque[tuple[float, int]] = deque()
        self._bytes = 0
        self._too_many = False
        self._too_large = False

    def admit(self, message: Message, now: float) -> tuple[bool, str | None]:
        """Return whether an output is sent, and the text that tells the user of a limit.

        Args:
            message: the output.
            now: the time in seconds, from a monotonic clock.
        """
        if message.msg_type == "status" and _is_idle(message):
            self._sent.clear()
            self._bytes = 0
            self._too_many = self._too_large = False
        if message.msg_type in _EXEMPT:
            return True, None
        self._forget(now)
        size = message.size if message.msg_type == "stream" else 0
        rates, count, total = self._rates, len(self._sent) + 1, self._bytes + size
        were_over = self._too_many, self._too_large
        self._too_many = _is_over(count / rates.window, rates.messages, self._too_many)
        self._too_large = _is_over(total / rates.window, rates.stream_bytes, self._too_large)
        if not (self._too_many or self._too_large):
            self._sent.append((now, size))
            self._bytes = total
            return True, None
        if self._too_many and not were_over[0]:
            return False, _notice("message", "iopub_msg_rate_limit", rates.messages, "msgs/sec")
        if self._too_large and not were_over[1]:
            return False, _notice("data", "iopub_data_rate_limit", rates.stream_bytes, "bytes/sec")
        return False, None

    def _forget(self, now: float) -> None:
        while self._sent and self._sent[0][0] + self._rates.window <= now:
            self._bytes -= self._sent.popleft()[1]


class _Status(msgspec.Struct):
    status: str = ""


def hide_traceback(message: Message, replacement: str) -> Message:
    """Return a message in which *replacement* stands for a reported traceback.

    Args:
        message: an output or a reply.
        replacement: the text in place of the traceback.
    """
    if message.msg_type != "error" and not message.msg_type.endswith("_reply"):
        return message
    raw = message.parts[3]
    content: dict[str, object] = {"status": "error"}
    try:
        # This skips all other fields; to decode them could take long.
        status = msgspec.json.decode(raw, type=_Status).status
        if "error" not in (status, message.msg_type):
            return message
        if len(raw) <= LARGE_BYTES:
            content = msgspec.json.decode(raw, type=dict[str, object])
    except msgspec.DecodeError:
        pass
    content |= {
        "ename": "ExecutionError",
        "evalue": "Execution error",
        "traceback": [replacement],
    }
    parts = (*message.parts[:3], msgspec.json.encode(content), *message.parts[4:])
    return Message(message.header, message.parent_header, parts)


def _is_over(rate: float, limit: float, was_over: bool) -> bool:
    if limit <= 0:
        return False
    return rate >= _RESUME_AT * limit if was_over else rate > limit


def _is_idle(message: Message) -> bool:
    try:
        return bool(message.content.execution_state == "idle")
    except MalformedMessage:
        return False


def _notice(kind: str, setting: str, limit: float, unit: str) -> str:
    return (
        f"IOPub {kind} rate exceeded.\n"
        "The Jupyter server will temporarily stop sending output\n"
        "to the client in order to avoid crashing it.\n"
        f"To change this limit ({limit:g} {unit}), set the config variable\n"
        f"`ZMQChannelsWebsocketConnection.{setting}`.\n"
    )
