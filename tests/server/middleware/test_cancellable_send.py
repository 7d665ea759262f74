"""WebSocket clients that do not read, on servers that shield their sends from cancellation."""

from __future__ import annotations

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kernelproto.server.asgi_extension import EXTENSION
from kernelproto.server.middleware.cancellable_send import CancellableSends

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

SCOPE = {"type": "websocket", "extensions": {}}
GUARD_SECONDS = 60


class Network:
    """The server's end of a connection, with a client that reads when *reads* is set."""

    def __init__(self) -> None:
        self.read: list[str] = []
        self.stuck = anyio.Event()
        self.reads = anyio.Event()

    async def send(self, event) -> None:
        with anyio.move_on_after(GUARD_SECONDS, shield=True):
            self.stuck.set()
            await self.reads.wait()
            self.read.append(event["type"])

    async def receive(self):
        await anyio.sleep_forever()


async def test_cancelled_send_is_delivered_later() -> None:
    network = Network()
    given_up = anyio.Event()

    async def app(scope, receive, send) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send, {"type": "websocket.send"})
            await network.stuck.wait()
            tasks.start_soon(send, {"type": "websocket.close"})
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        given_up.set()

    with anyio.fail_after(GUARD_SECONDS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(CancellableSends(app), SCOPE, network.receive, network.send)
            await given_up.wait()
            assert network.read == []
            network.reads.set()
    assert network.read == ["websocket.send", "websocket.close"]


async def test_order_is_kept() -> None:
    network = Network()
    network.reads.set()

    async def app(scope, receive, send) -> None:
        for number in range(100):
            await send({"type": f"{number}"})
            assert len(network.read) == number + 1

    with anyio.fail_after(GUARD_SECONDS):
        await CancellableSends(app)(SCOPE, network.receive, network.send)
    assert network.read == [f"{number}" for number in range(100)]


async def test_error_of_the_server_is_raised_in_the_sending_task() -> None:
    errors: list[str] = []

    async def app(scope, receive, send) -> None:
        for _ in range(2):
            try:
                await send({"type": "websocket.send"})
            except OSError as error:
                errors.append(str(error))
        raise LookupError("of the application")

    async def send(event) -> None:
        raise OSError("the client has gone")

    with anyio.fail_after(GUARD_SECONDS), pytest.raises(LookupError, match="of the application"):
        await CancellableSends(app)(SCOPE, Network().receive, send)
    assert errors == ["the client has gone"] * 2


async def test_last_events_have_a_time_limit(monkeypatch) -> None:
    monkeypatch.setattr("kernelproto.server.middleware.cancellable_send._LAST_EVENTS_SECONDS", 0.01)

    async def app(scope, receive, send) -> None:
        with anyio.move_on_after(0.001):
            await send({"type": "websocket.send"})

    async def send(event) -> None:
        await anyio.sleep_forever()

    with anyio.fail_after(GUARD_SECONDS):
        await CancellableSends(app)(SCOPE, Network().receive, send)


@pytest.mark.parametrize(
    "scope", [{"type": "http"}, {"type": "websocket", "extensions": {EXTENSION: {}}}]
)
async def test_send_is_not_wrapped_where_that_is_unnecessary(scope) -> None:
    sends = []

    async def app(scope, receive, send) -> None:
        sends.append(send)

    network = Network()
    send = network.send
    await CancellableSends(app)(scope, network.receive, send)
    assert sends == [send]


async def test_kernel_of_a_client_that_never_reads_is_free(serving, monkeypatch) -> None:
    """The application ends although the server is still sending."""
    monkeypatch.setattr("kernelproto.server.routes.channels._CLOSING_SECONDS", 0.2)
    network = Network()
    begun = anyio.Event()
    kept: list[str] = []

    async def receive():
        if begun.is_set():
            await anyio.sleep_forever()
        begun.set()
        return {"type": "websocket.connect"}

    async def send(event) -> None:
        if event["type"] == "websocket.accept":
            return
        await network.send(event)
        kept.append(event.get("reason", ""))

    async with serving({"send_buffer_bytes": 100_000}) as server:
        kernel_id = await server.start("ada")
        path = f"/api/kernels/{kernel_id}/channels"
        scope = {
            **SCOPE,
            "path": path,
            "query_string": b"token=ada",
            "headers": [],
            "subprotocols": [],
        }

        async with server.client("ada") as ada, anyio.create_task_group() as tasks:

            async def connections() -> int:
                return (await ada.get(f"/api/kernels/{kernel_id}")).json()["connections"]

            async with server.connect("ada", kernel_id) as subscriber:
                tasks.start_soon(server.app, scope, receive, send)
                while await connections() < 2:
                    await checkpoint()
                for _ in range(10):
                    await subscriber.finish(await subscriber.execute("say " + "x" * 20_000))
                while await connections() > 1:
                    await checkpoint()
            assert await connections() == 0
            network.reads.set()
    assert kept[1:] == ["Too slow: more output waits than the server keeps."]
