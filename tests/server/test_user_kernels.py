"""Starts of kernels by clients: variables, rate limit, queue and log."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto import LaunchError
from kernelproto.launch.spec.parameters import kernel_environment
from kernelproto.server.kernel_requests import allowed_env
from kernelproto.server.telemetry.logs import JsonLines
from kernelproto.testing import FakeProvider
from tests.server.conftest import Server


def test_variables_that_clients_may_set() -> None:
    env = {"KERNEL_X": "1", "kernel_y": "2", "PATH": "3", "LANG": "4", "XKERNEL_": "5"}
    assert allowed_env(env, ["LANG"]) == {"KERNEL_X": "1", "LANG": "4"}


def test_variables_of_clients_do_not_expand(monkeypatch) -> None:
    monkeypatch.setenv("SERVERS", "secret")
    env = {"KERNEL_X": "${SERVERS}", "KERNEL_Y": "$${SERVERS} $SERVERS"}
    environment = kernel_environment({"OF_TYPE": "${KERNEL_X}"}, allowed_env(env, []))
    assert {name: environment[name] for name in env} == env
    assert environment["OF_TYPE"] == "${SERVERS}"


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_starts_of_a_user_are_rate_limited(serving) -> None:
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
    """Return the list of log records."""
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
async def test_log_records_name_the_kernel_and_the_user(serving, log, monkeypatch) -> None:
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
    for words in ("ready after", "restart requested", "restart 1 of", "ending the", "WebSocket"):
        (line,) = [line for line in log if words in line["message"]]
        assert (line["kernel_id"], line["user"]) == (kernel_id, "ada")
    (line,) = [line for line in log if "could not be started" in line["message"]]
    assert line["user"] == "ada"
    assert line["kernel_id"] != kernel_id


STARTS = [("/api/kernels", {}), ("/api/sessions", {"path": "x", "type": "notebook"})]


async def until_one_waits(server: Server) -> None:
    """Return when a start waits in the queue."""
    while not server.pool._executor._plan.has_unserved:
        await checkpoint()


@asynccontextmanager
async def full_server(serving, seconds: float) -> AsyncGenerator[tuple[Server, str]]:
    """Serve at most one kernel, which ada has and uses; yield its id."""
    async with serving({"queue_seconds": seconds}, max_kernels=1) as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id):
            yield server, kernel_id


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(("path", "body"), STARTS)
async def test_start_waits_in_the_queue(serving, path: str, body: dict[str, str]) -> None:
    async with full_server(serving, 3600) as (server, kernel_id), server.client("bob") as bob:
        responses = []

        async def start() -> None:
            responses.append(await bob.post(path, json=body))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            await until_one_waits(server)
            assert responses == []
            second = await bob.post("/api/kernels")  # the waiting start counts for his limit of 1
            assert second.status_code == 429
            async with server.client("ada") as ada:
                assert (await ada.delete(f"/api/kernels/{kernel_id}")).status_code == 204
        assert [response.status_code for response in responses] == [201]
        assert [kernel.user for kernel in server.pool.kernels()] == ["bob"]


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(("path", "body"), STARTS)
async def test_start_gets_503_after_queue_seconds(serving, path: str, body) -> None:
    async with full_server(serving, 0.05) as (server, _), server.client("bob") as bob:
        response = await bob.post(path, json=body)
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert response.json()["message"] == (
            "all kernels of this server are in use: try again later"
        )
        assert server.pool.counts["refused"] == 1


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
async def test_waiting_start_gets_503_when_the_server_drains(serving) -> None:
    async with full_server(serving, 3600) as (server, _), server.client("bob") as bob:

        async def start() -> None:
            response = await bob.post("/api/kernels")
            assert response.status_code == 503
            assert "shutting down" in response.json()["message"]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(start)
            await until_one_waits(server)
            server.app.state.drain.beginning.set()


@pytest.mark.anyio
@pytest.mark.usefixtures("no_leaks")
@pytest.mark.parametrize(("path", "body"), STARTS)
async def test_client_that_disconnects_leaves_the_queue(serving, path: str, body) -> None:
    async with full_server(serving, 3600) as (server, kernel_id):
        gone = anyio.Event()
        bodies = [json.dumps(body).encode()]

        async def receive() -> dict[str, object]:
            if not bodies:
                await gone.wait()
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}

        async def send(message: object) -> None:
            pass

        scope = {
            "type": "http",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"server.test"), (b"authorization", b"token bob")],
            "client": ("127.0.0.1", 1),
            "server": ("server.test", 80),
        }
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.app, scope, receive, send)
            await until_one_waits(server)
            gone.set()
        async with server.client("ada") as ada:
            assert (await ada.delete(f"/api/kernels/{kernel_id}")).status_code == 204
        assert server.pool.counts["started"] == 1
