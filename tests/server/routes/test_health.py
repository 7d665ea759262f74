"""The routes for monitoring."""

from __future__ import annotations

import pytest

from kernelproto import AuthenticatorUnavailable
from kernelproto.interfaces import User, UserRequest

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@pytest.mark.parametrize("user", [None, "stranger", "ada"])
async def test_health_needs_no_token(serving, user: str | None) -> None:
    async with serving() as server, server.client(user) as client:
        response = await client.get("/healthz")
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
        assert response.headers["x-content-type-options"] == "nosniff"
        assert (await client.post("/healthz")).status_code == 405
        for path in ("/healthz/", "/healthz/x", "/metrics/"):
            assert (await client.get(path)).status_code != 200


@pytest.mark.parametrize(
    ("metrics_token", "token", "status"),
    [
        (None, None, 403),
        (None, "stranger", 403),
        (None, "ada", 403),
        (None, "root", 200),
        ("scraper", None, 403),
        ("scraper", "ada", 403),
        ("scraper", "root", 200),
        ("scraper", "scraper", 200),
        ("scraper", "scrape", 403),
    ],
)
async def test_metrics_need_a_token(
    serving, metrics_token: str | None, token: str | None, status: int
) -> None:
    async with serving({"metrics_token": metrics_token}) as server, server.client(token) as client:
        response = await client.get("/metrics")
        assert response.status_code == status
        assert ("kernelproto_kernels" in response.text) == (status == 200)


async def test_metrics_token_opens_no_other_route(serving) -> None:
    class Nobody:
        async def authenticate(self, request: UserRequest) -> User | None:
            return None

    settings = {"metrics_token": "scraper"}
    async with serving(settings, Nobody()) as server, server.client("scraper") as scraper:
        assert (await scraper.get("/metrics")).status_code == 200
        assert (await scraper.get("/api/kernels")).status_code == 403
        assert (await scraper.post("/api/kernels")).status_code == 403
        assert server.pool.kernels() == []


async def test_metrics_token_works_without_the_authenticator(serving) -> None:
    class Unavailable:
        async def authenticate(self, request: UserRequest) -> User | None:
            raise AuthenticatorUnavailable("ask again later")

    settings = {"metrics_token": "scraper"}
    async with serving(settings, Unavailable()) as server:
        for token, status in [("scraper", 200), ("root", 503)]:
            async with server.client(token) as client:
                assert (await client.get("/metrics")).status_code == status
                assert (await client.get("/healthz")).status_code == 200
