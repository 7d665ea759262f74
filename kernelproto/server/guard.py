"""Guard: stands before every route and WebSocket, and lets nobody in whom it does not know."""

from __future__ import annotations

from collections.abc import Collection, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from kernelproto.interfaces import Authenticator, UserRequest
from kernelproto.server.answers import error_response

_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))

_SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-site",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI middleware: who is it, and does the page that sends this belong here?

    It puts the User into ``scope["user"]``. Whoever is not known gets 403, and so does a page of
    another origin that wants to change something or to open a WebSocket: what lets its reader in,
    such as a proxy, may not be meant for it.

    Args:
        app: what is guarded.
        authenticator: knows the users.
        allow_origins: whose pages may use the server beside its own; ``"*"`` for all.
    """

    def __init__(
        self, app: ASGIApp, authenticator: Authenticator, allow_origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._allow_origins = frozenset(origin.rstrip("/") for origin in allow_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket or the lifespan."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = await self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, _with_security_headers(send))
        elif scope["type"] == "http":
            response = error_response(403, refusal)
            await response(scope, receive, _with_security_headers(send))
        else:
            await deny(WebSocket(scope, receive, send), 403, refusal)

    async def _refusal(self, scope: MutableMapping[str, Any]) -> str | None:
        """Return why this is refused; where it is not, note the user."""
        headers = Headers(scope=scope)
        if scope.get("method") not in _SAFE_METHODS and not self._is_origin_allowed(headers):
            return f"pages of {headers['origin'][:200]} may not use this server: see allow_origins"
        client = scope.get("client")
        request = UserRequest(
            # Of a repeated header the first counts, as it does with dict.setdefault.
            headers=_first_of_each(headers.items()),
            query=_first_of_each(QueryParams(scope["query_string"]).multi_items()),
            peer=client[0] if client else None,
        )
        user = await self._authenticator.authenticate(request)
        if user is None:
            return "who are you? Send your token as 'Authorization: token ...' or as ?token=..."
        scope["user"] = user
        return None

    def _is_origin_allowed(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or "*" in self._allow_origins:  # no browser, or any page
            return True
        return origin in self._allow_origins or urlsplit(origin).netloc == headers.get("host")


async def deny(websocket: WebSocket, status: int, message: str) -> None:
    """Answer a WebSocket's handshake as a request is answered; with a plain 403 if need be."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(error_response(status, message))
    else:
        await websocket.close()


def _first_of_each(pairs: list[tuple[str, str]]) -> dict[str, str]:
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    return first


def _with_security_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            for name, value in _SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return send_with_headers
