"""Signing: the HMAC over a message's four JSON frames, and the detection of replays.

Specification: "The Wire Protocol".
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from kernelproto.exceptions import LocalProtocolError, ReplayedMessage

if TYPE_CHECKING:
    from _hashlib import HASH

_SCHEME_PREFIX = "hmac-"

# Below this size one joined update is faster than four; above it, the copy takes longer.
_JOIN_BELOW_BYTES = 16_384


class Signer:
    """Signs JSON frames with a shared key.

    The two keyed halves of the HMAC (RFC 2104) are hashed once and copied for every message: twice
    as fast as copying an object of the ``hmac`` module.

    Args:
        key: the shared secret, not empty.
        scheme: ``"hmac-"`` and the name of a hash in ``hashlib``.

    Attributes:
        enabled: whether messages are signed and verified.

    Raises:
        LocalProtocolError: the key is empty, or the scheme is unknown.
    """

    __slots__ = ("_inner", "_outer", "enabled")

    def __init__(self, key: bytes, scheme: str = "hmac-sha256") -> None:
        if not key:
            raise LocalProtocolError("the key is empty: use Signer.disabled() to turn signing off")
        hashed = _hash_constructor(scheme)
        blank = hashed(b"")
        block_key = key if len(key) <= blank.block_size else hashed(key).digest()
        block_key = block_key.ljust(blank.block_size, b"\0")
        self._inner = hashed(bytes(byte ^ 0x36 for byte in block_key))
        self._outer = hashed(bytes(byte ^ 0x5C for byte in block_key))
        self.enabled = True

    @classmethod
    def disabled(cls) -> Signer:
        """Return a signer that makes empty signatures and accepts every message."""
        signer = cls(b"unused")
        signer.enabled = False
        return signer

    def sign(self, frames: Sequence[bytes | memoryview]) -> bytes:
        """Return the signature of the four JSON frames, in hexadecimal; empty when disabled."""
        if not self.enabled:
            return b""
        inner = self._inner.copy()
        if len(frames[-1]) < _JOIN_BELOW_BYTES:
            inner.update(b"".join(frames))
        else:
            for frame in frames:
                inner.update(frame)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest().encode()


class ReplayWindow:
    """Remembers the last signatures, first in, first out.

    Args:
        size: the number of signatures to remember.
    """

    __slots__ = ("_order", "_seen", "_size")

    def __init__(self, size: int = 65_536) -> None:
        self._size = size
        self._seen: set[bytes] = set()
        self._order: deque[bytes] = deque()

    def __len__(self) -> int:
        return len(self._seen)

    def record(self, signature: bytes) -> None:
        """Record a verified signature.

        Raises:
            ReplayedMessage: the window has this signature already.
        """
        if signature in self._seen:
            raise ReplayedMessage("this message was received before: a replay, or a looping proxy")
        self._seen.add(signature)
        self._order.append(signature)
        if len(self._order) > self._size:
            self._seen.discard(self._order.popleft())


def _hash_constructor(scheme: str) -> Callable[[bytes], HASH]:
    name = scheme.removeprefix(_SCHEME_PREFIX)
    # The shake hashes have no digest of a fixed size, which an HMAC needs.
    if name == scheme or name not in hashlib.algorithms_available or name.startswith("shake"):
        raise LocalProtocolError(
            f"unknown signature scheme {scheme!r}: use 'hmac-' and the name of a hash, "
            "for example 'hmac-sha256'"
        )
    return partial(hashlib.new, name)
