"""Several servers that share a registry: each serves the kernels of all."""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import anyio
import pytest

from kernelproto.exceptions import RegistryError
from kernelproto.interfaces import KernelHandle, User
from kernelproto.pool import keeping
from kernelproto.registry import RegisteredSession, SQLiteRegistry
from kernelproto.server.nodes import nodes
from kernelproto.server.nodes.seal import HEADER, LONGEST_SECONDS, Assertion, seal
from kernelproto.wire.message import Message
from tests.integration.gateways import gateway, gateways

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks", "no_servers_left", "clean")]

GUARD_SECONDS = 25


# A host keeps the messages of this kernel type.
HOSTED = {"kernel": "pyimport/kernel"}


def text_of(messages: list[Message]) -> str:
    return "".join(m.content.text for m in messages if m.msg_type == "stream")


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncGenerator[SQLiteRegistry]:
    async with SQLiteRegistry(tmp_path / "kernels.sqlite") as registry:
        yield registry


async def test_any_server_serves_rest(registry: SQLiteRegistry) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with gateways(registry, 2) as (a, b):
            kernel_id = await a.start("ada")
            async with b.client("ada") as client, b.client("bob") as bob, b.client("root") as root:
                one = f"/api/kernels/{kernel_id}"
                (model,) = (await client.get("/api/kernels")).json()
                assert model["id"] == kernel_id
                assert (await client.get(one)).json() == model
                assert (await bob.get(one)).status_code == 404
                assert (await bob.get("/api/kernels")).json() == []
                assert (await root.get(one)).status_code == 404
                everyone = {"include_all": "1"}
                assert (await root.get("/api/kernels", params=everyone)).json()[0]["owner"] == "ada"
                assert (await root.get(one, params=everyone)).json()["owner"] == "ada"
                assert (await client.post(f"{one}/interrupt")).status_code == 204
                restarted = await client.post(f"{one}/restart")
                assert restarted.json()["process_started"] > model["process_started"]
                again = await client.post("/api/kernels", json={"id": kernel_id})
                assert again.json()["id"] == kernel_id
                assert (await client.delete(one)).status_code == 204
                assert (await client.get(one)).status_code == 404
            assert a.pool.kernels() == b.pool.kernels() == []


@pytest.mark.parametrize("subprotocols", [("v1.kernel.websocket.jupyter.org",), ()])
async def test_any_server_serves_websockets(registry: SQLiteRegistry, subprotocols) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with gateways(registry, 2) as (a, b):
            kernel_id = await a.start("ada")
            async with b.connect("ada", kernel_id, subprotocols=subprotocols) as socket:
                assert socket.subprotocol == (subprotocols[0] if subprotocols else None)
                request = await socket.execute("say('hello', parent)")
                messages = await socket.finish(request)
                (text,) = [m.content.text for m in messages if m.msg_type == "stream"]
                assert text == "hello"
                assert a.pool.kernels()[0].connections == 1
            async with b.connect("bob", kernel_id) as stranger:
                assert stranger.refused == 404
            await a.pool.release_all()


async def test_kernel_moves_to_the_server_that_is_asked(registry: SQLiteRegistry) -> None:
    """A client that names its last message loses none, whichever server has the kernel."""
    with anyio.fail_after(GUARD_SECONDS):
        async with gateways(registry, 2, settings=HOSTED) as (b, c):
            async with gateway(registry, settings=HOSTED) as a:
                kernel_id = await a.start("ada")
                async with b.connect("ada", kernel_id, query="session_id=s") as socket:
                    request = await socket.execute("x = 7; print(1)")
                    *_, last = await socket.finish(request)
                    tail = await socket.execute("import time; time.sleep(0.5); print(2)")
                    await socket.receive_until("status", tail)
            query = f"session_id=s&last_msg_id={last.msg_id}"
            async with c.connect("ada", kernel_id, query=query) as socket:
                messages = await socket.finish(tail)
                assert text_of(messages) == "2\n"
                request = await socket.execute("print(x)")
                messages = await socket.finish(request)
                assert text_of(messages) == "7\n"
            assert [kernel.kernel_id for kernel in c.pool.kernels()] == [kernel_id]
            async with b.client("ada") as client:  # which remembers another server
                assert (await client.get(f"/api/kernels/{kernel_id}")).status_code == 503
                assert (await client.get(f"/api/kernels/{kernel_id}")).status_code == 200
            await c.pool.release_all()


async def test_message_is_received_once_the_client_has_it(registry: SQLiteRegistry) -> None:
    """The server between acknowledges nothing itself: a page that was away gets every output."""
    with anyio.fail_after(GUARD_SECONDS):
        async with gateways(registry, 2, settings=HOSTED) as (a, b):
            kernel_id = await a.start("ada")
            connect = partial(b.connect, "ada", kernel_id, query="session_id=s", acknowledges=True)
            async with connect() as socket:
                request = await socket.execute("print(1)")
                await socket.receive_until("status", request)
                (kernel,) = a.pool.kernels()
                while kernel.state != "idle":
                    await anyio.sleep(0.01)
                    (kernel,) = a.pool.kernels()
                socket.gone = True
            async with connect() as socket:
                messages = await socket.finish(request)
                assert text_of(messages) == "1\n"
                request = await socket.execute("print(2)")
                await socket.finish(request)
            async with connect() as socket:
                request = await socket.execute("print(3)")
                messages = await socket.receive_until("execute_reply", request)
                text = text_of(messages)
                assert text == "3\n"
            await a.pool.release_all()


async def test_sessions_are_those_of_all_servers(registry: SQLiteRegistry) -> None:
    document = {"path": "a.ipynb", "type": "notebook", "name": "a", "kernel": {}}
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            gateways(registry, 2) as (a, b),
            a.client("ada") as on_a,
            b.client("ada") as on_b,
        ):
            session = (await on_a.post("/api/sessions", json=document)).json()
            one = f"/api/sessions/{session['id']}"
            assert (await on_b.get("/api/sessions")).json() == [session]
            assert (await on_b.get(one)).json() == session
            again = (await on_b.post("/api/sessions", json=document)).json()
            assert (again["id"], again["kernel"]["id"]) == (session["id"], session["kernel"]["id"])
            moved = (await on_b.patch(one, json={"path": "b.ipynb"})).json()
            assert (moved["path"], moved["kernel"]["id"]) == ("b.ipynb", session["kernel"]["id"])
            changed = await on_b.patch(one, json={"kernel": {"name": "spec/scripted"}})
            assert changed.json()["kernel"]["id"] != session["kernel"]["id"]
            assert a.pool.kernels() == []
            assert (await on_a.get(one)).json()["kernel"]["id"] == changed.json()["kernel"]["id"]
            assert (await on_a.delete(one)).status_code == 204
            assert (await on_b.get("/api/sessions")).json() == []
            assert b.pool.kernels() == []


async def test_session_of_a_kernel_that_ended_with_its_server(registry: SQLiteRegistry) -> None:
    body = {"path": "a.ipynb", "type": "notebook"}
    with anyio.fail_after(GUARD_SECONDS):
        async with gateway(registry) as b:
            # The server was killed after the end of the kernel, before removing the row.
            facts = {"owner": "ada", "name": "k", "kernel_type": "spec/scripted"}
            assert await registry.add("k", **facts, node=b.url, seconds=0) == 1
            place = {"folder": "/nowhere/host", "kernel": "k"}
            handle = KernelHandle(host="host", kernel_type="spec/x", kernel_id="k", place=place)
            assert await registry.set_handle("k", 1, handle)
            names = {"path": "a.ipynb", "name": "", "type": "notebook"}
            session = RegisteredSession(session_id="s", owner="ada", kernel_id="k", **names)
            assert await registry.set_session(session)
            async with b.client("ada") as client:
                response = await client.post("/api/sessions", json=body)
                assert response.status_code == 201, response.text
                assert response.json()["kernel"]["id"] != "k"
                (session,) = (await client.get("/api/sessions")).json()
                assert session == response.json()
            await b.pool.release_all()


async def test_session_gets_another_kernel_within_the_limit(registry: SQLiteRegistry) -> None:
    document = {"path": "a.ipynb", "type": "notebook", "name": "a"}
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            gateways(registry, 2, max_per_user=1) as (a, b),
            a.client("ada") as on_a,
            b.client("ada") as on_b,
        ):
            session = (await on_a.post("/api/sessions", json=document)).json()
            refused = await on_b.post("/api/kernels")
            assert refused.status_code == 429, refused.text
            change = {"kernel": {"name": "spec/scripted"}}
            changed = await on_b.patch(f"/api/sessions/{session['id']}", json=change)
            assert changed.status_code == 200, changed.text
            assert [kernel.kernel_id for kernel in b.pool.kernels()] == [
                changed.json()["kernel"]["id"]
            ]
            assert a.pool.kernels() == []
            await b.pool.release_all()


async def test_idle_kernel_of_another_server_is_evicted(registry: SQLiteRegistry) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            gateways(registry, 3, max_kernels=2, settings={"queue_seconds": 0}) as (a, b, c),
            c.client("eve") as eve,
        ):
            idle = await a.start("ada")
            connected = await b.start("bob")
            async with b.connect("bob", connected):
                while (response := await eve.post("/api/kernels")).status_code != 201:
                    assert response.status_code == 503, response.text  # it has just become idle
                    await anyio.sleep(0.1)
                started = response.json()["id"]
                assert a.pool.counts["evicted"] == 1
                rows = {row.kernel_id for row in await registry.kernels()}
                assert rows == {connected, started} - {idle}
                async with c.connect("eve", started):
                    refused = await eve.post("/api/kernels")
                    assert refused.status_code == 503
                    assert "all kernels" in refused.json()["message"]
            response = await eve.delete("/api/nodes/idle")  # only a server may ask for that
            assert response.status_code == 404
            for each in (a, b, c):
                await each.pool.release_all()


async def test_waiting_request_has_other_servers_asked_again(
    registry: SQLiteRegistry, monkeypatch
) -> None:
    monkeypatch.setattr(keeping, "_RENEW_SECONDS", 0.05)
    monkeypatch.setattr(nodes, "_ASK_AGAIN_SECONDS", 0.2)
    settings = {"queue_seconds": GUARD_SECONDS}
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            gateways(registry, 2, max_kernels=1, settings=settings) as (a, b),
            b.client("eve") as eve,
        ):
            kernel_id = await a.start("ada")

            async def start() -> None:
                assert (await eve.post("/api/kernels")).status_code == 201

            # While there is a client, the kernel is not idle.
            async with anyio.create_task_group() as tasks, a.connect("ada", kernel_id):
                tasks.start_soon(start)
                while not b.pool.waiting:  # noqa: ASYNC110 (the pool has no events)
                    await anyio.sleep(0.01)
            for each in (a, b):
                await each.pool.release_all()


async def test_contexts_of_other_servers(registry: SQLiteRegistry, tmp_path: Path) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            gateways(registry, 2, settings={"root_dir": str(tmp_path)}) as (a, b),
            a.client("ada") as on_a,
            b.client("ada") as on_b,
        ):
            context = (await on_a.post("/api/contexts", json={})).json()
            assert [each["id"] for each in (await on_b.get("/api/contexts")).json()] == [
                context["id"]
            ]
            one = f"/api/contexts/{context['id']}"
            async with on_b.stream(
                "POST", f"{one}/execute", json={"code": "say('hello', parent)"}
            ) as response:
                lines = [line async for line in response.aiter_lines()]
            assert any("hello" in line for line in lines), lines
            upload = await on_b.put(f"{one}/files/data.txt", content=b"1,2,3" * 100_000)
            assert upload.status_code in (201, 204), upload.text
            content = (await on_b.get(f"{one}/files/data.txt")).content
            assert content == b"1,2,3" * 100_000
            assert (await on_b.delete(f"{one}/files/data.txt")).status_code == 204
            assert (await on_b.delete(one)).status_code == 204
            assert a.pool.kernels() == []


async def test_forged_requests_are_refused(registry: SQLiteRegistry) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with gateways(registry, 2) as (a, b):
            kernel_id = await a.start("ada")
            target = f"/api/kernels/{kernel_id}"
            assertion = Assertion(user=User("ada"))
            right = {"secret": await registry.secret(), "node": a.url, "method": "GET"}
            right["now"] = time.time()
            replayed = {"now": time.time() - LONGEST_SECONDS}
            wrong = ({"secret": "guessed"}, {"node": b.url}, {"method": "DELETE"}, replayed)
            async with a.client("eve") as client:
                for changes in wrong:
                    value = seal(assertion, target=target, **right | changes)
                    response = await client.get(target, headers={HEADER: value})
                    assert response.status_code == 403, changes
                value = seal(assertion, target="/api/kernels", **right)
                assert (await client.get(target, headers={HEADER: value})).status_code == 403
                for value in ("", "x", "x.y", "é"):
                    headers = {HEADER.encode(): value.encode()}
                    assert (await client.get(target, headers=headers)).status_code == 403
                value = seal(assertion, target=target, **right)
                assert (await client.get(target, headers={HEADER: value})).status_code == 200
            async with b.client("ada") as client:  # a request makes one hop at most
                value = seal(assertion, target=target, **right | {"node": b.url})
                assert (await client.get(target, headers={HEADER: value})).status_code == 421
            await a.pool.release_all()


async def test_server_that_does_not_answer(registry: SQLiteRegistry) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with gateway(registry) as b, b.client("ada") as client:
            facts = {"owner": "ada", "name": "k", "kernel_type": "spec/scripted"}
            with socket.create_server(("127.0.0.1", 0)) as listener:
                away = f"http://127.0.0.1:{listener.getsockname()[1]}"
            assert await registry.add("k", **facts, node=away, seconds=1000) == 1
            handle = KernelHandle(host="local", kernel_type="spec/x", kernel_id="k", place={})
            await registry.set_handle("k", 1, handle)
            for path in ("/api/kernels/k", "/api/kernels/k/interrupt"):
                method = "GET" if path.endswith("k") else "POST"
                response = await client.request(method, path)
                assert response.status_code == 503, response.text
                assert response.headers["retry-after"]
                assert "does not answer" in response.json()["message"]
            async with b.connect("ada", "k") as websocket:
                assert websocket.refused == 503
            (model,) = (await client.get("/api/kernels")).json()
            assert (model["id"], model["name"]) == ("k", "scripted")
            assert "no server can reach" in model["unreachable"]
            assert await registry.remove("k", 1)
            assert (await client.get("/api/kernels/k")).status_code in (404, 503)
            assert (await client.get("/api/kernels/k")).status_code == 404


async def test_registry_that_does_not_answer(registry: SQLiteRegistry, monkeypatch) -> None:
    with anyio.fail_after(GUARD_SECONDS):
        async with gateways(registry, 2) as (a, b), a.client("ada") as client:
            kernel_id = await a.start("ada")
            async with b.connect("ada", kernel_id) as socket:
                with monkeypatch.context() as broken:

                    async def fail(*_: object, **__: object) -> None:
                        raise RegistryError("the registry is away")

                    broken.setattr(registry, "_transaction", fail)
                    messages = await socket.finish(await socket.execute("say('on', parent)"))
                    assert "on" in [m.content.text for m in messages if m.msg_type == "stream"]
                    assert len((await client.get("/api/kernels")).json()) == 1
                    assert (await client.get(f"/api/kernels/{kernel_id}")).status_code == 200
                    for refused in (
                        await client.post("/api/kernels"),
                        await client.get("/api/kernels/x"),
                    ):
                        assert refused.status_code == 503, refused.text
                        assert refused.headers["retry-after"]
            await a.pool.release_all()
