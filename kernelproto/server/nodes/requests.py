"""The parts of a request that a server forwards: the target and the headers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from kernelproto.server.nodes.seal import HEADER

# The key of the scope of a request that another server has forwarded.
ARRIVED = "kernelproto.arrived"

# These concern one connection. The origin of a page was checked by the server that was asked.
_NOT_FORWARDED = frozenset(
    (
        b"connection",
        b"date",
        b"host",
        b"keep-alive",
        b"origin",
        b"proxy-connection",
        b"server",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
        HEADER.encode(),
    )
)

Headers = list[tuple[bytes, bytes]]


def target_of(scope: Mapping[str, Any]) -> str:
    """Return the path of a request below the prefix of the application, and the query."""
    root: str = scope.get("root_path", "")
    path: str = scope["path"].removeprefix(root)
    raw: bytes = scope.get("raw_path") or b""
    prefix = quote(root).encode()
    if raw.startswith(prefix):
        raw = raw[len(prefix) :]
    if not raw.startswith(b"/"):
        raw = quote(path).encode()
    query: bytes = scope.get("query_string", b"")
    return (raw + b"?" + query if query else raw).decode("latin-1")


def forwarded_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the end-to-end headers of a request or response."""
    return [
        (name, value)
        for name, value in headers
        if name.lower() not in _NOT_FORWARDED and not name.lower().startswith(b"sec-websocket")
    ]
