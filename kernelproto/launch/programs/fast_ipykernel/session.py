"""Encode messages faster, byte for byte the same JSON.

jupyter_client makes a new JSON encoder for each of the four parts of a message, encodes the parent
header again for each output of a request, and updates the signature once for each part.
"""

from __future__ import annotations

import json.encoder
from collections.abc import Callable
from copy import copy
from typing import Any

from .hook import SESSION, Hook, Need, find

DELIMITER = b"<IDS|MSG>"

# Parts up to this size are joined before they are signed, so that the hash is updated once.
JOINED_BYTES = 4096

SAMPLE: Any = {
    "a": [1, -0.5, None, True, '\u00e9\n"\U0001f600'],
    "b": {"c": {}, "d": []},
    "e": b"raw",
}


class EncodeOnce:
    """The part of a Session that encodes and signs messages."""

    encoded_parent: tuple[Any, bytes]

    def __init__(self: Any, **kwargs: Any) -> None:
        stock: Any = super()
        stock.__init__(**kwargs)
        packer = find("jupyter_client.session:json_packer")
        if self.pack is packer:
            self.pack = faster(packer)
        self.encoded_parent = {}, self.none

    def serialize(self: Any, msg: Any, ident: Any = None) -> list[bytes]:
        """Return the frames of a message."""
        content = msg.get("content", {})
        if content is None:
            content = self.none
        elif isinstance(content, dict):
            content = self.pack(content)
        elif isinstance(content, str):
            content = content.encode("utf8")
        elif not isinstance(content, bytes):
            raise TypeError(f"Content incorrect type: {type(content)}")
        parent = msg["parent_header"]
        known, encoded = self.encoded_parent
        if parent != known:
            encoded = self.pack(parent)
            self.encoded_parent = copy(parent), encoded
        metadata = msg["metadata"]
        parts = [
            self.pack(msg["header"]),
            encoded,
            self.pack(metadata) if metadata or metadata is None else self.none,
            content,
        ]
        signature = self.sign([b"".join(parts)] if len(content) <= JOINED_BYTES else parts)
        frames = [DELIMITER, signature, *parts]
        if isinstance(ident, list):
            return [*ident, *frames]
        return frames if ident is None else [ident, *frames]


def faster(packer: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Return a packer that makes the same bytes with one encoder; the given one if it cannot."""
    default = find("jupyter_client.jsonutil:json_default")
    try:
        encoder: Any = json.encoder
        quote = encoder.encode_basestring
        # As json.dumps does, except that it does not look for circular references by itself. They
        # end in a RecursionError, and then the given packer decides.
        encode = encoder.c_make_encoder(None, default, quote, None, ": ", ", ", False, False, False)

        def pack(value: Any) -> bytes:
            try:
                return "".join(encode(value, 0)).encode("utf8", "surrogateescape")
            except Exception:
                return packer(value)

        if pack(SAMPLE) == packer(SAMPLE):
            return pack
    except (AttributeError, TypeError, ValueError):
        pass
    return packer


HOOK = Hook(
    name="session",
    needs=[
        Need("jupyter_client.session:json_packer", "obj"),
        Need("jupyter_client.jsonutil:json_default", "obj"),
        Need(f"{SESSION}.__init__", "self, **kwargs", "pack none"),
        Need(f"{SESSION}.sign", "self, msg_list", "auth copy update"),
        Need(f"{SESSION}.serialize", "self, msg, ident", "none pack DELIM sign"),
    ],
    mixins={SESSION: EncodeOnce},
)
