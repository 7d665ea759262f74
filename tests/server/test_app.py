"""The REST API, with fake kernels and without a network."""

from __future__ import annotations

import uuid

import pytest

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

UNKNOWN_ID = str(uuid.UUID(int=0))
ROUTES = [
    ("GET", "/api"),
    ("GET", "/api/status"),
    ("GET", "/api/me"),
    ("GET", "/api/kernels"),
    ("POST", "/api/kernels"),
    ("GET", f"/api/kernels/{UNKNOWN_ID}"),
    ("DELETE", f"/api/kernels/{UNKNOWN_ID}"),
    ("POST", f"/api/kernels/{UNKNOWN_ID}/interrupt"),
    ("POST", f"/api/kernels/{UNKNOWN_ID}/restart"),
    ("GET", "/api/kernelspecs"),
    ("GET", "/api/kernelspecs/fake/kernel"),
    ("GET", "/kernelspecs/fake/kernel/logo-64x64.png"),
    ("GET", "/api/sessions"),
    ("POST", "/api/sessions"),
    ("GET", f"/api/sessions/{UNKNOWN_ID}"),
    ("PATCH", f"/api/sessions/{UNKNOWN_ID}"),
    ("DELETE", f"/api/sessions/{UNKNOWN_ID}"),
    ("GET", "/"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize("user", [None, "stranger"])
async def test_unknown_user_is_refused(serving, user: str | None) -> None:
    async with serving() as server, server.client(user) as client:
        for method, path in ROUTES:
            response = await client.request(method, path)
            assert (response.status_code, path) == (403, path)
            assert response.json()["reason"] == "Forbidden"
        assert server.pool.kernels() == []


async def test_responses_have_security_headers(serving) -> None:
    async with serving() as server:
        for user in ("ada", None):
            async with server.client(user) as client:
                headers = (await client.get("/api")).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["cache-control"] == "no-store"
            assert "set-cookie" not in headers


async def test_cors_preflight_needs_no_token(serving) -> None:
    """Its response has security headers, too."""
    asks = {
        "origin": "https://friend.test",
        "access-control-request-method": "DELETE",
        "access-control-request-headers": "authorization",
    }
    settings = {"allow_origins": ["https://friend.test"]}
    async with serving(settings) as server, server.client(**asks) as client:
        response = await client.options("/api/kernels")
        stranger = await client.options("/api/kernels", headers={"origin": "https://evil.test"})
    assert (response.status_code, stranger.status_code) == (200, 400)
    assert response.headers["access-control-allow-origin"] == "https://friend.test"
    assert "access-control-allow-origin" not in stranger.headers
    for headers in (response.headers, stranger.headers):
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"


async def test_routes_about_the_server_and_the_user(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        assert "version" in (await ada.get("/api")).json()
        before = (await ada.get("/api/status")).json()
        assert (before["kernels"], before["connections"]) == (0, 0)
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id):
            after = (await ada.get("/api/status")).json()
        assert (after["kernels"], after["connections"]) == (1, 1)
        assert before["started"] == after["started"] < after["last_activity"]
        identity = (await ada.get("/api/me")).json()["identity"]
        assert (identity["username"], identity["initials"]) == ("ada", "A")


async def test_unknown_routes_are_json_errors(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        for method, path, status in [
            ("GET", "/nowhere", 404),
            ("GET", "/api/kernels/..%2f..%2fetc", 404),
            ("PUT", "/api/kernels", 405),
            ("GET", "/api/kernels/\N{SNOWMAN}", 404),
        ]:
            response = await ada.request(method, path)
            assert response.status_code == status
            assert set(response.json()) == {"message", "reason"}


async def test_other_origins_are_refused(serving) -> None:
    async with serving({"allow_origins": ["https://friend.test/"]}) as server:
        for origin, status in [
            ("https://evil.test", 403),
            ("null", 403),
            ("http://[", 403),
            ("https://friend.test", 201),
        ]:
            async with server.client(f"user of {origin}", origin=origin) as client:
                assert (await client.post("/api/kernels")).status_code == status
