"""The events of the audit log; clients cannot forge a line."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from kernelproto.server.telemetry.audit import acting, audit

pytestmark = pytest.mark.usefixtures("no_leaks")

EVIL = 'ada\n2026-01-01 INFO login\x1b[2J\x85\u2028\x7f" outcome=ok'


@pytest.fixture
def events(caplog) -> Any:
    """Return a function that returns the events so far, except starts of kernels."""
    caplog.set_level(logging.INFO, "kernelproto.audit")

    def events(*names: str) -> list[dict[str, Any]]:
        audited = [r.audit for r in caplog.records if r.name == "kernelproto.audit"]
        return [event for event in audited if not names or event["event"] in names]

    return events


def test_value_cannot_begin_a_line(events, caplog) -> None:
    with acting(EVIL, "192.0.2.7"):
        audit("kernel.end", "refused", reason=EVIL, kernel_id="x" * 1000, port=1, owner=None)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    line = record.getMessage()
    assert line.isprintable()
    assert line.isascii()
    assert line.startswith(
        "event=kernel.end outcome=refused address=192.0.2.7 "
        'user="ada\\n2026-01-01 INFO login\\u001b[2J\\u0085\\u2028\\u007f\\" outcome=ok" reason='
    )
    assert line.endswith(f"kernel_id={'x' * 200} port=1")
    (event,) = events()
    assert event["user"] == EVIL


@pytest.mark.anyio
async def test_actions_of_an_admin_name_the_owner(serving, events) -> None:
    async with serving() as server, server.client("root") as root:
        kernel_id = await server.start("ada")
        one = f"/api/kernels/{kernel_id}"
        everyone = {"include_all": "1", "owner": "ada"}
        assert (await root.post(f"{one}/interrupt", params=everyone)).status_code == 204
        restarted = await root.post(f"{one}/restart", params=everyone)
        assert (restarted.status_code, restarted.json()["owner"]) == (200, "ada")
        assert (await root.delete(one, params={"include_all": "1"})).status_code == 204
        assert server.pool.kernels() == []
    assert events("kernel.interrupt", "kernel.restart", "kernel.end") == [
        {
            "event": event,
            "outcome": "ok",
            "user": "root",
            "address": "127.0.0.1",
            "kernel_id": kernel_id,
            "owner": "ada",
        }
        for event in ("kernel.interrupt", "kernel.restart", "kernel.end")
    ]


@pytest.mark.anyio
async def test_refused_restart_has_a_reason(serving, events) -> None:
    settings = {"starts_per_minute": 0.1, "start_burst": 1}
    async with serving(settings) as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        assert (await ada.post(f"/api/kernels/{kernel_id}/restart")).status_code == 429
    (event,) = events("kernel.restart")
    assert event["outcome"] == "refused"
    assert event["reason"].startswith("you have started too many kernels")


@pytest.mark.anyio
async def test_start_has_an_outcome(serving, events) -> None:
    async with serving({"start_burst": 2, "starts_per_minute": 0.1}) as server:
        kernel_id = await server.start("ada")
        async with server.client("ada") as ada:
            for body in ({"name": "nonsense"}, {}):
                assert (await ada.post("/api/kernels", json=body)).status_code in (404, 429)
            assert (await ada.post("/api/kernels", json={"id": kernel_id})).status_code == 201
    started, unknown, limited = events("kernel.start")
    assert started == {
        "event": "kernel.start",
        "outcome": "ok",
        "address": "127.0.0.1",
        "user": "ada",
        "kernel_id": kernel_id,
    }
    assert (unknown["outcome"], unknown["kernel_type"]) == ("refused", "nonsense")
    assert limited["outcome"] == "refused"
    assert "too many" in limited["reason"]


@pytest.mark.anyio
async def test_login_and_websocket_are_logged(serving, events) -> None:
    async with serving({"allow_origins": []}) as server:
        kernel_id = await server.start("ada")
        async with server.client("ada") as ada:
            await ada.get("/api/kernels?token=x")
            evil = await ada.post("/api/kernels", headers={"origin": "http://evil.test"})
            assert evil.status_code == 403
        async with server.connect("ada", kernel_id) as socket:
            await socket.send_raw("nonsense")
            await socket.receive_close()
        async with server.connect("ada", kernel_id):
            pass
        async with server.connect("ada", "nonsense\n") as socket:
            assert socket.refused == 404
        told = [(e["event"], e["outcome"]) for e in events() if e["event"] != "kernel.start"]
        assert told == [
            ("login", "ok"),
            ("login", "refused"),
            ("websocket.open", "ok"),
            ("websocket.close", "ok"),
            ("websocket.open", "ok"),
            ("websocket.close", "ok"),
            ("websocket.open", "refused"),
        ]
        login, origin, _, by_server, _, by_client, refused = [
            e for e in events() if e["event"] != "kernel.start"
        ]
        assert (login["user"], login["address"]) == ("ada", "127.0.0.1")
        assert origin["reason"] == "origin http://evil.test"
        assert (by_server["by"], by_server["code"], by_server["user"]) == ("server", 1007, "ada")
        assert (by_client["by"], by_client["code"]) == ("client", 1001)
        assert refused["kernel_id"] == "nonsense\n"
