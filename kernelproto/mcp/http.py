"""Streamable HTTP as the transport of MCP, for the clients of one user.

The package ``mcp`` handles the requests: those of sessions, and those of newer clients, which need
no session. A client cannot resume a call whose connection broke, so no client could receive the
result. Therefore the call ends with the connection, and the code is interrupted.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
from anyio import AsyncContextManagerMixin

from kernelproto.extras import importing
from kernelproto.mcp.server import KernelServer

with importing("mcp"):
    from mcp.server.context import ServerRequestContext
    from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_GONE = "kernelproto.mcp.gone"


class HttpTransport(AsyncContextManagerMixin):
    """Serves the HTTP requests of one user's clients, during the block.

    Args:
        server: handles their calls.
        sessions: the number of sessions; a request for another one gets 503.
        session_seconds: the time without a request after which a session ends.
        body_bytes: the size of a request's body.
    """

    def __init__(
        self, server: KernelServer, *, sessions: int, session_seconds: float, body_bytes: int
    ) -> None:
        self._manager = StreamableHTTPSessionManager(
            server.mcp_server(),
            max_sessions=sessions,
            session_idle_timeout=session_seconds,
            max_request_body_size=body_bytes,
        )

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[HttpTransport]:
        async with self._manager.run():
            yield self

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; afterwards, ``until_gone`` returns in the call of the request."""
        gone = anyio.Event()
        try:
            await self._manager.handle_request({**scope, _GONE: gone}, receive, send)
        finally:
            gone.set()


async def until_gone(context: ServerRequestContext[Any, Any]) -> None:
    """Return when the HTTP request of a call has ended."""
    assert context.request is not None  # every HTTP request has one
    gone: anyio.Event = context.request.scope[_GONE]
    await gone.wait()
