"""Servers that authenticators ask, on loopback."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

import anyio
from anyio.abc import SocketAttribute, SocketStream

from kernelproto.interfaces import UserRequest

GUARD_SECONDS = 60


class Serves(Protocol):
    """Handles the connections of one server."""

    async def serve(self, stream: SocketStream) -> None: ...


S = TypeVar("S", bound=Serves)


@asynccontextmanager
async def on_loopback(server_type: Callable[[int], S]) -> AsyncGenerator[S]:
    """Make a server with its port, and serve it during the block."""
    with anyio.fail_after(GUARD_SECONDS):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            server = server_type(listener.extra(SocketAttribute.local_port))
            tasks.start_soon(listener.serve, server.serve)
            yield server
            tasks.cancel_scope.cancel()


def bearing(token: str) -> UserRequest:
    return UserRequest(headers={"authorization": f"Bearer {token}"})
