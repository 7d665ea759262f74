"""The routes of the contexts, with fake kernels and without a network."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.server.contexts import runs

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

UNKNOWN = f"/api/contexts/{uuid.UUID(int=0)}"


async def start(client, **request: object) -> str:
    response = await client.post("/api/contexts", json=request)
    assert response.status_code == 201, response.text
    return f"/api/contexts/{response.json()['id']}"


async def execute(client, context: str, code: str, *, key: str | None = None, **options) -> list:
    headers = {} if key is None else {"idempotency-key": key}
    body = {"code": code, **options}
    response = await client.post(f"{context}/execute", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


class Stream:
    """A response that is read as it arrives."""

    def __init__(self) -> None:
        self.status = 0
        self.ended = False
        self._data = b""
        self._to_app, self.receive = self._pair()
        self.send, self._from_app = self._pair()

    @staticmethod
    def _pair() -> tuple[Any, Any]:
        sender, receiver = anyio.create_memory_object_stream[Any](1)
        return sender, receiver

    async def take(self) -> None:
        event = await self._from_app.receive()
        if event["type"] == "http.response.start":
            self.status = event["status"]
        else:
            self._data += event["body"]
            self.ended = not event.get("more_body")

    async def event(self) -> dict[str, Any]:
        while b"\n" not in self._data:
            await self.take()
        line, _, self._data = self._data.partition(b"\n")
        return json.loads(line)

    async def until(self, kind: str) -> list[dict[str, Any]]:
        events = [await self.event()]
        while events[-1]["type"] != kind:
            events.append(await self.event())
        return events

    async def disconnect(self) -> None:
        await self._to_app.send({"type": "http.disconnect"})

    def close(self) -> None:
        for stream in (self._to_app, self.receive, self.send, self._from_app):
            stream.close()


@asynccontextmanager
async def streaming(
    server, user: str, context: str, code: str, *, key: str | None = None, **options: object
) -> AsyncGenerator[Stream]:
    """Run code in a context; the client disconnects at the end of the block."""
    path = f"{context}/execute"
    headers = {"authorization": f"token {user}", **({"idempotency-key": key} if key else {})}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("server.test", 80),
    }
    stream = Stream()
    body = json.dumps({"code": code, **options}).encode()
    async with anyio.create_task_group() as tasks:

        async def serve() -> None:
            await server.app(scope, stream.receive.receive, stream.send.send)

        tasks.start_soon(serve)
        await stream._to_app.send({"type": "http.request", "body": body, "more_body": False})
        try:
            yield stream
        finally:
            with anyio.CancelScope(shield=True):
                if not stream.ended:
                    await stream.disconnect()
    stream.close()


async def test_life_of_a_context(serving, tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    async with serving({"root_dir": str(tmp_path)}) as server, server.client("ada") as ada:
        response = await ada.post("/api/contexts", json={"cwd": "sub"})
        assert response.status_code == 201
        model = response.json()
        context = f"/api/contexts/{model['id']}"
        assert response.headers["location"] == context
        assert model["cwd"] == str(tmp_path / "sub")
        assert model["kernel"] == "fake/kernel"
        assert (await ada.get("/api/contexts")).json() == [model]
        assert (await ada.get(context)).json() == model
        assert [k["id"] for k in (await ada.get("/api/kernels")).json()] == [model["id"]]
        assert (await ada.post(f"{context}/interrupt")).status_code == 204
        restarted = await ada.post(f"{context}/restart")
        assert restarted.status_code == 200
        assert restarted.json()["previous_end"] == "the kernel was restarted"
        assert (await ada.delete(context)).status_code == 204
        assert (await ada.get(context)).status_code == 404
        assert (await ada.get("/api/contexts")).json() == []


async def test_context_ends_with_its_kernel(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        assert (await ada.delete(context.replace("contexts", "kernels"))).status_code == 204
        assert (await ada.get(context)).status_code == 404


async def test_kernel_that_is_no_context_is_not_found(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        kernel_id = await server.start("ada")
        assert (await ada.get(f"/api/contexts/{kernel_id}")).status_code == 404


async def test_contexts_count_as_kernels(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        await start(ada)
        response = await ada.post("/api/contexts")
        assert response.status_code == 429
        assert "at most 1 kernel" in response.json()["message"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"language": "cobol"}, "no kernel type for 'cobol'"),
        ({"language": "python", "kernel": "fake/kernel"}, "pass one of them"),
        ({"cwd": "missing"}, "no folder here"),
        ({"cwd": "../.."}, "no folder here"),
        ({"cwd": "/"}, "no folder here"),
        ({"cwd": "a/" * 1000}, "parts"),
        ({"env_vars": {"PATH": "x"}}, "'PATH' is not allowed"),
        ({"timeout": 1}, "unknown field"),
    ],
)
async def test_refuses_what_it_cannot_do(serving, request_, words: str, tmp_path) -> None:
    async with serving({"root_dir": str(tmp_path)}) as server, server.client("ada") as ada:
        response = await ada.post("/api/contexts", json=request_)
        assert response.status_code == 400
        assert words in response.json()["message"]
        assert server.pool.kernels() == []


async def test_environment_variables(serving) -> None:
    async with serving({"allow_env": ["TOKEN"]}) as server, server.client("ada") as ada:
        await start(ada, env_vars={"KERNEL_A": "1", "TOKEN": "${HOME}"})
        assert server.provider.kernels[0].env["KERNEL_A"] == "1"


@pytest.mark.parametrize("user", ["bob", "root"])
async def test_contexts_of_other_users_are_not_found(serving, user: str) -> None:
    async with serving() as server, server.client("ada") as ada, server.client(user) as other:
        context = await start(ada)
        body = {"code": "6 * 7"}
        for method, path in [
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/execute"),
            ("POST", "/interrupt"),
            ("POST", "/restart"),
        ]:
            sent = body if path == "/execute" else None
            theirs = await other.request(method, context + path, json=sent)
            unknown = await other.request(method, UNKNOWN + path, json=sent)
            assert theirs.status_code == unknown.status_code == 404
            assert theirs.text.replace(context[-36:], UNKNOWN[-36:]) == unknown.text
        assert (await other.get("/api/contexts")).json() == []


async def test_outputs_and_result(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        events = await execute(ada, context, "6 * 7")
        assert events == [
            {"type": "result", "text": "42", "is_main_result": True, "execution_count": 1},
            {"type": "number_of_executions", "execution_count": 1},
            {"type": "end_of_execution", "status": "ok", "execution_count": 1},
        ]
        said = await execute(ada, context, "say hello", silent=True)
        assert (said[0]["type"], said[0]["text"]) == ("stdout", "hello")


async def test_server_sent_events(serving) -> None:
    async with serving() as server, server.client("ada", accept="text/event-stream") as ada:
        context = await start(ada)
        response = await ada.post(f"{context}/execute", json={"code": "6 * 7"})
        assert response.headers["content-type"].startswith("text/event-stream")
        first, *_, last = response.text.split("\n\n")[:-1]
        assert json.loads(first.removeprefix("data: "))["text"] == "42"
        assert json.loads(last.removeprefix("data: "))["type"] == "end_of_execution"


async def test_interrupt_and_timeout(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        async with streaming(server, "ada", context, "work") as stream:
            await wait_for_state(ada, context, "busy")
            assert (await ada.post(f"{context}/interrupt")).status_code == 204
            *_, end = await stream.until("end_of_execution")
        assert (end["status"], end["error"]["name"]) == ("error", "KeyboardInterrupt")
        *_, end = await execute(ada, context, "work", timeout=0.01)
        assert (end["status"], end["failure"]["type"]) == ("failed", "ExecutionTimeout")
        assert end["failure"]["details"] == {"seconds": 0.01, "restarted": False}


async def test_client_that_leaves_interrupts_its_code(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        async with streaming(server, "ada", context, "work"):
            await wait_for_state(ada, context, "busy")
        await wait_for_state(ada, context, "idle")


async def test_code_can_go_on_without_its_client(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        async with streaming(server, "ada", context, "work", on_disconnect="continue"):
            await wait_for_state(ada, context, "busy")
        for _ in range(100):
            await checkpoint()
        assert (await ada.get(context)).json()["execution_state"] == "busy"


async def test_repeated_request_joins_the_execution(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        async with streaming(server, "ada", context, "work", key="k") as first:
            await wait_for_state(ada, context, "busy")
            async with streaming(server, "ada", context, "work", key="k") as second:
                body = {"idempotency_key": "k"}
                assert (await ada.post(f"{context}/interrupt", json=body)).status_code == 204
                both = [await s.until("end_of_execution") for s in (first, second)]
        assert both[0] == both[1]
        assert await execute(ada, context, "work", key="k") == both[0]
        assert server.provider.kernels[0].history == ["work"]
        response = await ada.post(
            f"{context}/execute", json={"code": "other"}, headers={"idempotency-key": "k"}
        )
        assert response.status_code == 422


async def test_lost_connection_with_a_key_interrupts_after_a_while(serving, monkeypatch) -> None:
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        async with streaming(server, "ada", context, "work", key="k"):
            await wait_for_state(ada, context, "busy")
        assert (await ada.get(context)).json()["execution_state"] == "busy"
        monkeypatch.setattr(runs, "REJOIN_SECONDS", 0)
        async with streaming(server, "ada", context, "work", key="k") as stream:
            await stream.take()
        await wait_for_state(ada, context, "idle")


@pytest.mark.parametrize("seconds", [0, 3600])
async def test_ended_executions_are_forgotten(serving, monkeypatch, seconds: float) -> None:
    monkeypatch.setattr(runs, "MOST_REMEMBERED", 2)
    async with serving({"replay_seconds": seconds}) as server, server.client("ada") as ada:
        context = await start(ada)
        for key in "abc":
            await execute(ada, context, "6 * 7", key=key)
            await anyio.sleep(0.001)
        for key in "ca":
            await execute(ada, context, "6 * 7", key=key)
        kept = 4 if seconds else 5
        assert len(server.provider.kernels[0].history) == kept


async def test_outputs_beyond_the_limit_are_reported(serving) -> None:
    async with serving({"send_buffer_bytes": 1500}) as server, server.client("ada") as ada:
        context = await start(ada)
        await execute(ada, context, "say " + "x" * 700, key="a")
        await execute(ada, context, "say " + "x" * 700, key="b")
        for key, lost in (("a", True), ("b", False)):
            first, *_, end = await execute(ada, context, "say " + "x" * 700, key=key)
            assert (first["type"] == "outputs_lost") is lost
            assert end.get("outputs_complete", True) is not lost
            assert end["status"] == "ok"


async def test_too_many_executions_and_readers_are_refused(serving, monkeypatch) -> None:
    monkeypatch.setattr(runs, "MOST_OPEN", 1)
    monkeypatch.setattr(runs, "MOST_READERS", 1)
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        async with streaming(server, "ada", context, "work", key="k"):
            await wait_for_state(ada, context, "busy")
            for headers in ({}, {"idempotency-key": "k"}):
                response = await ada.post(
                    f"{context}/execute", json={"code": "work"}, headers=headers
                )
                assert response.status_code == 429
        too_long = {"idempotency-key": "k" * 256}
        response = await ada.post(f"{context}/execute", json={"code": ""}, headers=too_long)
        assert response.status_code == 400
        body = {"idempotency_key": "unknown"}
        assert (await ada.post(f"{context}/interrupt", json=body)).status_code == 404


async def test_end_of_the_kernel_ends_the_stream(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        async with streaming(server, "ada", context, "work") as stream:
            await wait_for_state(ada, context, "busy")
            server.provider.kernels[0].die(3)
            *_, end = await stream.until("end_of_execution")
            assert end["failure"]["type"] == "KernelRestarted"
        async with streaming(server, "ada", context, "work") as stream:
            await wait_for_state(ada, context, "busy")
            assert (await ada.delete(context)).status_code == 204
            *_, end = await stream.until("end_of_execution")
            assert end["failure"]["type"] == "ClientClosed"
            assert "was shut down" in end["failure"]["message"]


async def test_end_of_the_server_ends_the_stream(serving) -> None:
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        async with streaming(server, "ada", context, "work", on_disconnect="continue") as stream:
            await wait_for_state(ada, context, "busy")
            server.app.state.drain.hurry()
            async with anyio.create_task_group() as tasks:

                async def drain() -> None:
                    await server.app.state.drain.run(server.pool, grace=60)

                tasks.start_soon(drain)
                *_, last = await stream.until("disconnected")
                while not stream.ended:
                    await stream.take()
            assert "shutting down" in last["message"]
        response = await ada.post(f"{context}/execute", json={"code": ""})
        assert response.status_code == 503


async def test_silence_is_filled_with_events(serving, monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.server.contexts.stream.KEEP_ALIVE_SECONDS", 0.001)
    async with serving() as server, server.client("ada") as ada:
        context = await start(ada)
        async with streaming(server, "ada", context, "work") as stream:
            await stream.until("keepalive")


async def wait_for_state(client, context: str, state: str) -> None:
    while (await client.get(context)).json()["execution_state"] != state:
        await checkpoint()
