"""The two framings of messages on the WebSockets of Jupyter servers.

One WebSocket carries all channels except the heartbeat, so each frame names its channel. Frames
have no signature: the WebSocket belongs to one user, and the key of the kernel's connection stays
on the server.

``v1.kernel.websocket.jupyter.org``
    A binary frame: a table of offsets, then the channel and the message's own parts.
legacy, without a subprotocol
    A text frame with one JSON object; with buffers a binary frame: offsets, that object, buffers.

Both framings forward the JSON of a message unread. They replace bytes that are not valid UTF-8 by
U+FFFD, because many clients cannot read them. Decoded messages are views into the received frame,
which must not be changed afterwards.

Specification: "WebSocket kernel wire protocols" of jupyter_server.
"""

from __future__ import annotations

import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from typing import Any, ClassVar, Final, cast

import msgspec

from kernelproto.exceptions import LocalProtocolError, MalformedMessage, RemoteProtocolError
from kernelproto.wire import tolerant_json
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Frame, Header, Message, read_parent_header

V1_SUBPROTOCOL: Final = "v1.kernel.websocket.jupyter.org"

FROM_CLIENT: Final[tuple[ChannelName, ...]] = ("shell", "control", "stdin")
FROM_SERVER: Final[tuple[ChannelName, ...]] = (*FROM_CLIENT, "iopub")

_MAX_SIZE = 2**30

# Servers store parts of a header, and kernels quote the header in each resulting message.
_MOST_HEADER_BYTES = 65_536

# An empty buffer takes 8 bytes of a frame and 200 bytes of memory: a small frame must not become a
# large list.
_MOST_PARTS = 65_536


class Framing(ABC):
    """A framing of messages on a WebSocket; stateless, for any number of connections.

    Args:
        receives: the channels of received messages: ``FROM_CLIENT`` or ``FROM_SERVER``.
        max_size: the size of the largest accepted frame, in bytes, or in characters of text frames.

    Attributes:
        subprotocol: the WebSocket subprotocol; None for the legacy framing.
    """

    subprotocol: ClassVar[str | None]

    def __init__(
        self, receives: Collection[ChannelName] = FROM_CLIENT, *, max_size: int = _MAX_SIZE
    ) -> None:
        self._channels: dict[str, ChannelName] = {channel: channel for channel in receives}
        self._max_size = max_size

    @abstractmethod
    def encode(self, channel: ChannelName, message: Message) -> bytes | str:
        """Return the frame that carries *message*: binary for bytes, text for a str.

        Raises:
            LocalProtocolError: the message is too large for this framing.
        """

    @abstractmethod
    def decode(self, data: Frame | str) -> tuple[ChannelName, Message]:
        """Return the channel and the message of a frame.

        Raises:
            MalformedMessage: the frame carries no message, is too large, or names a channel that is
                not in *receives*.
        """

    def _check_size(self, data: Frame | str) -> None:
        if len(data) > self._max_size:
            raise MalformedMessage(
                f"a frame of size {len(data)}; at most {self._max_size} is accepted"
            )

    def _channel(self, name: str) -> ChannelName:
        channel = self._channels.get(name)
        if channel is None:
            raise MalformedMessage(f"messages on the channel {name[:20]!r} are not accepted")
        return channel


class V1Framing(Framing):
    """The subprotocol ``v1.kernel.websocket.jupyter.org``."""

    subprotocol = V1_SUBPROTOCOL

    def encode(self, channel: ChannelName, message: Message) -> bytes:
        json_parts = tolerant_json.repair_texts(message.parts[:4])
        return _V1_TABLE.join([channel.encode(), *json_parts, *message.parts[4:]])

    def decode(self, data: Frame | str) -> tuple[ChannelName, Message]:
        if isinstance(data, str):
            raise MalformedMessage(f"a text frame; {self.subprotocol} has binary frames only")
        self._check_size(data)
        name, *parts = _V1_TABLE.split(data)
        return self._channel(str(name, "utf-8", "replace")), _message(parts)


class LegacyFraming(Framing):
    """The framing of a WebSocket without a subprotocol.

    A message without a channel counts as a message on shell, as in jupyter_server.
    """

    subprotocol = None

    def encode(self, channel: ChannelName, message: Message) -> bytes | str:
        header, parent_header, metadata, content, *buffers = message.parts
        if not content:
            raise MalformedMessage(f"a {message.msg_type} without content")
        values = (
            content,
            metadata or b"{}",
            parent_header or b"{}",
            header,
            json.dumps(message.msg_id).encode(),
            json.dumps(message.msg_type).encode(),
            json.dumps(channel).encode(),
            b"",
        )
        envelope = b"".join(chain.from_iterable(zip(_ENVELOPE, values, strict=True)))
        if buffers:
            return _LEGACY_TABLE.join([*tolerant_json.repair_texts([envelope]), *buffers])
        return envelope.decode(errors="replace")

    def decode(self, data: Frame | str) -> tuple[ChannelName, Message]:
        self._check_size(data)
        if isinstance(data, str):
            data = data.encode(errors="replace")
        # The first byte tells the format, because the gateway client of jupyter_server sends binary
        # data in text frames. JSON never begins with a zero; every acceptable table does.
        envelope, *buffers = _LEGACY_TABLE.split(data) if data[:1] == b"\0" else [data]
        channel, parts = _open_envelope(envelope)
        return self._channel(channel), _message([*parts, *buffers])


def server_framing(offered: Iterable[str], *, max_size: int = _MAX_SIZE) -> Framing:
    """Return the framing for a client that offers these subprotocols.

    The ``subprotocol`` is the server's answer; None means an answer without a subprotocol.
    """
    kind = V1Framing if V1_SUBPROTOCOL in offered else LegacyFraming
    return kind(FROM_CLIENT, max_size=max_size)


def client_framing(selected: str | None, *, max_size: int = _MAX_SIZE) -> Framing:
    """Return the framing for a server that was offered V1_SUBPROTOCOL and answered *selected*.

    Raises:
        RemoteProtocolError: the server selected a subprotocol that was not offered.
    """
    if selected and selected != V1_SUBPROTOCOL:
        raise RemoteProtocolError(f"the server selected the WebSocket subprotocol {selected!r}")
    kind = V1Framing if selected else LegacyFraming
    return kind(FROM_SERVER, max_size=max_size)


class _Table:
    """Joins parts after a table: the number of offsets, then the offset of each part in the frame.

    Args:
        byte_order: the byte order of the table's numbers, as a letter of ``struct``.
        number: the type of the numbers, as a letter of ``struct``.
        parts: the minimum number of parts.
        ends: whether the table ends with the length of the frame.
    """

    def __init__(self, byte_order: str, number: str, *, parts: int, ends: bool) -> None:
        self._format = f"{byte_order}%d{number}"
        self._count = _struct(self._format, 1)
        self._fewest = parts + ends
        self._ends = ends

    def join(self, parts: Sequence[Frame]) -> bytes:
        sizes = [len(part) if type(part) is bytes else memoryview(part).nbytes for part in parts]
        count = len(sizes) + self._ends
        offsets = accumulate(sizes[: count - 1], initial=self._count.size * (count + 1))
        try:
            table = _struct(self._format, count + 1).pack(count, *offsets)
        except struct.error:
            raise LocalProtocolError(
                f"a message of {sum(sizes)} bytes is too large for the legacy WebSocket framing"
            ) from None
        return b"".join([table, *parts])

    def split(self, data: Frame) -> list[memoryview]:
        if len(data) < self._count.size:
            raise MalformedMessage(f"a binary frame of {len(data)} bytes has no table of offsets")
        (count,) = self._count.unpack_from(data)
        begin = self._count.size * (count + 1)
        if not self._fewest <= count <= _MOST_PARTS or begin > len(data):
            raise MalformedMessage(f"{count} offsets in a binary frame of {len(data)} bytes")
        offsets = [*_struct(self._format, count).unpack_from(data, self._count.size)]
        if not self._ends:
            offsets.append(len(data))
        if offsets[0] != begin or offsets[-1] != len(data) or offsets != sorted(offsets):
            raise MalformedMessage("the offsets in a binary frame do not cut it into parts")
        view = memoryview(data)
        return [view[start:end] for start, end in pairwise(offsets)]


@lru_cache
def _struct(form: str, count: int) -> struct.Struct:
    return struct.Struct(form % count)


_V1_TABLE = _Table("<", "Q", parts=5, ends=True)
_LEGACY_TABLE = _Table("!", "I", parts=1, ends=False)

# In JSON the last of equal keys wins: a content that is not valid JSON cannot forge later fields.
_ENVELOPE = (
    b'{"content": ',
    b', "metadata": ',
    b', "parent_header": ',
    b', "header": ',
    b', "msg_id": ',
    b', "msg_type": ',
    b', "channel": ',
    b', "buffers": []}',
)


class _Envelope(msgspec.Struct):
    """The JSON object of the legacy framing."""

    header: msgspec.Raw
    parent_header: msgspec.Raw = msgspec.Raw(b"{}")
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    content: msgspec.Raw = msgspec.Raw(b"{}")
    channel: str | None = None


_envelopes = msgspec.json.Decoder(_Envelope)


def _open_envelope(data: Frame) -> tuple[str, list[Frame]]:
    """Return the channel and the four JSON parts, undecoded."""
    parts: list[Frame]
    try:
        envelope = _envelopes.decode(data)
    except (ValueError, RecursionError):
        # The text may have common faults of kernels and browsers, such as NaN and lone surrogates.
        fields = cast("dict[str, Any]", tolerant_json.decode(data, dict))
        names = ("header", "parent_header", "metadata", "content")
        parts = [json.dumps(fields.get(name, {})).encode() for name in names]
        channel = fields.get("channel")
    else:
        parts = [
            memoryview(envelope.header),
            memoryview(envelope.parent_header),
            memoryview(envelope.metadata),
            memoryview(envelope.content),
        ]
        channel = envelope.channel
    return "shell" if channel is None else str(channel), parts


def _message(parts: Sequence[Frame]) -> Message:
    for part in parts[:2]:
        size = memoryview(part).nbytes
        if size > _MOST_HEADER_BYTES:
            raise MalformedMessage(
                f"a header of {size} bytes; at most {_MOST_HEADER_BYTES} bytes are accepted"
            )
    header = tolerant_json.decode(parts[0], Header)
    return Message(header, read_parent_header(parts[1]), tuple(parts))
