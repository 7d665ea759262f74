"""Authentication, origins and security headers, in front of a small application."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from kernelproto.exceptions import AuthenticatorUnavailable
from kernelproto.interfaces import User, UserRequest
from kernelproto.server.auth.authenticators import token_of
from kernelproto.server.auth.logins import Logins
from kernelproto.server.auth.revocation import Access
from kernelproto.server.middleware.access import (
    ADDRESS,
    Guard,
    SecurityHeaders,
    address_of,
    path_in_app,
    peer_of,
    user_request,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


class ByName:
    """Takes the token for the user's name; "unknown" is refused, and "down" cannot be checked."""

    async def authenticate(self, request: UserRequest) -> User | None:
        name = token_of(request)
        if name == "down":
            raise AuthenticatorUnavailable("the hub does not respond")
        return None if name in (None, "unknown") else User(name)


async def app(scope: Any, receive: Any, send: Any) -> None:
    user = scope.get("user")
    await PlainTextResponse(user.name if user else "no user")(scope, receive, send)


def refuse(request: Request, reason: str) -> Response:
    return PlainTextResponse(reason, 403)


def guarded(**options: Any) -> Guard:
    logins = Logins(ByName(), per_minute=options.pop("per_minute", 0))
    return Guard(app, logins, access=Access(ByName()), refuse=refuse, **options)


async def request(app: Any, method: str = "GET", path: str = "/", **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server.test") as client:
        return await client.request(method, path, headers=headers)


@pytest.mark.parametrize(
    ("token", "status", "text"),
    [
        ("ada", 200, "ada"),
        ("unknown", 403, "missing or unknown token"),
        ("x" * 256, 200, "x" * 256),
        ("x" * 257, 403, "longer than 256 characters"),
        ("down", 503, "the hub does not respond"),
    ],
)
async def test_token_decides(token: str, status: int, text: str) -> None:
    response = await request(guarded(), authorization=f"token {token}")
    assert response.status_code == status
    assert text in response.text


async def test_unknown_user_is_challenged_where_clients_expect_it() -> None:
    app = guarded(challenging=["/mcp"])
    response = await request(app, "POST", "/mcp", authorization="Bearer unknown")
    assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert (await request(app, "POST", "/mcp", authorization="Bearer ada")).status_code == 200
    foreign = {"authorization": "Bearer ada", "origin": "http://other.test"}
    assert (await request(app, "POST", "/mcp", **foreign)).status_code == 403


async def test_request_without_a_token_is_refused() -> None:
    assert (await request(guarded())).status_code == 403


async def test_public_path_has_no_user() -> None:
    guard = guarded(public=["/healthz"])
    assert (await request(guard, path="/healthz")).text == "no user"
    assert (await request(guard, path="/healthz/x")).status_code == 403


async def test_address_with_too_many_failed_logins_must_wait() -> None:
    guard = guarded(per_minute=0.01)
    responses = [await request(guard, authorization=f"token {'unknown'}") for _ in range(51)]
    assert [response.status_code for response in responses] == [403] * 50 + [429]
    assert int(responses[-1].headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("method", "origin", "allowed", "status"),
    [
        ("POST", "https://evil.test", [], 403),
        ("POST", "http://[", [], 403),
        ("POST", "http://server.test", [], 200),
        ("POST", "https://friend.test", ["https://friend.test/"], 200),
        ("POST", "https://evil.test", ["*"], 200),
        ("GET", "https://evil.test", [], 200),
    ],
)
async def test_origin_decides_for_changes(
    method: str, origin: str, allowed: list[str], status: int
) -> None:
    guard = guarded(allow_origins=allowed)
    response = await request(guard, method, authorization="token ada", origin=origin)
    assert response.status_code == status


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        ({}, ["websocket.close"]),
        (
            {"websocket.http.response": {}},
            ["websocket.http.response.start", "websocket.http.response.body"],
        ),
    ],
)
async def test_refused_handshake_gets_a_response_where_the_server_can_send_one(
    extensions: dict[str, Any], expected: list[str]
) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(event: Any) -> None:
        sent.append(event)

    scope = {
        "type": "websocket",
        "path": "/",
        "query_string": b"",
        "headers": [],
        "extensions": extensions,
    }
    await guarded()(scope, receive, send)
    assert [event["type"] for event in sent] == expected


async def test_security_headers_do_not_replace_those_of_the_application() -> None:
    async def cached(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("x", headers={"cache-control": "max-age=60"})(scope, receive, send)

    headers = (await request(SecurityHeaders(cached))).headers
    assert headers["cache-control"] == "max-age=60"
    assert headers["x-content-type-options"] == "nosniff"


def test_parts_of_a_scope() -> None:
    scope: dict[str, Any] = {
        "path": "/hub/api",
        "root_path": "/hub",
        "client": ("10.0.0.1", 1),
        "headers": [(b"x", b"1"), (b"x", b"2")],
        "query_string": b"token=a&token=b",
    }
    assert user_request(scope) == UserRequest(
        headers={"x": "1"}, query={"token": "a"}, peer="10.0.0.1"
    )
    assert (address_of(scope), peer_of(scope)) == ("10.0.0.1", "10.0.0.1")
    assert address_of({**scope, ADDRESS: "192.0.2.7"}) == "192.0.2.7"
    assert peer_of({**scope, "client": None}) is None
    assert path_in_app(scope) == "/api"
