"""Guard: authenticate every request and WebSocket before the routes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, MutableMapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from kernelproto.exceptions import AuthenticatorUnavailable, RegistryError
from kernelproto.interfaces import UserRequest
from kernelproto.log_fields import logging_about
from kernelproto.server.auth.logins import Logins, TooManyLogins
from kernelproto.server.auth.revocation import Access
from kernelproto.server.nodes.requests import ARRIVED, target_of
from kernelproto.server.nodes.seal import HEADER, Assertion
from kernelproto.server.responses import SECURITY_HEADERS, error_response
from kernelproto.server.telemetry.audit import acting, audit

# Each kernel and each log line about a kernel has the name.
_MAX_NAME_CHARACTERS = 256

# The key of a scope for the client's address from a trusted proxy.
ADDRESS = "kernelproto.address"

_SAFE_METHODS = frozenset(("GET", "HEAD", "OPTIONS"))


class SecurityHeaders:
    """ASGI middleware: add the security headers to every response.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket or the lifespan."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(raw=message["headers"])
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


class Arrivals(Protocol):
    """Checks the requests that other servers forward."""

    async def arrival(self, value: str, *, method: str, target: str) -> Assertion | None:
        """Return the statement in a header; None if no other server has made it.

        Raises:
            RegistryError: the registry cannot be read.
        """
        ...


class _Challenge(Exception):
    """An unknown user must authenticate."""


class Guard:
    """ASGI middleware: authenticate requests, and refuse those from pages of other origins.

    Sets ``scope["user"]``. The response is 403 for unknown users (401 where clients expect this),
    and 403 for pages of other origins that change something or open a WebSocket: a browser may send
    credentials, such as those for a proxy, along with requests of any page.

    Args:
        app: the guarded application.
        logins: authenticates the requests.
        access: remembers the accepted requests.
        refuse: returns the response to a refused request, given the request and the reason.
        allow_origins: the origins of other sites with access to the server; ``"*"`` for all.
        public: the paths that need no authentication. Their routes have no user.
        challenging: the paths where an unknown user gets 401, and the challenge to send a token.
        arrivals: checks the requests that other servers forward, whose users these servers have
            authenticated; None if there are no other servers.
    """

    def __init__(
        self,
        app: ASGIApp,
        logins: Logins,
        *,
        access: Access,
        refuse: Callable[[Request, str], Response],
        allow_origins: Collection[str] = (),
        public: Collection[str] = (),
        challenging: Collection[str] = (),
        arrivals: Arrivals | None = None,
    ) -> None:
        self._app = app
        self._logins = logins
        self._access = access
        self._allow_origins = frozenset(origin.rstrip("/") for origin in allow_origins)
        self._public = frozenset(public)
        self._challenging = frozenset(challenging)
        self._refuse = refuse
        self._arrivals = arrivals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket or the lifespan."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "http" and path_in_app(scope) in self._public:
            await self._app(scope, receive, send)
            return
        try:
            refusal = await self._refusal(scope)
        except (AuthenticatorUnavailable, RegistryError) as error:
            await answer(scope, receive, send, error_response(503, str(error)))
            return
        except TooManyLogins as error:
            headers = {"Retry-After": str(error.seconds)}
            await answer(scope, receive, send, error_response(429, str(error), headers))
            return
        except _Challenge as challenge:
            headers = {"WWW-Authenticate": "Bearer"}
            await answer(scope, receive, send, error_response(401, str(challenge), headers))
            return
        if refusal is None:
            name = scope["user"].name
            with logging_about(user=name), acting(name, address_of(scope)):
                await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._refuse(Request(scope), refusal)(scope, receive, send)
        else:
            await answer(scope, receive, send, error_response(403, refusal))

    async def _refusal(self, scope: MutableMapping[str, Any]) -> str | None:
        """Return why the request is refused; set the user of an accepted request and return None.

        Raises:
            _Challenge: the user is unknown, on a path that challenges.
        """
        headers = Headers(scope=scope)
        if self._arrivals is not None and HEADER in headers:
            return await self._arrive(self._arrivals, scope, headers[HEADER])
        if scope.get("method") not in _SAFE_METHODS and not self._is_origin_allowed(headers):
            with acting(None, address_of(scope)):
                reason = f"origin {headers['origin'][:100]}"
                audit("login", "refused", path=scope["path"], reason=reason)
            origin = headers["origin"][:100]
            return f"pages of {origin} may not use this server: ask its administrator to allow them"
        request = user_request(scope)
        user = await self._logins.authenticate(
            request, address=address_of(scope), path=scope["path"]
        )
        if user is None:
            if scope["type"] == "http" and path_in_app(scope) in self._challenging:
                raise _Challenge("missing or unknown token: send 'Authorization: Bearer TOKEN'")
            return (
                "missing or unknown token: send yours as 'Authorization: token ...' or ?token=..."
            )
        if len(user.name) > _MAX_NAME_CHARACTERS:
            return f"your user name is longer than {_MAX_NAME_CHARACTERS} characters"
        scope["user"] = user
        self._access.note(user, request)
        return None

    async def _arrive(
        self, arrivals: Arrivals, scope: MutableMapping[str, Any], value: str
    ) -> str | None:
        """Accept a request that another server has authenticated; return as _refusal() does."""
        method = scope.get("method", "GET")
        assertion = await arrivals.arrival(value, method=method, target=target_of(scope))
        if assertion is None:
            return "another server has to forward this request with the secret of the registry"
        scope["user"] = assertion.user
        scope["client"] = None if assertion.peer is None else (assertion.peer, 0)
        scope[ADDRESS] = assertion.address
        scope[ARRIVED] = True
        if assertion.has_credentials:
            self._access.note(assertion.user, user_request(scope))
        return None

    def _is_origin_allowed(self, headers: Headers) -> bool:
        origin = headers.get("origin")
        if origin is None or "*" in self._allow_origins:  # no browser, or all are allowed
            return True
        host = headers.get("host")
        return origin in self._allow_origins or (bool(host) and _host_of(origin) == host)


def _host_of(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # such as an unclosed bracket
        return None


def user_request(scope: Mapping[str, Any]) -> UserRequest:
    """Return the parts of a request for an authenticator; of repeated fields the first counts."""
    return UserRequest(
        headers=_first_of_each(Headers(raw=scope["headers"]).items()),
        query=_first_of_each(QueryParams(scope["query_string"]).multi_items()),
        peer=peer_of(scope),
    )


def address_of(scope: Mapping[str, Any]) -> str | None:
    """Return the address of the client; None if unknown."""
    address: str | None = scope[ADDRESS] if ADDRESS in scope else peer_of(scope)
    return address


def peer_of(scope: Mapping[str, Any]) -> str | None:
    """Return the address of the peer, which may be a proxy; None if unknown."""
    client = scope.get("client")
    return client[0] if client else None


def path_in_app(scope: Mapping[str, Any]) -> str:
    """Return the path of a request without the prefix under which the application is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


async def deny(websocket: WebSocket, status: int, message: str) -> None:
    """Refuse the handshake of a WebSocket with an error response."""
    response = error_response(status, message)
    await answer(websocket.scope, websocket.receive, websocket.send, response)


async def answer(scope: Scope, receive: Receive, send: Send, response: Response) -> None:
    """Send a response to a request or to the handshake of a WebSocket.

    If the server supports no responses to handshakes, the client gets a plain 403.
    """
    if scope["type"] != "websocket":
        await response(scope, receive, send)
        return
    websocket = WebSocket(scope, receive, send)
    if "websocket.http.response" in scope.get("extensions", {}):
        await websocket.send_denial_response(response)
    else:
        await websocket.close()


def _first_of_each(pairs: list[tuple[str, str]]) -> dict[str, str]:
    first: dict[str, str] = {}
    for name, value in pairs:
        first.setdefault(name, value)
    return first
