"""Forwarded: take the client's address, scheme and path prefix from the headers of reverse proxies.

Any client can send X-Forwarded-For, -Proto and -Prefix, so the server reads them only in requests
from the addresses of trusted proxies.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kernelproto.server.access_settings import BASE_URL
from kernelproto.server.auth.authenticators import TrustedProxies
from kernelproto.server.middleware.access import ADDRESS, answer, peer_of
from kernelproto.server.responses import error_response

_SCHEMES = {"http": {"http": "http", "https": "https"}, "websocket": {"http": "ws", "https": "wss"}}

# The largest number of proxies between a client and the server.
_MAX_HOPS = 20

# An IPv4 address with a port, or an IPv6 address in brackets.
_WITH_PORT = re.compile(r"(\d+\.\d+\.\d+\.\d+):\d+|\[([^\]]+)\](?::\d+)?")


class Forwarded:
    """ASGI middleware: set the client's address and URL in the scope.

    Sets ``root_path``, ``scheme`` and ``ADDRESS`` of the scope; ``client`` remains the peer. A
    request for the prefix without a slash is redirected to the page below the prefix.

    Args:
        app: the application.
        base_url: the prefix of every path, such as ``/kernels``, which a proxy may remove or keep;
            empty for none.
        trusted: the addresses and networks of trusted proxies.
    """

    def __init__(self, app: ASGIApp, *, base_url: str, trusted: Iterable[str]) -> None:
        self._app = app
        self._base_url = base_url.rstrip("/")
        self._trusted = TrustedProxies(trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket or the lifespan."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope = dict(scope)
        headers = Headers(scope=scope)
        prefix = ""
        if peer_of(scope) in self._trusted:
            prefix = _first(headers, "x-forwarded-prefix").rstrip("/")
            if not re.fullmatch(BASE_URL, prefix):
                message = "the proxy sent an X-Forwarded-Prefix that is not a path such as /kernels"
                await answer(scope, receive, send, error_response(400, message))
                return
            scheme = _first(headers, "x-forwarded-proto").lower()
            scope["scheme"] = _SCHEMES[scope["type"]].get(scheme, scope.get("scheme"))
            scope[ADDRESS] = self._client(headers) or peer_of(scope)
        redirect = self._place(scope, prefix)
        await (redirect or self._app)(scope, receive, send)

    def _place(self, scope: Scope, prefix: str) -> Response | None:
        """Set the prefix in the scope; return a redirect for a request of only the prefix."""
        mounted: str = scope.get("root_path", "")
        path = scope["path"].removeprefix(mounted)
        root, below = self._split(path, prefix)
        if not root:
            return None
        scope["root_path"] = mounted + root
        if not below and scope["type"] == "http":
            query = scope["query_string"].decode("latin-1")
            return RedirectResponse(f"{mounted}{root}/" + (f"?{query}" if query else ""))
        scope["path"] = mounted + root + below
        there = f"{mounted}{path.removesuffix(below)}".encode()
        raw_path: bytes = scope.get("raw_path") or scope["path"].encode()
        scope["raw_path"] = f"{mounted}{root}".encode() + raw_path.removeprefix(there)
        return None

    def _split(self, path: str, prefix: str) -> tuple[str, str]:
        """Return the prefix in the client's URL, and the rest of the path."""
        if prefix and _is_below(path, prefix):  # the proxy sends the prefix in the path as well
            return prefix, path.removeprefix(prefix)
        if self._base_url and _is_below(path, self._base_url):
            below = path.removeprefix(self._base_url)
            return prefix.removesuffix(self._base_url) + self._base_url, below
        return prefix or self._base_url, path

    def _client(self, headers: Headers) -> str | None:
        """Return the last address that is not a trusted proxy; None without a valid address."""
        address = None
        hops = ",".join(headers.getlist("x-forwarded-for")).rsplit(",", _MAX_HOPS)[-_MAX_HOPS:]
        for hop in reversed(hops):
            found = _WITH_PORT.fullmatch(hop.strip())
            text = hop.strip() if found is None else found[1] or found[2]
            try:
                address = str(ipaddress.ip_address(text))
            except ValueError:
                return address
            if address not in self._trusted:
                return address
        return address


def _first(headers: Headers, name: str) -> str:
    return headers.get(name, "").partition(",")[0].strip()


def _is_below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(f"{prefix}/")
