"""Users of a JupyterHub, with a small server that answers like its API."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial

import anyio
import pytest
from anyio.abc import SocketStream

from kernelproto import AuthenticatorUnavailable, InvalidSettings
from kernelproto.interfaces import Authenticator, User, UserRequest
from kernelproto.server import HubToken
from kernelproto.server.auth import jupyterhub
from tests.server.auth.conftest import GUARD_SECONDS, bearing, on_loopback

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

SCOPE = "access:services!service=kernels"
USERS = {
    "ada's": {"kind": "user", "name": "ada", "admin": False, "groups": [], "scopes": []},
    "root's": {"kind": "user", "name": "root", "admin": True},
    "old": {"name": "olga", "admin": None},
    "service's": {"kind": "service", "name": "ada", "admin": True},
    "narrow": {"kind": "user", "name": "ada", "scopes": ["read:users:name"]},
    "fitting": {"kind": "user", "name": "ada", "scopes": ["x", SCOPE]},
    "student's": {"kind": "user", "name": "sam", "groups": ["students", "staff"]},
    "wide": {"kind": "user", "name": "ada", "scopes": ["access:services"]},
    "other": {"kind": "user", "name": "ada", "scopes": ["access:services!service=other"]},
}

Answer = Callable[[SocketStream, bytes], Awaitable[None]]


class Hub:
    """A server on loopback that calls *answer* with each request."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hub/api"
        self.requests: list[bytes] = []
        self.answer: Answer = answer_as_a_hub

    async def serve(self, stream: SocketStream) -> None:
        # The client may disconnect at any time.
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            async with stream:
                request = await stream.receive()
                while request.startswith(b"GET ") and b"\r\n\r\n" not in request:
                    request += await stream.receive()
                self.requests.append(request)
                await self.answer(stream, request)


def response(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def answer_as_a_hub(stream: SocketStream, request: bytes) -> None:
    token = request.partition(b"Authorization: token ")[2].partition(b"\r\n")[0].decode()
    if token in USERS:
        await stream.send(response("200 OK", json.dumps(USERS[token]).encode()))
    else:
        await stream.send(response("403 Forbidden", b'{"status": 403}'))


def always(data: bytes) -> Answer:
    async def answer(stream: SocketStream, request: bytes) -> None:
        await stream.send(data)

    return answer


Opened = Callable[[], AbstractAsyncContextManager[Hub]]


@pytest.fixture
def opened() -> Opened:
    return partial(on_loopback, Hub)


async def test_hub_names_the_user(opened) -> None:
    async with opened() as hub:
        users = HubToken(hub.url)
        assert isinstance(users, Authenticator)
        assert await users.authenticate(bearing("ada's")) == User("ada")
        assert await users.authenticate(bearing("root's")) == User("root", admin=True)
        assert await users.authenticate(bearing("old")) == User("olga")
        assert await users.authenticate(UserRequest(query={"token": "narrow"})) == User("ada")
        groups = frozenset({"students", "staff"})
        assert await users.authenticate(bearing("student's")) == User("sam", groups=groups)
        for wrong in ("service's", "nobody's"):
            assert await users.authenticate(bearing(wrong)) is None
        assert await users.authenticate(UserRequest()) is None
    first, *_ = hub.requests
    assert first.startswith(b"GET /hub/api/user HTTP/1.1\r\n")
    assert f"Host: {hub.url.split('/')[2]}\r\n".encode() in first


async def test_token_needs_a_scope(opened) -> None:
    async with opened() as hub:
        users = HubToken(hub.url, scopes=[SCOPE])
        let_in = [token for token in USERS if await users.authenticate(bearing(token))]
    assert let_in == ["fitting", "wide"]


async def test_malformed_token_is_not_sent_to_the_hub(opened) -> None:
    async with opened() as hub:
        users = HubToken(hub.url)
        for token in ("a b", "a\r\nX: y", "\N{SNOWMAN}", "\0", "x" * 1001):
            assert await users.authenticate(UserRequest(query={"token": token})) is None
    assert hub.requests == []


async def test_answers_are_cached(opened, monkeypatch) -> None:
    monkeypatch.setattr(jupyterhub, "_MAX_REMEMBERED", 2)
    async with opened() as hub:
        users = HubToken(hub.url)
        for token, requests in [
            ("ada's", 1),
            ("ada's", 1),
            ("nobody's", 2),
            ("nobody's", 3),  # unknown tokens are not cached
            ("root's", 4),
            ("ada's", 4),
            ("old", 5),
            ("root's", 5),
            ("ada's", 6),  # only two are remembered
        ]:
            await users.authenticate(bearing(token))
            assert len(hub.requests) == requests
        forgetful = HubToken(hub.url, cache_seconds=0)
        for requests in (7, 8):
            assert await forgetful.authenticate(bearing("ada's")) == User("ada")
            assert len(hub.requests) == requests


async def test_concurrent_requests_share_an_answer(opened) -> None:
    found: list[User | None] = []

    async def ask(users: HubToken) -> None:
        found.append(await users.authenticate(bearing("ada's")))

    async with opened() as hub:
        users = HubToken(hub.url)
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask, users)
    assert found == [User("ada")] * 50
    assert len(hub.requests) == 1


async def test_cancelled_request_does_not_disturb_others(opened) -> None:
    asked, answers = anyio.Event(), anyio.Event()

    async def answer(stream: SocketStream, request: bytes) -> None:
        asked.set()
        await answers.wait()
        await answer_as_a_hub(stream, request)

    async with opened() as hub:
        hub.answer = answer
        users = HubToken(hub.url, timeout=GUARD_SECONDS)
        found: list[User | None] = []

        async def ask() -> None:
            found.append(await users.authenticate(bearing("ada's")))

        async with anyio.create_task_group() as outer:
            async with anyio.create_task_group() as impatient:
                impatient.start_soon(ask)
                await asked.wait()
                outer.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
                impatient.cancel_scope.cancel()
            answers.set()
    assert found == [User("ada")]


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        response("200 OK", b"<html>"),
        response("200 OK", b"[]"),
        response("200 OK", b'{"name": 1}'),
        response("200 OK", b'{"kind": "user"}'),
        response("200 OK", b'{"name": ""}'),
        pytest.param(response("200 OK", b"[" * 100_000), id="deep"),
        pytest.param(response("200 OK", b" " * (2**20 + 1)), id="endless"),
        response("302 Found", b"", "Location: http://127.0.0.1:1/"),
        response("404 Not Found", b""),
        response("500 Internal Server Error", b""),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
async def test_invalid_answers(opened, answer: bytes) -> None:
    async with opened() as hub:
        users = HubToken(hub.url)
        hub.answer = always(answer)
        with pytest.raises(AuthenticatorUnavailable):
            await users.authenticate(bearing("ada's"))
        hub.answer = always(b"HTTP/1.1 103 Early Hints\r\n\r\n" + response("403 Forbidden", b""))
        assert await users.authenticate(bearing("ada's")) is None


async def test_silent_hub_times_out(opened) -> None:
    async def be_silent(stream: SocketStream, request: bytes) -> None:
        await anyio.sleep_forever()

    async def ask(users: HubToken, token: str) -> None:
        with pytest.raises(AuthenticatorUnavailable):
            await users.authenticate(bearing(token))

    async with opened() as hub:
        hub.answer = be_silent
        users = HubToken(hub.url, timeout=0.1)
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, users, f"token-{number % 50}")


async def test_concurrent_requests_are_limited(opened) -> None:
    waiting, most, answers = 0, 0, anyio.Event()

    async def answer(stream: SocketStream, request: bytes) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        if waiting == 20:
            answers.set()
        await answers.wait()
        waiting -= 1
        await answer_as_a_hub(stream, request)

    async def ask(users: HubToken, token: str) -> None:
        assert await users.authenticate(bearing(token)) is None

    async with opened() as hub:
        hub.answer = answer
        users = HubToken(hub.url, timeout=GUARD_SECONDS)
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, users, f"token-{number}")
    assert most == 20
    assert len(hub.requests) == 100


async def test_unknown_tokens_do_not_delay_known_users(opened) -> None:
    async def answer(stream: SocketStream, request: bytes) -> None:
        if b"random-" in request:
            await anyio.sleep_forever()
        await answer_as_a_hub(stream, request)

    async def ask(token: str) -> None:
        await users.authenticate(bearing(token))

    async with opened() as hub:
        hub.answer = answer
        users = HubToken(hub.url, timeout=GUARD_SECONDS, cache_seconds=0)
        assert await users.authenticate(bearing("ada's")) == User("ada")
        async with anyio.create_task_group() as strangers:
            for number in range(100):
                strangers.start_soon(ask, f"random-{number}")
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                assert await users.authenticate(bearing("ada's")) == User("ada")
            strangers.cancel_scope.cancel()


async def test_unreachable_hub_is_logged_once(opened, caplog) -> None:
    async with opened() as hub:
        pass
    users = HubToken(hub.url)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            with pytest.raises(AuthenticatorUnavailable, match="try again later") as caught:
                await users.authenticate(bearing("ada's"))
            assert hub.url not in str(caught.value)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert hub.url in caplog.text
    assert "ada's" not in caplog.text


async def test_recovery_of_the_hub_is_logged(opened, caplog) -> None:
    async with opened() as hub:
        users = HubToken(hub.url)
        hub.answer = always(response("503 Service Unavailable", b""))
        with caplog.at_level(logging.INFO):
            with pytest.raises(AuthenticatorUnavailable):
                await users.authenticate(bearing("ada's"))
            hub.answer = answer_as_a_hub
            for _ in range(2):
                assert await users.authenticate(bearing("ada's")) == User("ada")
    down, up = caplog.messages
    assert "status 503" in down
    assert "responds again" in up


async def test_https_sends_no_token_in_plain_text(opened) -> None:
    async with opened() as hub:
        users = HubToken(hub.url.replace("http:", "https:"))
        hub.answer = always(b"plain\r\n\r\n")
        with pytest.raises(AuthenticatorUnavailable):
            await users.authenticate(bearing("ada's"))
    assert hub.requests
    assert not any(b"ada's" in request for request in hub.requests)


async def test_response_is_503_while_the_hub_is_down(opened, serving) -> None:
    async with opened() as hub:
        pass
    async with serving(authenticator=HubToken(hub.url)) as server:
        async with server.client("ada's") as client:
            response = await client.get("/api/kernels")
            assert response.status_code == 503
            assert response.json()["reason"] == "Service Unavailable"
            assert response.headers["x-content-type-options"] == "nosniff"
        async with server.connect("ada's", "nonsense") as socket:
            assert socket.refused == 503
            assert b"try again later" in socket.refusal


async def test_revoked_token_closes_open_websockets(opened, serving, monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.server.auth.revocation.RECHECK_SECONDS", 0.01)
    async with (
        opened() as hub,
        serving(authenticator=HubToken(hub.url, cache_seconds=0.01)) as server,
    ):
        kernel_id = await server.start("ada's")
        async with server.connect("ada's", kernel_id) as socket:
            hub.answer = always(response("500 Internal Server Error", b""))
            await socket.finish(await socket.execute("6 * 7"))
            hub.answer = always(response("403 Forbidden", b'{"status": 403}'))
            assert (await socket.receive_close())[0] == 4401


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hub",
        "127.0.0.1:8081",
        "ftp://hub/hub/api",
        "file:///hub/api",
        "http:///hub/api",
        "http://hub:x/hub/api",
        "http://user:secret@hub/hub/api",
        "http://hub/hub/api?x=y",
        "http://hub/hub api",
        "http://h\N{LATIN SMALL LETTER U WITH DIAERESIS}b/hub/api",
    ],
)
def test_invalid_urls(url: str) -> None:
    with pytest.raises(InvalidSettings, match="hub_api_url") as caught:
        HubToken(url)
    assert "secret" not in str(caught.value)
