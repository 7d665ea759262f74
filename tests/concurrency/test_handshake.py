from __future__ import annotations

import gc

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute, SocketStream

from kernelproto.concurrency.handshake import close_cancelled_handshake

pytestmark = pytest.mark.anyio


async def test_cancelled_handshake_closes_the_connection(no_leaks: None) -> None:
    """The server reads the client's first message, and never answers."""
    is_under_way, is_closed = anyio.Event(), anyio.Event()

    async def serve(stream: SocketStream) -> None:
        async with stream:
            while True:
                try:
                    await stream.receive()
                except anyio.EndOfStream:
                    is_closed.set()
                    return
                is_under_way.set()

    with anyio.fail_after(20):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
            httpx.AsyncClient(event_hooks={"request": [close_cancelled_handshake]}) as client,
        ):
            tasks.start_soon(listener.serve, serve)
            port = listener.extra(SocketAttribute.local_port)

            async with anyio.create_task_group() as requests:
                requests.start_soon(client.get, f"https://127.0.0.1:{port}")
                await is_under_way.wait()
                requests.cancel_scope.cancel()
            await is_closed.wait()
            gc.collect()  # an open socket would warn
            tasks.cancel_scope.cancel()
