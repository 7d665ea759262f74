"""PURE: the frames on the socket of a host.

A frame is a header and a body. The header has 14 bytes, big-endian: the length of the body (4), the
kind (1), the channel (1), a number (8).

    REQUEST  to the host    number: of the request; body: a JSON object with "op"
    ANSWER   to a program   number: of the request; body: {"ok": ...} or {"error": ...}.
                            The host begins with an answer to request 0, which has its version.
    MESSAGE  both ways      number: of the message; body: its frames as in ZMTP. Heartbeats have
                            the number 0: they are neither kept nor acknowledged.
    ACK      to the host    number: all messages of the kernel up to this one were received
    ACK      to a program   number: the messages of this program on this channel up to this one were
                            passed to the kernel
    EXITED   to a program   behind the last message of a kernel that has ended; body: a JSON object
    CLOSED   to a program   the last frame before the host closes a connection; body: {"error": ...}
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple, cast

VERSION = 1

REQUEST, ANSWER, MESSAGE, ACK, EXITED, CLOSED = range(1, 7)
_KINDS = range(REQUEST, CLOSED + 1)

# The number of a channel is the index here.
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
SHELL, IOPUB, STDIN, CONTROL, HB = range(len(CHANNELS))

# A request has arguments and variables; Linux takes at most 2 MiB of both.
REQUEST_BYTES = 4 * 2**20
MESSAGE_BYTES = 256 * 2**20

# A program may send so many bytes on a channel beyond those that the host has passed to the kernel,
# or one message of any size.
WINDOW_BYTES = 8 * 2**20

_HEADER = struct.Struct(">IBBQ")


class Broken(Exception):
    """The other side does not speak the protocol."""


class Frame(NamedTuple):
    """A frame that has arrived."""

    kind: int
    channel: int
    number: int
    body: bytes

    def json(self) -> dict[str, Any]:
        """Return the body of a frame with a JSON object.

        Raises:
            Broken: the body is not a JSON object.
        """
        try:
            value: Any = json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Broken(f"the body of a frame is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise Broken("the body of a frame is not a JSON object")
        return cast("dict[str, Any]", value)


def header(kind: int, length: int, *, channel: int = 0, number: int = 0) -> bytes:
    """Return the header of a frame."""
    return _HEADER.pack(length, kind, channel, number)


def pack(kind: int, body: bytes = b"", *, channel: int = 0, number: int = 0) -> bytes:
    """Return a frame."""
    return _HEADER.pack(len(body), kind, channel, number) + body


def pack_json(kind: int, value: dict[str, Any], *, number: int = 0) -> bytes:
    """Return a frame with a JSON object as the body."""
    return pack(kind, json.dumps(value).encode(), number=number)


class FrameReader:
    """Finds the frames in a stream of bytes, which may be cut anywhere.

    Args:
        most: the maximum length of the body of a message; other frames have a limit of their own.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._unread = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Take in bytes, and return the frames that are complete now.

        Raises:
            Broken: the bytes are no frames, or a frame is too long.
        """
        unread = self._unread
        unread += data
        frames: list[Frame] = []
        at, end = 0, len(unread)
        with memoryview(unread) as view:
            while end - at >= _HEADER.size:
                length, kind, channel, number = _HEADER.unpack_from(view, at)
                if kind not in _KINDS or channel >= len(CHANNELS):
                    raise Broken(f"a frame of the unknown kind {kind} for channel {channel}")
                if length > (self.most if kind == MESSAGE else REQUEST_BYTES):
                    raise Broken(f"a frame of {length} bytes is too long")
                begin = at + _HEADER.size
                if begin + length > end:
                    break
                at = begin + length
                frames.append(Frame(kind, channel, number, bytes(view[begin:at])))
        del unread[:at]
        return frames
