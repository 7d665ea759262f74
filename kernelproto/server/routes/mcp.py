"""The route ``/mcp``: the Model Context Protocol over streamable HTTP, for each user."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.server.auth.revocation import Access
from kernelproto.server.drain import SHUTTING_DOWN, Drain
from kernelproto.server.mcp.messages import message_fault
from kernelproto.server.middleware.access import user_request
from kernelproto.server.responses import error_response, read_bytes

if TYPE_CHECKING:
    from kernelproto.server.mcp.users import McpUsers

MCP_PATH = "/mcp"

# Browsers must be allowed to send these, and to read the first one.
HEADERS = ("Mcp-Session-Id", "Mcp-Protocol-Version", "Mcp-Method", "Mcp-Name", "Last-Event-ID")

# When the server ends, calls have this time to send their result.
_LAST_RESULTS_SECONDS = 3

_REVOKED = "your access has ended: sign in again, or ask the administrator of this server"


class McpRoute:
    """The requests of MCP clients.

    A response may last as long as a call, or a session. So the response ends when the access of the
    user is revoked, or the server ends.

    Args:
        users: serves the requests.
        access: notices that a user's access is revoked.
        drain: announces the end of the server.
        max_body_bytes: the maximum size of a request's body.
    """

    def __init__(
        self, users: McpUsers, access: Access, drain: Drain, *, max_body_bytes: int
    ) -> None:
        self._users = users
        self._access = access
        self._drain = drain
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route(MCP_PATH, self, methods=["GET", "POST", "DELETE"])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        request = Request(scope, receive)
        if self._drain.closing.is_set():
            raise HTTPException(503, SHUTTING_DOWN)
        body = await read_bytes(request, limit=self._max_body_bytes)
        fault = message_fault(body)
        if fault is not None:
            raise HTTPException(400, fault)
        response = _Response(send)
        served = anyio.CancelScope()
        reasons: list[tuple[int, str]] = []

        def end(status: int, reason: str) -> None:
            reasons.append((status, reason))
            served.cancel()

        async with self._users.transport(request.user) as transport:
            with self._drain.connection():
                async with background_tasks() as tasks:
                    tasks.start_soon(self._end_with_access, request, end)
                    tasks.start_soon(self._end_with_server, request, end)
                    with served:
                        await transport.serve(scope, _replayed(body, receive), response.send)
                if reasons:
                    await response.end(scope, receive, *reasons[0])

    async def _end_with_access(self, request: Request, end: Callable[[int, str], None]) -> None:
        await self._access.wait_until_revoked(request.user, user_request(request.scope))
        end(401, _REVOKED)

    async def _end_with_server(self, request: Request, end: Callable[[int, str], None]) -> None:
        await self._drain.closing.wait()
        if request.method == "POST":
            await anyio.sleep(_LAST_RESULTS_SECONDS)
        end(503, SHUTTING_DOWN)


class _Response:
    """The response to a request, which may have to end early."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False
        self._complete = False

    async def send(self, message: Message) -> None:
        self._begun = True
        self._complete = not message.get("more_body", message["type"] == "http.response.start")
        await self._send(message)

    async def end(self, scope: Scope, receive: Receive, status: int, reason: str) -> None:
        """End a response that was cut short."""
        if not self._begun:
            await error_response(status, reason)(scope, receive, self._send)
        elif not self._complete:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a function that receives a body that has been read, then later events."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
