"""Receiving from sockets into one buffer: a buffer for each call would be mapped and unmapped."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tls import TlsSocket

_BUFFER = memoryview(bytearray(256 * 1024))


def receive(end: socket.socket | TlsSocket) -> memoryview:
    """Receive up to 256 KiB; return the bytes, which are valid until the next call.

    Raises:
        OSError: as for ``socket.recv``.
    """
    return _BUFFER[: end.recv_into(_BUFFER)]
