"""Bodies of requests, and responses to errors."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from anyio.lowlevel import checkpoint

from kernelproto import LaunchError
from kernelproto.testing import FakeProvider

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"name": "nonsense"}', 404, "nonsense"),
        (b'{"id": "nonsense"}', 404, "nonsense"),
        (b'{"kernel_id": "nonsense"}', 400, "UUID"),
        (b"{", 400, "body"),
        (b"[]", 400, "object"),
        (b'{"name": 1}', 400, "name"),
        (b'{"env": {"KERNEL_X": 1}}', 400, "env"),
        (b'{"env": "x"}', 400, "env"),
        (b"[" * 100_000, 400, "body"),
    ],
)
async def test_invalid_bodies_are_refused(serving, body: bytes, status: int, says: str) -> None:
    async with serving() as server, server.client("ada") as ada:
        response = await ada.post("/api/kernels", content=body)
        assert response.status_code == status
        assert set(response.json()) == {"message", "reason"}
        assert says in response.json()["message"]
        assert server.pool.kernels() == []


async def test_body_is_read_up_to_the_limit(serving) -> None:
    reads, sent = 0, []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/kernels",
        "query_string": b"token=ada",
        "headers": [],
    }

    async def receive() -> dict[str, object]:
        nonlocal reads
        reads += 1
        return {"type": "http.request", "body": b" " * 1000, "more_body": True}

    async def send(event: dict[str, object]) -> None:
        sent.append(event)

    async with serving({"max_body_bytes": 5000}) as server:
        await server.app(scope, receive, send)
    assert sent[0]["status"] == 413
    assert reads == 6


async def test_slow_body_is_answered_408(serving, monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.server.responses.BODY_SECONDS", 0.01)

    async def trickle() -> AsyncGenerator[bytes]:
        while True:
            yield b" "
            await checkpoint()

    async with serving() as server, server.client("ada") as ada:
        for method, path in [("POST", "/api/kernels"), ("POST", "/api/sessions")]:
            response = await ada.request(method, path, content=trickle())
            assert response.status_code == 408
            assert response.json() == {
                "message": "the body did not arrive within 0.01 s",
                "reason": "Request Timeout",
            }
        assert server.pool.kernels() == []


async def test_error_of_a_failed_start_has_no_details(serving, monkeypatch) -> None:
    async def launch(self, name, **options):
        raise LaunchError("it does not start\ncommand: secret --key 1234\nTraceback")

    monkeypatch.setattr(FakeProvider, "launch", launch)
    async with serving() as server, server.client("ada") as ada:
        response = await ada.post("/api/kernels")
        assert response.status_code == 502
        assert response.json() == {"message": "it does not start", "reason": "Bad Gateway"}


async def test_response_to_a_bug_has_no_traceback(serving, monkeypatch) -> None:
    async with serving() as server:
        monkeypatch.setattr(server.pool, "kernels", lambda user: 1 / 0)
        async with server.client("ada") as ada:
            ada._transport.raise_app_exceptions = False
            response = await ada.get("/api/kernels")
        monkeypatch.undo()
    assert response.status_code == 500
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "division" not in response.text
