"""Close connections of httpx whose TLS handshake was cancelled.

httpcore 1.0 closes the connection if the handshake fails, but not if the caller is cancelled
meanwhile: the socket stays open until it is collected as garbage. httpcore tells the extension
``trace`` of a request about each step of its connection.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol

from kernelproto.concurrency.shield import to_the_end

_CLOSE_SECONDS = 5.0


class Request(Protocol):
    """A request of httpx."""

    @property
    def extensions(self) -> MutableMapping[str, Any]:
        """Options for the transport of httpx."""
        ...


async def close_cancelled_handshake(request: Request) -> None:
    """Have the connection of a request closed if its TLS handshake is cancelled.

    Args:
        request: the request; this function is one of the ``event_hooks`` of a client.
    """
    connected: Any = None

    async def trace(step: str, info: Mapping[str, Any]) -> None:
        nonlocal connected
        if step.endswith(".connect_tcp.complete"):
            connected = info["return_value"]
        elif step.endswith(".start_tls.failed") and connected is not None:
            await to_the_end(connected.aclose, seconds=_CLOSE_SECONDS)

    request.extensions["trace"] = trace
