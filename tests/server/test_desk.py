"""What a client may say about the kernel that it wants, and how many it may start."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import anyio
import pytest

from kernelproto import LaunchError
from kernelproto.launch.parameters import kernel_environment
from kernelproto.server.desk import allowed_env
from kernelproto.server.logs import JsonLines
from kernelproto.testing import FakeProvider


def test_variables_that_clients_may_set() -> None:
    env = {"KERNEL_X": "1", "kernel_y": "2", "PATH": "3", "LANG": "4", "XKERNEL_": "5"}
    assert allowed_env(env, ["LANG"]) == {"KERNEL_X": "1", "LANG": "4"}


def test_variables_of_clients_do_not_quote_those_of_the_server(monkeypatch) -> None:
    monkeypatch.setenv("SERVERS", "secret")
    env = {"KERNEL_X": "${SERVERS}", "KERNEL_Y": "$${SERVERS} $SERVERS"}
    environment = kernel_environment({"OF_TYPE": "${KERNEL_X}"}, allowed_env(env, []))
    assert {name: environment[name] for name in env} == env
    assert environment["OF_TYPE"] == "${SERVERS}"


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_nobody_starts_too_many_in_a_short_time(serving) -> None:
    settings = {"starts_per_minute": 0.1, "start_burst": 3}
    async with serving(settings, max_per_user=5) as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        assert (await ada.post("/api/sessions", json={"path": "x", "type": "y"})).status_code == 201
        assert (await ada.post(f"/api/kernels/{kernel_id}/restart")).status_code == 200
        for path, body in [
            ("/api/kernels", None),
            ("/api/sessions", {"path": "z", "type": "y"}),
            (f"/api/kernels/{kernel_id}/restart", None),
        ]:
            refused = await ada.post(path, json=body)
            assert refused.status_code == 429
            assert 0 < int(refused.headers["retry-after"]) <= 600
            assert "try again" in refused.json()["message"]
        assert (await ada.post("/api/kernels", json={"id": kernel_id})).status_code == 201
        assert (await ada.post(f"/api/kernels/{kernel_id}/interrupt")).status_code == 204
        await server.start("bob")
        async with server.client("root") as root:
            numbers = (await root.get("/metrics")).text
        assert 'kernelproto_starts_refused_total{by="rate_limit"} 3.0' in numbers
        assert len(server.provider.kernels) == 4


@pytest.fixture
def log() -> Iterator[list[dict[str, str]]]:
    """Give the lines that are logged."""
    lines: list[dict[str, str]] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(JsonLines().format(record)))

    handler = Handler()
    logger = logging.getLogger("kernelproto")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_log_tells_whose_kernel_it_is_about(serving, log, monkeypatch) -> None:
    async def fail(self, name, **options):
        raise LaunchError("out of kernels")

    async with serving() as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        await ada.post(f"/api/kernels/{kernel_id}/restart")
        async with server.connect("ada", kernel_id) as socket:
            monkeypatch.setattr(FakeProvider, "launch", fail)
            server.provider.kernels[1].die()
            await socket.receive_until("status")
            with pytest.raises(anyio.EndOfStream):
                await socket.receive_until("nothing")
        await ada.post("/api/kernels")
    for words in ("is ready", "to restart", "restart 1 of a kernel failed", "is ended", "a client"):
        (line,) = [line for line in log if words in line["message"]]
        assert (line["kernel_id"], line["user"]) == (kernel_id, "ada")
    (line,) = [line for line in log if "could not be started" in line["message"]]
    assert line["user"] == "ada"
    assert line["kernel_id"] != kernel_id
