"""The shutdown of a server, with kernels that are no processes."""

from __future__ import annotations

import anyio
import pytest

from kernelproto.server.drain import Drain

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_leaks")]

FOREVER = 3600


async def test_idle_server_closes_its_websockets_and_waits_for_them(serving) -> None:
    drain, ended = Drain(), anyio.Event()

    async def run() -> None:
        await drain.run(server.pool, grace=FOREVER)
        ended.set()

    async with serving() as server, anyio.create_task_group() as tasks:
        await server.start("ada")
        assert not drain.begun
        with drain.connection():
            tasks.start_soon(run)
            await drain.closing.wait()
            assert drain.begun
            await anyio.wait_all_tasks_blocked()
            assert not ended.is_set()
        await ended.wait()


async def test_busy_kernel_delays_the_shutdown_until_it_is_idle(serving) -> None:
    drain = Drain()
    async with serving() as server, anyio.create_task_group() as tasks:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            request = await socket.execute("ask", allow_stdin=True)
            *_, question = await socket.receive_until("input_request")
            tasks.start_soon(lambda: drain.run(server.pool, grace=FOREVER))
            await drain.beginning.wait()
            assert not drain.closing.is_set()
            await socket.send("input_reply", {"value": "ada"}, "stdin", parent=question)
            await socket.finish(request)
            await drain.closing.wait()


@pytest.mark.parametrize("ended_by", ["grace", "second signal"])
async def test_busy_kernel_is_not_waited_for_for_ever(serving, ended_by: str) -> None:
    drain = Drain()
    async with serving() as server:
        kernel_id = await server.start("ada")
        async with server.connect("ada", kernel_id) as socket:
            await socket.receive_until("status", await socket.execute("work"))
            if ended_by == "second signal":
                drain.hurry()
            await drain.run(server.pool, grace=0 if ended_by == "grace" else FOREVER)
            assert drain.closing.is_set()


async def test_websocket_that_does_not_close_is_not_waited_for_for_ever(
    serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kernelproto.server.drain._CLOSING_SECONDS", 0.01)
    drain = Drain()
    async with serving() as server:
        with drain.connection():
            await drain.run(server.pool, grace=0)
