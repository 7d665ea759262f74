"""The client's address and URL, from the headers of a proxy."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from kernelproto.exceptions import InvalidSettings
from kernelproto.server import Settings
from kernelproto.server.middleware.access import address_of, peer_of
from kernelproto.server.middleware.forwarded import Forwarded

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

PROXY = "10.0.0.1"


async def tell(scope, receive, send) -> None:
    """Respond with the scope that the application sees."""
    request = Request(scope)
    seen = {
        "root": scope.get("root_path", ""),
        "path": scope["path"],
        "raw": scope["raw_path"].decode(),
        "base": str(request.base_url),
        "address": address_of(scope),
        "peer": peer_of(scope),
    }
    await Response(json.dumps(seen))(scope, receive, send)


async def ask(
    path: str, *, base_url: str = "", peer: str = PROXY, **headers: str
) -> httpx.Response:
    app = Forwarded(tell, base_url=base_url, trusted=[PROXY, "10.1.0.0/16"])
    transport = httpx.ASGITransport(app=app, client=(peer, 1))
    names = {f"x-forwarded-{name}": value for name, value in headers.items()}
    async with httpx.AsyncClient(transport=transport, base_url="http://server.test") as client:
        return await client.get(path, headers=names)


async def seen(path: str, **options: Any) -> dict[str, str]:
    response = await ask(path, **options)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    ("path", "base_url", "prefix", "root", "seen_path"),
    [
        ("/api", "", "", "", "/api"),
        ("/api", "", "/x", "/x", "/x/api"),
        ("/api", "", "/x/y/", "/x/y", "/x/y/api"),
        ("/x/api", "", "/x", "/x", "/x/api"),
        ("/xy/api", "", "/x", "/x", "/x/xy/api"),
        ("/x/api", "/x", "", "/x", "/x/api"),
        ("/x/api", "/x/", "", "/x", "/x/api"),
        ("/api", "/x", "", "/x", "/x/api"),
        ("/api", "/x", "/x", "/x", "/x/api"),
        ("/x/api", "/x", "/x", "/x", "/x/api"),
        ("/in/api", "/in", "/out", "/out/in", "/out/in/api"),
        ("/in/api", "/in", "/out/in", "/out/in", "/out/in/api"),
        ("/x/", "/x", "", "/x", "/x/"),
        ("/a%2Fb", "/x", "", "/x", "/x/a/b"),
    ],
)
async def test_prefix(path: str, base_url: str, prefix: str, root: str, seen_path: str) -> None:
    found = await seen(path, base_url=base_url, prefix=prefix)
    assert (found["root"], found["path"]) == (root, seen_path)
    assert found["base"] == f"http://server.test{root}/"
    assert found["raw"] == (f"{root}{path}" if path == "/a%2Fb" else seen_path)


@pytest.mark.parametrize("options", [{"base_url": "/x"}, {"prefix": "/x"}])
async def test_prefix_itself_is_redirected(options) -> None:
    response = await ask("/x?token=a%26b", **options)
    assert response.status_code == 307
    assert response.headers["location"] == "/x/?token=a%26b"


@pytest.mark.parametrize("prefix", ["x", "//evil.test", "/a b", "/a//b", "https://evil.test"])
async def test_invalid_prefix_is_refused(prefix: str) -> None:
    response = await ask("/api", prefix=prefix)
    assert response.status_code == 400
    assert "X-Forwarded-Prefix" in response.json()["message"]


@pytest.mark.parametrize(
    ("proto", "base"),
    [
        ("https", "https://server.test/"),
        ("HTTPS", "https://server.test/"),
        ("http", "http://server.test/"),
        ("", "http://server.test/"),
        ("javascript", "http://server.test/"),
        ("https, http", "https://server.test/"),
    ],
)
async def test_scheme(proto: str, base: str) -> None:
    assert (await seen("/api", proto=proto))["base"] == base


@pytest.mark.parametrize(
    ("hops", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("6.6.6.6, 192.0.2.7", "192.0.2.7"),  # a client can send the header itself
        ("192.0.2.7, 10.1.2.3", "192.0.2.7"),
        ("10.1.2.3", "10.1.2.3"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("unknown", PROXY),
        ("192.0.2.7, nonsense, 10.1.2.3", "10.1.2.3"),
        ("", PROXY),
        (",".join(["192.0.2.7"] * 5000), "192.0.2.7"),
        (",".join(["10.1.2.3"] * 5000), "10.1.2.3"),
    ],
)
async def test_address(hops: str, address: str) -> None:
    found = await seen("/api", **{"for": hops})
    assert (found["address"], found["peer"]) == (address, PROXY)


async def test_headers_of_other_clients_are_ignored() -> None:
    headers = {"for": "6.6.6.6", "proto": "https", "prefix": "/evil"}
    found = await seen("/api", peer="192.0.2.7", **headers)
    assert found == {
        "root": "",
        "path": "/api",
        "raw": "/api",
        "base": "http://server.test/",
        "address": "192.0.2.7",
        "peer": "192.0.2.7",
    }


@pytest.mark.parametrize("base_url", ["x", "//x", "/a b", "/a/../%2e", "http://x"])
async def test_invalid_base_url(base_url: str) -> None:
    with pytest.raises(InvalidSettings, match="base_url"):
        Settings(base_url=base_url)


async def test_page_locations_and_logos_are_below_the_base_url(serving) -> None:
    async with serving({"base_url": "/k"}) as server, server.client("ada") as ada:
        started = await ada.post("/k/api/kernels")
        assert started.status_code == 201
        kernel_id = started.json()["id"]
        assert started.headers["location"] == f"/k/api/kernels/{kernel_id}"
        document = {"path": "x", "type": "y", "kernel": {"id": kernel_id}}
        session = await ada.post("/k/api/sessions", json=document)
        assert session.headers["location"].startswith("/k/api/sessions/")
        for path in ("/k/", "/k/dashboard/script.js", "/k/healthz", "/healthz", "/api/kernels"):
            assert (await ada.get(path)).status_code == 200
        assert (await ada.get("/k/", headers={"accept": "text/html"})).status_code == 200
        async with server.connect("ada", kernel_id) as socket:  # a proxy has removed the prefix
            await socket.finish(await socket.execute("6 * 7"))
