"""Users whom a JupyterHub knows, with something on loopback that answers as one does."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from kernelproto import AuthenticatorUnavailable, InvalidSettings
from kernelproto.interfaces import Authenticator, User, UserRequest
from kernelproto.server import HubToken
from kernelproto.server.auth import jupyterhub

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

GUARD_SECONDS = 60
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
    """Listens on loopback; *answer* is called with each question."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/hub/api"
        self.questions: list[bytes] = []
        self.answer: Answer = answer_as_a_hub

    async def serve(self, stream: SocketStream) -> None:
        # Who asks may go at any time.
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            async with stream:
                question = await stream.receive()
                while question.startswith(b"GET ") and b"\r\n\r\n" not in question:
                    question += await stream.receive()
                self.questions.append(question)
                await self.answer(stream, question)


def response(status: str, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def answer_as_a_hub(stream: SocketStream, question: bytes) -> None:
    token = question.partition(b"Authorization: token ")[2].partition(b"\r\n")[0].decode()
    if token in USERS:
        await stream.send(response("200 OK", json.dumps(USERS[token]).encode()))
    else:
        await stream.send(response("403 Forbidden", b'{"status": 403}'))


def always(data: bytes) -> Answer:
    async def answer(stream: SocketStream, question: bytes) -> None:
        await stream.send(data)

    return answer


Opened = Callable[[], AbstractAsyncContextManager[Hub]]


@pytest.fixture
def opened() -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncGenerator[Hub]:
        with anyio.fail_after(GUARD_SECONDS):
            async with (
                await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
                anyio.create_task_group() as tasks,
            ):
                it = Hub(listener.extra(SocketAttribute.local_port))
                tasks.start_soon(listener.serve, it.serve)
                yield it
                tasks.cancel_scope.cancel()

    return opened


def bearing(token: str) -> UserRequest:
    return UserRequest(headers={"authorization": f"Bearer {token}"})


async def test_hub_says_who_it_is(opened) -> None:
    async with opened() as it:
        users = HubToken(it.url)
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
    first, *_ = it.questions
    assert first.startswith(b"GET /hub/api/user HTTP/1.1\r\n")
    assert f"Host: {it.url.split('/')[2]}\r\n".encode() in first


async def test_token_needs_a_scope(opened) -> None:
    async with opened() as it:
        users = HubToken(it.url, scopes=[SCOPE])
        let_in = [token for token in USERS if await users.authenticate(bearing(token))]
    assert let_in == ["fitting", "wide"]


async def test_what_is_no_token_is_not_asked_about(opened) -> None:
    async with opened() as it:
        users = HubToken(it.url)
        for token in ("a b", "a\r\nX: y", "\N{SNOWMAN}", "\0", "x" * 1001):
            assert await users.authenticate(UserRequest(query={"token": token})) is None
    assert it.questions == []


async def test_hub_is_asked_once_for_a_while(opened, monkeypatch) -> None:
    monkeypatch.setattr(jupyterhub, "_MAX_REMEMBERED", 2)
    async with opened() as it:
        users = HubToken(it.url)
        for token, questions in [
            ("ada's", 1),
            ("ada's", 1),
            ("nobody's", 2),
            ("nobody's", 3),  # it may be new in a moment
            ("root's", 4),
            ("ada's", 4),
            ("old", 5),
            ("root's", 5),
            ("ada's", 6),  # only two are remembered
        ]:
            await users.authenticate(bearing(token))
            assert len(it.questions) == questions
        forgetful = HubToken(it.url, cache_seconds=0)
        for questions in (7, 8):
            assert await forgetful.authenticate(bearing("ada's")) == User("ada")
            assert len(it.questions) == questions


async def test_hub_is_asked_once_by_many(opened) -> None:
    found: list[User | None] = []

    async def ask(users: HubToken) -> None:
        found.append(await users.authenticate(bearing("ada's")))

    async with opened() as it:
        users = HubToken(it.url)
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask, users)
    assert found == [User("ada")] * 50
    assert len(it.questions) == 1


async def test_who_gives_up_does_not_matter_to_others(opened) -> None:
    asked, answers = anyio.Event(), anyio.Event()

    async def answer(stream: SocketStream, question: bytes) -> None:
        asked.set()
        await answers.wait()
        await answer_as_a_hub(stream, question)

    async with opened() as it:
        it.answer = answer
        users = HubToken(it.url, timeout=GUARD_SECONDS)
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
async def test_other_answers_than_a_hubs(opened, answer: bytes) -> None:
    async with opened() as it:
        users = HubToken(it.url)
        it.answer = always(answer)
        with pytest.raises(AuthenticatorUnavailable):
            await users.authenticate(bearing("ada's"))
        it.answer = always(b"HTTP/1.1 103 Early Hints\r\n\r\n" + response("403 Forbidden", b""))
        assert await users.authenticate(bearing("ada's")) is None


async def test_hub_that_is_silent_is_not_waited_for(opened) -> None:
    async def be_silent(stream: SocketStream, question: bytes) -> None:
        await anyio.sleep_forever()

    async def ask(users: HubToken, token: str) -> None:
        with pytest.raises(AuthenticatorUnavailable):
            await users.authenticate(bearing(token))

    async with opened() as it:
        it.answer = be_silent
        users = HubToken(it.url, timeout=0.1)
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, users, f"token-{number % 50}")


async def test_hub_is_not_asked_about_too_many_at_once(opened) -> None:
    waiting, most, answers = 0, 0, anyio.Event()

    async def answer(stream: SocketStream, question: bytes) -> None:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        if waiting == 20:
            answers.set()
        await answers.wait()
        waiting -= 1
        await answer_as_a_hub(stream, question)

    async def ask(users: HubToken, token: str) -> None:
        assert await users.authenticate(bearing(token)) is None

    async with opened() as it:
        it.answer = answer
        users = HubToken(it.url, timeout=GUARD_SECONDS)
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(ask, users, f"token-{number}")
    assert most == 20
    assert len(it.questions) == 100


async def test_strangers_do_not_hold_up_users_whom_the_hub_has_let_in(opened) -> None:
    async def answer(stream: SocketStream, question: bytes) -> None:
        if b"random-" in question:
            await anyio.sleep_forever()
        await answer_as_a_hub(stream, question)

    async def ask(token: str) -> None:
        await users.authenticate(bearing(token))

    async with opened() as it:
        it.answer = answer
        users = HubToken(it.url, timeout=GUARD_SECONDS, cache_seconds=0)
        assert await users.authenticate(bearing("ada's")) == User("ada")
        async with anyio.create_task_group() as strangers:
            for number in range(100):
                strangers.start_soon(ask, f"random-{number}")
            await anyio.wait_all_tasks_blocked()
            for _ in range(3):
                assert await users.authenticate(bearing("ada's")) == User("ada")
            strangers.cancel_scope.cancel()


async def test_hub_that_is_down_is_told_of_once(opened, caplog) -> None:
    async with opened() as it:
        pass
    users = HubToken(it.url)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            with pytest.raises(AuthenticatorUnavailable, match="try again later") as caught:
                await users.authenticate(bearing("ada's"))
            assert it.url not in str(caught.value)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert it.url in caplog.text
    assert "ada's" not in caplog.text


async def test_hub_that_is_back_is_told_of(opened, caplog) -> None:
    async with opened() as it:
        users = HubToken(it.url)
        it.answer = always(response("503 Service Unavailable", b""))
        with caplog.at_level(logging.INFO):
            with pytest.raises(AuthenticatorUnavailable):
                await users.authenticate(bearing("ada's"))
            it.answer = answer_as_a_hub
            for _ in range(2):
                assert await users.authenticate(bearing("ada's")) == User("ada")
    down, up = caplog.messages
    assert "status 503" in down
    assert "responds again" in up


async def test_https_is_never_plain(opened) -> None:
    async with opened() as it:
        users = HubToken(it.url.replace("http:", "https:"))
        it.answer = always(b"plain\r\n\r\n")
        with pytest.raises(AuthenticatorUnavailable):
            await users.authenticate(bearing("ada's"))
    assert it.questions
    assert not any(b"ada's" in question for question in it.questions)


async def test_requests_are_told_that_the_hub_is_down(opened, serving) -> None:
    async with opened() as it:
        pass
    async with serving(authenticator=HubToken(it.url)) as server:
        async with server.client("ada's") as client:
            response = await client.get("/api/kernels")
            assert response.status_code == 503
            assert response.json()["reason"] == "Service Unavailable"
            assert response.headers["x-content-type-options"] == "nosniff"
        async with server.connect("ada's", "nonsense") as socket:
            assert socket.refused == 503
            assert b"try again later" in socket.refusal


async def test_user_whom_the_hub_forgets_loses_open_websockets(
    opened, serving, monkeypatch
) -> None:
    monkeypatch.setattr("kernelproto.server.auth.revocation.RECHECK_SECONDS", 0.01)
    async with (
        opened() as it,
        serving(authenticator=HubToken(it.url, cache_seconds=0.01)) as server,
    ):
        kernel_id = await server.start("ada's")
        async with server.connect("ada's", kernel_id) as socket:
            it.answer = always(response("500 Internal Server Error", b""))
            await socket.finish(await socket.execute("6 * 7"))
            it.answer = always(response("403 Forbidden", b'{"status": 403}'))
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
def test_addresses_that_cannot_be_used(url: str) -> None:
    with pytest.raises(InvalidSettings, match="hub_api_url") as caught:
        HubToken(url)
    assert "secret" not in str(caught.value)
