"""Codec: frames to Message and back.

``[identity..., b"<IDS|MSG>", signature, header, parent_header, metadata, content, *buffers]``

Specification: "The Wire Protocol".
"""

from __future__ import annotations

from collections.abc import Sequence
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
_EMPTY_OBJECT = b"{}"


class Codec:
    """Encodes and decodes the messages of one connection.

    Received messages are checked in this order: shape and size, signature, replay. Only one that
    passed all three is remembered and decoded. The signature covers the four JSON frames; buffers
    and identities are not signed. Without signing there is no replay check either.

    Args:
        key: the connection's shared secret. For an unsigned connection give ``signer`` instead.
        signature_scheme: ``"hmac-"`` and the name of a hash.
        signer: replaces *key* and *signature_scheme*; ``Signer.disabled()`` turns signing off.
        max_frame_bytes: the largest frame that is accepted.

    Raises:
        LocalProtocolError: there is no key and no signer, the key is empty, or the scheme unknown.
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
        self._signer = signer or Signer(key or b"", signature_scheme)
        self._window = ReplayWindow()
        self._max_frame_bytes = max_frame_bytes
        self._last_parent: tuple[Frame, Header | None] = (b"{}", None)

    def encode(self, message: Message, identities: Sequence[Frame] = ()) -> list[Frame]:
        """Return the frames of *message*, behind the routing *identities* where there are any."""
        parts = message.parts
        return [*identities, DELIMITER, self._signer.sign(parts[:_JSON_FRAMES]), *parts]

    def decode(self, frames: Sequence[Frame]) -> Message:
        """Return the message that *frames* carry.

        Raises:
            MalformedMessage: no delimiter, too few frames, a frame that is too large, or JSON that
                cannot be read as a header or as metadata.
            InvalidSignature: the signature is not the one that the key makes.
            ReplayedMessage: the message was received before.
        """
        try:
            delimiter = frames.index(DELIMITER)
        except ValueError:
            raise MalformedMessage(
                f"no {DELIMITER.decode()} delimiter among {len(frames)} frames"
            ) from None
        parts = frames[delimiter + 2 :]
        if len(parts) < _JSON_FRAMES:
            raise MalformedMessage(
                f"{len(parts)} frames after the signature, at least {_JSON_FRAMES} are needed"
            )
        largest = max(map(len, frames))
        if largest > self._max_frame_bytes:
            raise MalformedMessage(
                f"a frame of {largest} bytes; at most {self._max_frame_bytes} are accepted"
            )
        self._verify(frames[delimiter + 1], parts)
        header = tolerant_json.decode(parts[0], Header)
        message = Message(header, self._parent_header(parts[1]), parts, frames[:delimiter])
        if parts[2] != _EMPTY_OBJECT:
            # The signature covers the joined frames, not where one ends and the next begins. That
            # each of them is a JSON object of its own keeps a forger from cutting them elsewhere.
            _ = message.metadata
        return message

    def _verify(self, signature: Frame, parts: Sequence[Frame]) -> None:
        if not self._signer.enabled:
            return
        expected = self._signer.sign(parts[:_JSON_FRAMES])
        if not compare_digest(expected, signature):
            raise InvalidSignature(
                "the signature does not match: the sender has another key, or is an intruder"
            )
        self._window.record(expected)

    def _parent_header(self, raw: Frame) -> Header | None:
        # All outputs of an execution quote the same parent, so the last one is worth remembering.
        last_raw, parent = self._last_parent
        if raw != last_raw:
            parent = read_parent_header(raw)
            self._last_parent = (raw, parent)
        return parent
