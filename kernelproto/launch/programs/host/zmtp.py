"""PURE: ZMTP 3.0, the protocol of ZeroMQ, with the mechanism NULL: a client of a kernel.

Specification: RFC 23 of ZeroMQ. A message is one or more frames. A frame is a byte of flags, the
size in 1 byte or with LONG in 8 bytes, and the body.
"""

from __future__ import annotations

from collections.abc import Sequence

MORE, LONG, COMMAND = 1, 2, 4

# Signature, version 3.0, mechanism, and the filler.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
_MECHANISM = slice(12, 32)

_SHORT = 255
_COMMAND_BYTES = 4096

# A frame of this size and more is not copied.
_LARGE = 16 * 1024


class ProtocolFault(Exception):
    """The bytes from the kernel, or those of a message, break ZMTP."""


def ready(socket_type: bytes, identity: bytes = b"") -> bytes:
    """Return the command that ends the handshake.

    Args:
        socket_type: ``b"DEALER"`` or ``b"SUB"``.
        identity: the routing identity.
    """
    body = b"\x05READY" + _property(b"Socket-Type", socket_type) + _property(b"Identity", identity)
    return bytes((COMMAND, len(body))) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


def join(frames: Sequence[bytes | memoryview]) -> bytes:
    """Return a message as the bytes on a connection."""
    parts: list[bytes | memoryview] = []
    last = len(frames) - 1
    for number, frame in enumerate(frames):
        size = len(frame) if isinstance(frame, bytes) else frame.nbytes
        more = MORE if number < last else 0
        if size <= _SHORT:
            parts.append(bytes((more, size)))
        else:
            parts.append(bytes((more | LONG,)) + size.to_bytes(8, "big"))
        parts.append(frame)
    return b"".join(parts)


def split(message: bytes) -> list[bytes | memoryview]:
    """Return the frames of a whole message.

    Raises:
        ProtocolFault: the bytes are not one message.
    """
    frames: list[bytes | memoryview] = []
    at, end, more = 0, len(message), MORE
    while more:
        if end - at < 2:
            raise ProtocolFault("a message is cut off")
        flags = message[at]
        if flags & ~(MORE | LONG):
            raise ProtocolFault(f"a frame of a message has the flags {flags:#x}")
        if flags & LONG:
            begin = at + 9
            size = int.from_bytes(message[at + 1 : begin], "big")
        else:
            begin = at + 2
            size = message[at + 1]
        at = begin + size
        if at > end:
            raise ProtocolFault("a message is cut off")
        frames.append(message[begin:at] if size < _LARGE else memoryview(message)[begin:at])
        more = flags & MORE
    if at != end:
        raise ProtocolFault("there are bytes behind a message")
    return frames


# A subscription to all topics is a message to the publisher.
SUBSCRIPTION = join([b"\x01"])


class Receiver:
    """Finds the messages in the bytes from a kernel, which may be cut anywhere.

    Args:
        most: the maximum size of a message. A larger message is discarded during its arrival.

    Attributes:
        greeted: whether the kernel's greeting has arrived, so that READY may be sent.
        is_ready: whether the handshake is over, so that messages may be sent.
        answers: bytes to send to the kernel.
    """

    def __init__(self, most: int) -> None:
        self.greeted = False
        self.is_ready = False
        self.answers = b""
        self._most = max(most, _COMMAND_BYTES)
        self._unread = bytearray()
        self._next = 0  # where the next frame of the unread message begins
        self._oversized = False  # whether the message is being discarded
        self._is_last = False  # whether the current frame is the last one
        self._surplus = -1  # bytes of this frame that have to arrive; -1 between two frames

    def feed(self, data: bytes | memoryview) -> list[bytes | None]:
        """Take in bytes; return the messages that are complete now, None for a discarded one.

        Raises:
            ProtocolFault: the kernel does not speak this protocol.
        """
        unread = self._unread
        unread += data
        if not self.greeted and not self._read_greeting():
            return []
        messages: list[bytes | None] = []
        start, at, end = 0, self._next, len(unread)
        while True:
            if self._surplus >= 0:
                gone = min(self._surplus, end - at)
                start = at = at + gone
                self._surplus -= gone
                if self._surplus:
                    break
                self._surplus = -1
                if self._is_last:
                    self._oversized = False
                    messages.append(None)
            if end - at < 2:
                break
            flags = unread[at]
            if flags & LONG:
                begin = at + 9
                if begin > end:
                    break
                size = int.from_bytes(unread[at + 1 : begin], "big")
            else:
                begin = at + 2
                size = unread[at + 1]
            if flags & ~(MORE | LONG):
                if flags & ~(LONG | COMMAND) or at != start or size > _COMMAND_BYTES:
                    raise ProtocolFault(f"a frame of {size} bytes with the flags {flags:#x}")
                if begin + size > end:
                    break
                start = at = begin + size
                self._take_command(bytes(unread[begin:at]))
                continue
            if not self.is_ready:
                raise ProtocolFault("a message before the end of the handshake")
            if self._oversized or begin + size - start > self._most:
                self._oversized = True
                self._is_last = not flags & MORE
                self._surplus = size
                start = at = begin
                continue
            if begin + size > end:
                break
            at = begin + size
            if not flags & MORE:
                messages.append(bytes(unread[start:at]))
                start = at
        del unread[:start]
        self._next = at - start
        return messages

    def _read_greeting(self) -> bool:
        unread = self._unread
        known = bytes(unread[: len(GREETING)])
        if (known[:1] or b"\xff") != b"\xff" or (len(known) > 9 and not known[9] & 1):
            raise ProtocolFault("this is no ZeroMQ socket")
        if len(known) > 10 and known[10] < 3:
            raise ProtocolFault(f"the socket speaks version {known[10]} of ZMTP, not 3")
        if len(known) < len(GREETING):
            return False
        if known[_MECHANISM] != GREETING[_MECHANISM]:
            raise ProtocolFault("the socket wants encryption or a password")
        del unread[: len(GREETING)]
        self.greeted = True
        return True

    def _take_command(self, body: bytes) -> None:
        name = body[1 : 1 + body[0]] if body else b""
        if name == b"READY":
            self.is_ready = True
        elif name == b"ERROR":
            raise ProtocolFault(f"the socket refuses this program: {body[7:]!r}")
        elif name == b"PING":  # a time of 2 bytes and a context, which the answer repeats
            pong = b"\x04PONG" + body[7 : 7 + 16]
            self.answers += bytes((COMMAND, len(pong))) + pong
