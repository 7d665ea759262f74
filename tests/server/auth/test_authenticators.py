"""The authenticators that need no other service."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from kernelproto.exceptions import InvalidSettings
from kernelproto.interfaces import Authenticator, User, UserRequest
from kernelproto.server.auth.authenticators import (
    Anybody,
    ProxyHeader,
    Shared,
    SingleUserToken,
    TokenFile,
    hash_token,
    token_of,
)
from tests.server.auth.conftest import bearing

pytestmark = pytest.mark.anyio


def write(path: Path, **tokens: str) -> Path:
    path.write_text(
        "".join(f"[{user}]\ntoken = '{hash_token(token)}'\n" for user, token in tokens.items())
    )
    return path


@pytest.mark.parametrize(
    ("headers", "query", "token"),
    [
        ({"authorization": "token x"}, {}, "x"),
        ({"authorization": "Token x "}, {}, "x"),
        ({"authorization": "bearer x"}, {"token": "y"}, "x"),
        ({}, {"token": "y"}, "y"),
        ({"authorization": "Basic eDp5"}, {}, None),
        ({"authorization": "token"}, {}, None),
        ({"authorization": "x"}, {}, None),
        ({}, {"token": ""}, None),
        ({}, {}, None),
    ],
)
def test_token_of_a_request(headers, query, token) -> None:
    assert token_of(UserRequest(headers=headers, query=query)) == token


def test_all_are_authenticators(tmp_path) -> None:
    for authenticator in (
        SingleUserToken(),
        TokenFile(write(tmp_path / "users.toml")),
        ProxyHeader("x-user", trusted=[]),
        Anybody(),
        Shared(Anybody()),
    ):
        assert isinstance(authenticator, Authenticator)


async def test_single_token() -> None:
    one, other = SingleUserToken(), SingleUserToken("given")
    assert len(one.token) > 40
    assert await one.authenticate(bearing(one.token)) == User("user", admin=True)
    assert await other.authenticate(bearing("given")) == User("user", admin=True)
    for wrong in (one.token, "", "give", "given2", "gïven", "\udcff"):
        assert await other.authenticate(bearing(wrong)) is None


async def test_token_file(tmp_path) -> None:
    path = write(tmp_path / "users.toml", ada="tick", bob="tock")
    root = f"[root]\ntoken = '{hash_token('tack')}'\nadmin = true\ngroups = ['staff', 'x']\n"
    path.write_text(path.read_text() + root)
    users = TokenFile(path)
    assert await users.authenticate(bearing("tick")) == User("ada")
    assert await users.authenticate(bearing("tock")) == User("bob")
    groups = frozenset({"staff", "x"})
    assert await users.authenticate(bearing("tack")) == User("root", admin=True, groups=groups)
    assert await users.authenticate(bearing(hash_token("tick"))) is None
    assert await users.authenticate(UserRequest()) is None


async def test_token_file_is_read_again(tmp_path, caplog) -> None:
    path = write(tmp_path / "users.toml", ada="old")
    users = TokenFile(path)
    replacement = write(tmp_path / "new.toml", ada="new", bob="tock")
    os.replace(replacement, path)
    assert await users.authenticate(bearing("old")) is None
    assert await users.authenticate(bearing("new")) == User("ada")
    with caplog.at_level(logging.WARNING):
        path.write_text("[ada]\n")
        assert await users.authenticate(bearing("new")) == User("ada")
        path.unlink()
        assert await users.authenticate(bearing("tock")) == User("bob")
        assert await users.authenticate(bearing("tock")) == User("bob")
    assert len(caplog.records) == 2  # once for each change


@pytest.mark.parametrize(
    "text",
    [
        "[ada]",
        "[ada]\ntoken = 'in the clear'",
        "[ada]\ntoken = 'sha256:abc'",
        f"[ada]\ntoken = '{hash_token('x').upper()}'",
        f"[ada]\ntoken = '{hash_token('x')}'\nadmn = true",
        f"[ada]\ntoken = '{hash_token('x')}'\n[bob]\ntoken = '{hash_token('x')}'",
        "ada",
    ],
)
def test_invalid_token_file(tmp_path, text: str) -> None:
    path = tmp_path / "users.toml"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match=r"users\.toml"):
        TokenFile(path)


def test_missing_token_file(tmp_path) -> None:
    path = tmp_path / "users.toml"
    with pytest.raises(InvalidSettings) as caught:
        TokenFile(path)
    assert str(caught.value) == f"cannot read {path}: No such file or directory"


@pytest.mark.parametrize(
    ("peer", "name", "user"),
    [
        ("10.0.0.7", "ada", User("ada")),
        ("::ffff:10.0.0.7", "ada", User("ada")),
        ("fd00::1", "root", User("root", admin=True)),
        ("10.0.1.7", "ada", None),
        ("fd00::2", "ada", None),
        ("10.0.0.7", " ", None),
        ("10.0.0.7", None, None),
        ("testclient", "ada", None),
        (None, "ada", None),
    ],
)
async def test_proxy_header(peer: str | None, name: str | None, user: User | None) -> None:
    proxy = ProxyHeader("X-User", trusted=["10.0.0.0/24", "fd00::1"], admins=["root"])
    headers = {"x-forwarded-for": "10.0.0.7"} | ({} if name is None else {"x-user": name})
    assert await proxy.authenticate(UserRequest(headers=headers, peer=peer)) == user


async def test_proxy_header_with_groups() -> None:
    headers = {"x-user": "ada", "x-groups": "students, , staff "}
    request = UserRequest(headers=headers, peer="10.0.0.7")
    for groups_header, groups in [("X-Groups", {"students", "staff"}), (None, set())]:
        proxy = ProxyHeader("X-User", trusted=["10.0.0.0/24"], groups_header=groups_header)
        assert await proxy.authenticate(request) == User("ada", groups=frozenset(groups))


@pytest.mark.parametrize(
    ("host", "let_in"),
    [
        ("localhost:8888", True),
        ("127.0.0.1", True),
        ("[::1]:8888", True),
        ("[::1]", True),
        ("evil.test:8888", False),
        ("localhost.evil.test", False),
        ("", False),
    ],
)
async def test_anybody_needs_a_host_header_of_this_machine(host: str, let_in: bool) -> None:
    user = await Anybody().authenticate(UserRequest(headers={"host": host}))
    assert (user is not None) == let_in


async def test_shared_maps_all_users_to_one(tmp_path) -> None:
    users = Shared(TokenFile(write(tmp_path / "users.toml", ada="tick", bob="tock")))
    ada, bob = [await users.authenticate(bearing(token)) for token in ("tick", "tock")]
    assert ada == bob == User("user")
    assert await users.authenticate(bearing("wrong")) is None
