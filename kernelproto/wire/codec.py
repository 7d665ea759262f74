"""Codec: frames to Message and back.

``[identity..., b"<IDS|MSG>", signature, header, parent_header, metadata, content, *buffers]``

Specification: "The Wire Protocol".
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from hmac import compare_digest

from kernelproto.exceptions import (
    InvalidSignature,
    LocalProtocolError,
    MalformedMessage,
)
from kernelproto.wire import tolerant_json
from kernelproto.wire.message import Frame, Header, Message, read_parent_header
from kernelproto.wire.signing import ReplayWindow, Signer

DELIMITER = b"<IDS|MSG>"

_JSON_FRAMES = 4

# The largest header, parent header or metadata, which are read in one step.
_MOST_HEADER_BYTES = 2**18

# The frames of an incomplete message, at most, and the topic and the delimiter of the next one.
_MOST_BEFORE_NEXT = 8
_EMPTY_OBJECT = b"{}"

_read_header = tolerant_json.strict_readers[Header]


class Codec:
    """Encodes and decodes the messages of one connection.

    Received messages are checked in this order: shape and size, signature, replay. Only messages
    that pass all three checks are remembered and decoded. The signature covers the four JSON
    frames, not the buffers and identities. Without signing there is no replay check either.

    Args:
        key: the connection's shared secret. For an unsigned connection give *signer* instead.
        signature_scheme: ``"hmac-"`` and the name of a hash.
        signer: replaces *key* and *signature_scheme*; ``Signer.disabled()`` turns signing off.
        max_frame_bytes: the largest frame that is accepted; headers and metadata are smaller.

    Raises:
        LocalProtocolError: neither a key nor a signer, or both, are given; the key is empty; or the
            scheme is unknown.
    """

    def __init__(
        self,
        key: bytes | None = None,
        signature_scheme: str = "hmac-sha256",
        *,
        signer: Signer | None = None,
        max_frame_bytes: int = 2**30,
    ) -> None:
        if (key is None) == (signer is None):
            raise LocalProtocolError(
                "a Codec takes either a key or a signer; Signer.disabled() makes it unsigned"
            )
        self._sign = (signer or Signer(key or b"", signature_scheme)).sign
        self._record = ReplayWindow().record
        self._max_frame_bytes = max_frame_bytes
        self._checked_above = min(max_frame_bytes, _MOST_HEADER_BYTES)
        self._last_raw_parent: Frame = _EMPTY_OBJECT
        self._last_parent: Header | None = None

    def encode(self, message: Message, identities: Sequence[Frame] = ()) -> list[Frame]:
        """Return the frames of *message*, after the routing *identities*."""
        parts = message.parts
        return [*identities, DELIMITER, self._sign(parts[:_JSON_FRAMES]), *parts]

    def decode(self, frames: Sequence[Frame]) -> Message:
        """Return the message that *frames* carry.

        Raises:
            MalformedMessage: the delimiter is missing, there are too few frames, a frame is too
                large, or the headers or the metadata cannot be read.
            InvalidSignature: the message was not signed with the key.
            ReplayedMessage: the message was received before.
        """
        try:
            delimiter = frames.index(DELIMITER)
        except ValueError:
            raise MalformedMessage(
                f"no {DELIMITER.decode()} delimiter among {len(frames)} frames"
            ) from None
        parts = tuple(frames[delimiter + 2 :])  # the garbage collector ignores a tuple of bytes
        if len(parts) < _JSON_FRAMES:
            raise MalformedMessage(
                f"{len(parts)} frames after the signature, at least {_JSON_FRAMES} are needed"
            )
        signed = parts[:_JSON_FRAMES]
        raw_header, raw_parent, raw_metadata, raw_content = signed
        signature = frames[delimiter + 1]
        # Additions take half the time of sum().
        if len(parts) == _JSON_FRAMES:
            size = len(raw_header) + len(raw_parent) + len(raw_metadata) + len(raw_content)
        else:
            size = sum(map(len, parts))
        routing = len(frames[0]) if delimiter <= 1 else sum(map(len, frames[:delimiter]))
        # All frames together are seldom too large for a single one.
        if size + len(signature) + routing > self._checked_above:
            self._check_sizes(frames, parts)
        expected = self._sign(signed)
        if expected:  # empty without signing
            if not compare_digest(expected, signature):
                raise InvalidSignature(
                    "the signature does not match: the sender does not have the connection's key"
                )
            self._record(expected)
        try:
            header = _read_header(raw_header)
        except tolerant_json.UNREADABLE:
            header = tolerant_json.decode_tolerantly(raw_header, Header)
        # All outputs of an execution quote the same parent, so the last parent is cached.
        if raw_parent != self._last_raw_parent:
            self._last_parent = read_parent_header(raw_parent)
            self._last_raw_parent = raw_parent
        identities = frames[:delimiter] if delimiter else ()
        message = Message(header, self._last_parent, parts, identities, _size=size)
        if raw_metadata != _EMPTY_OBJECT:
            # The signature covers the joined frames, not the borders between them. Reading each
            # frame as a JSON object of its own detects a moved border.
            _ = message.metadata
        return message

    def salvage(self, frames: Sequence[Frame]) -> Message | None:
        """Return the headers of a message that ``decode`` refused as malformed.

        Returns:
            The message; with an empty header if the header cannot be read. None if the signature
            does not
            match, or if the parent header cannot be read: the request is then unknown.
        """
        if DELIMITER not in frames:
            return None
        delimiter = frames.index(DELIMITER)
        signature, parts = frames[delimiter + 1 : delimiter + 2], tuple(frames[delimiter + 2 :])
        if len(parts) < _JSON_FRAMES:
            return None
        expected = self._sign(parts[:_JSON_FRAMES])
        if expected and not compare_digest(expected, signature[0]):
            return None
        if len(parts[1]) > _MOST_HEADER_BYTES:
            return None
        try:
            parent = read_parent_header(parts[1])
        except MalformedMessage:
            return None
        if parent is None:
            return None
        header = Header(msg_id="", msg_type="")
        if len(parts[0]) <= _MOST_HEADER_BYTES:
            with suppress(MalformedMessage):
                header = tolerant_json.decode(parts[0], Header)
        return Message(header, parent, parts)

    def _check_sizes(self, frames: Sequence[Frame], parts: Sequence[Frame]) -> None:
        for kind, part in zip(("Header", "Header", "dict"), parts, strict=False):
            if len(part) > _MOST_HEADER_BYTES:
                raise MalformedMessage(
                    f"cannot be read as {kind}: {len(part)} bytes, at most {_MOST_HEADER_BYTES} "
                    "are accepted"
                )
        largest = max(map(len, frames))
        if largest > self._max_frame_bytes:
            raise MalformedMessage(
                f"a frame of {largest} bytes; at most {self._max_frame_bytes} are accepted"
            )


def frames_after_fragment(frames: Sequence[Frame]) -> Sequence[Frame] | None:
    """Return the frames of the message after an incomplete one, from the delimiter.

    Returns:
        None if there is no second delimiter among the first frames.
    """
    places = [place for place, frame in enumerate(frames[:_MOST_BEFORE_NEXT]) if frame == DELIMITER]
    return frames[places[-1] :] if len(places) > 1 else None
