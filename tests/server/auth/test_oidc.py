"""Users with a token of an OpenID Connect provider."""

from __future__ import annotations

import json
import logging
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import jwt
import pytest
from anyio.abc import SocketStream
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kernelproto.exceptions import AuthenticatorUnavailable, InvalidSettings
from kernelproto.interfaces import Authenticator, User, UserRequest
from kernelproto.server import OidcToken
from kernelproto.server.auth import oidc
from tests.server.auth.conftest import bearing, on_loopback

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

AUDIENCE = "https://kernels.test"

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

ALGORITHMS = {
    "RS256": (RSA_KEY, jwt.algorithms.RSAAlgorithm),
    "ES256": (EC_KEY, jwt.algorithms.ECAlgorithm),
    "EdDSA": (ED_KEY, jwt.algorithms.OKPAlgorithm),
}


def public(algorithm: str, kid: str, key: Any = None, **fields: str) -> dict[str, Any]:
    """Return the public half of a key in the format of an issuer."""
    private, kind = ALGORITHMS[algorithm]
    described = kind.to_jwk((key or private).public_key(), as_dict=True)
    return {**described, "kid": kid, "use": "sig", **fields}


class Issuer:
    """An issuer that signs tokens and serves its public keys over HTTP.

    Attributes:
        keys: the public keys.
        asked: the requested paths.
        answer: the bytes of every response; None for valid responses.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/realm"
        self.keys = [public(algorithm, algorithm) for algorithm in ALGORITHMS]
        self.name = self.url
        self.asked: list[str] = []
        self.answer: bytes | None = None

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            request = b""
            while b"\r\n\r\n" not in request:
                request += await stream.receive()
            path = request.split()[1].decode()
            self.asked.append(path)
            documents = {
                "/realm/.well-known/openid-configuration": {
                    "issuer": self.name,
                    "jwks_uri": f"{self.url}/keys",
                },
                "/realm/keys": {"keys": self.keys},
            }
            body = json.dumps(documents[path]).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            await stream.send(head + body if self.answer is None else self.answer)

    def claims(self, **claims: Any) -> dict[str, Any]:
        now = int(time.time())
        usual = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 300}
        return {name: v for name, v in {**usual, **claims}.items() if v is not None}

    def token(self, algorithm: str = "RS256", key: Any = None, **claims: Any) -> str:
        headers = {"kid": claims.pop("kid", algorithm), "typ": claims.pop("typ", "JWT")}
        headers = {name: value for name, value in headers.items() if value is not None}
        key = key or ALGORITHMS[algorithm][0]
        return jwt.encode(self.claims(**claims), key, algorithm=algorithm, headers=headers)


Opened = Callable[[], AbstractAsyncContextManager[Issuer]]


@pytest.fixture
def opened() -> Opened:
    return partial(on_loopback, Issuer)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_token_names_its_user(opened, algorithm: str) -> None:
    async with opened() as issuer:
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        assert isinstance(users, Authenticator)
        for _ in range(3):
            token = issuer.token(algorithm)
            assert await users.authenticate(bearing(token)) == User("ada")
            assert await users.authenticate(UserRequest(query={"token": token})) == User("ada")
        assert len(issuer.asked) == 2  # once for both documents


async def test_claims(opened) -> None:
    async with opened() as issuer:
        users = OidcToken(
            issuer.url,
            audience=["other", AUDIENCE],
            name_claim="email",
            admin_claim="realm_access.roles",
            admin_values=["kernels-admin", "true"],
            admins=["root"],
            groups_claim="org.groups",
        )
        students = frozenset({"students"})
        for claims, user in [
            ({"email": "a", "org": {"groups": ["students", 1]}}, User("a", groups=students)),
            ({"email": "a", "org.groups": "students"}, User("a", groups=students)),
            ({"email": "a", "groups": ["students"]}, User("a")),
            ({"email": "a"}, User("a")),
            ({"email": "root"}, User("root", admin=True)),
            ({"email": "a", "realm_access": {"roles": ["x", "kernels-admin"]}}, User("a", True)),
            ({"email": "a", "realm_access": {"roles": "kernels-admin"}}, User("a", True)),
            ({"email": "a", "realm_access.roles": True}, User("a", True)),
            ({"email": "a", "realm_access": ["kernels-admin"]}, User("a")),
            ({"email": "a", "realm_access": {"roles": [{}, 1, None]}}, User("a")),
            ({"email": "a", "aud": ["x", "other"]}, User("a")),
            ({}, None),
            ({"email": ""}, None),
            ({"email": 1}, None),
            ({"email": "x" * 256}, None),
        ]:
            assert await users.authenticate(bearing(issuer.token(**claims))) == user


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.test"},
        {"aud": None},
        {"iss": "https://evil.test"},
        {"iss": None},
        {"exp": 1},
        {"exp": None},
        {"nbf": 2**40},
        {"key": OTHER_KEY},
        {"typ": "logout+jwt"},
        {"typ": "secevent+jwt"},
        {"kid": "unknown"},
        {"kid": "ES256"},
        {"kid": None},
    ],
    ids=lambda claims: ",".join(
        f"{name}={'other' if name == 'key' else claims[name]}" for name in claims
    ),
)
async def test_invalid_token(opened, claims) -> None:
    async with opened() as issuer:
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        assert await users.authenticate(bearing(issuer.token(**claims))) is None


async def test_token_signed_with_the_public_key_is_refused(opened) -> None:
    """Everyone has the public key, so it must not count as a shared secret."""

    def part(value: object) -> str:
        return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    async with opened() as issuer:
        issuer.keys.append({"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"})
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        secret = jwt.encode(issuer.claims(), "secret" * 10, "HS256", headers={"kid": "shared"})
        unsigned = f"{part({'alg': 'none', 'kid': 'RS256'})}.{part(issuer.claims())}."
        for token in (secret, unsigned, unsigned + "x"):
            assert await users.authenticate(bearing(token)) is None


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "..",
        "a.b.c",
        "e30.e30.e30",
        "W10.W10.W10",
        urlsafe_b64encode(b"[" * 9000).decode() + ".e30.e30",
        urlsafe_b64encode(b'{"alg": ["RS256"], "kid": {}}').decode() + ".e30.e30",
        "x" * 20_000,
        "\udcff",
    ],
)
async def test_malformed_token(opened, token: str) -> None:
    async with opened() as issuer:
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        assert await users.authenticate(UserRequest(query={"token": token})) is None
        assert issuer.asked == []


async def test_keys_are_rotated(opened, monkeypatch) -> None:
    monkeypatch.setattr(oidc, "_PAUSE_SECONDS", 0)
    async with opened() as issuer:
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        old, new = issuer.token(), issuer.token(key=OTHER_KEY, kid="new")
        assert await users.authenticate(bearing(old)) == User("ada")
        assert await users.authenticate(bearing(new)) is None
        issuer.keys.append(public("RS256", "new", OTHER_KEY))
        assert await users.authenticate(bearing(new)) == User("ada")
        assert await users.authenticate(bearing(old)) == User("ada")
        del issuer.keys[0]
        monkeypatch.setattr(oidc, "_KEYS_SECONDS", 0)
        assert await users.authenticate(bearing(old)) is None
        assert await users.authenticate(bearing(new)) == User("ada")


async def test_unknown_keys_do_not_cause_repeated_requests(opened) -> None:
    async with opened() as issuer:
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        for number in range(20):
            token = issuer.token(kid=f"made-up-{number}")
            assert await users.authenticate(bearing(token)) is None
        assert await users.authenticate(bearing(issuer.token())) == User("ada")
        assert len(issuer.asked) == 2


async def test_single_key_needs_no_id(opened) -> None:
    async with opened() as issuer:
        issuer.keys = [public("RS256", "x"), {"kty": "oct"}, {"kty": "RSA"}, {"kid": 1}]
        del issuer.keys[0]["kid"]
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        assert await users.authenticate(bearing(issuer.token(kid=None))) == User("ada")


async def test_unsuitable_keys_are_ignored(opened) -> None:
    async with opened() as issuer:
        issuer.keys = [public("RS256", "RS256", use="enc")]
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        assert await users.authenticate(bearing(issuer.token())) is None


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>",
    ],
)
async def test_issuer_without_a_valid_response(opened, monkeypatch, caplog, answer: bytes) -> None:
    monkeypatch.setattr(oidc, "_PAUSE_SECONDS", 0)
    async with opened() as issuer:
        issuer.answer = answer
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                with pytest.raises(AuthenticatorUnavailable, match="try again later"):
                    await users.authenticate(bearing(issuer.token()))
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            issuer.answer = None
            assert await users.authenticate(bearing(issuer.token())) == User("ada")
            assert "fetched the keys" in caplog.text
        # Its keys are believed for a while, and no others.
        issuer.answer = answer
        monkeypatch.setattr(oidc, "_KEYS_SECONDS", 0)
        assert await users.authenticate(bearing(issuer.token())) == User("ada")
        with pytest.raises(AuthenticatorUnavailable):
            await users.authenticate(bearing(issuer.token(kid="new")))
        monkeypatch.setattr(oidc, "_STALE_SECONDS", 0)
        with pytest.raises(AuthenticatorUnavailable):
            await users.authenticate(bearing(issuer.token()))


async def test_configuration_of_another_issuer_is_refused(opened) -> None:
    async with opened() as issuer:
        issuer.name = "https://evil.test"
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        with pytest.raises(AuthenticatorUnavailable):
            await users.authenticate(bearing(issuer.token()))


async def test_expired_token_closes_the_websocket(opened, serving, monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.server.auth.revocation.RECHECK_SECONDS", 0.01)
    monkeypatch.setattr(oidc, "_LEEWAY", 0)
    async with opened() as issuer:
        users = OidcToken(issuer.url, audience=[AUDIENCE])
        async with serving(authenticator=users) as server:
            kernel_id = await server.start(issuer.token())
            short = issuer.token(exp=int(time.time()) + 2)
            async with server.connect(short, kernel_id) as socket:
                assert (await socket.receive_close())[0] == 4401


@pytest.mark.parametrize(
    "issuer", ["", "login", "http://login.test", "ftp://login.test", "https://a:b@login.test"]
)
def test_invalid_issuer(issuer: str) -> None:
    with pytest.raises(InvalidSettings, match="oidc_issuer"):
        OidcToken(issuer, audience=[AUDIENCE])


def test_audience_is_required() -> None:
    with pytest.raises(InvalidSettings, match="oidc_audience"):
        OidcToken("https://login.test", audience=[])
