"""Forwarding: send requests and WebSockets for the kernels of other servers there."""

from __future__ import annotations

import logging
import re
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernelproto.exceptions import RegistryError
from kernelproto.interfaces import User
from kernelproto.server.auth.http_get import words
from kernelproto.server.drain import Drain
from kernelproto.server.middleware.access import address_of, answer, path_in_app, peer_of
from kernelproto.server.nodes.arrivals import ArrivedSocket
from kernelproto.server.nodes.http import LOST, NOT_HERE, ForwardedRequest, forward
from kernelproto.server.nodes.link import LinkLost, Refused, forward_websocket
from kernelproto.server.nodes.nodes import AWAY, IDLE, Nodes, registry_fault
from kernelproto.server.nodes.requests import ARRIVED, forwarded_headers, target_of
from kernelproto.server.nodes.seal import Assertion
from kernelproto.server.responses import RETRY_SECONDS, error_response

logger = logging.getLogger(__name__)

# The requests about one kernel.
_ABOUT_KERNEL = re.compile(r"/api/(?:kernels|contexts)/([^/]+)")

_YES = ("1", "true")
_MOVED = "the kernel moves to another server: try again in a few seconds"


class Forwarding:
    """ASGI middleware: serve the requests for kernels of this server, and forward the others.

    A request that another server has forwarded is never forwarded again.

    Args:
        app: the application.
        nodes: the servers.
        drain: announces the end of this server.
    """

    def __init__(self, app: ASGIApp, *, nodes: Nodes, drain: Drain) -> None:
        self._app = app
        self._nodes = nodes
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, a WebSocket or the lifespan."""
        found = None
        if ARRIVED in scope and path_in_app(scope) == IDLE and scope.get("method") == "DELETE":
            await answer(scope, receive, send, await self._evict())
            return
        if scope["type"] in ("http", "websocket"):
            found = _ABOUT_KERNEL.match(path_in_app(scope))
        if found is None or "user" not in scope:
            await self._app(scope, receive, send)
        elif ARRIVED in scope:
            await self._serve_arrived(found[1], scope, receive, send)
        else:
            await self._serve(found[1], scope, receive, send)

    async def _evict(self) -> Response:
        try:
            if await self._nodes.evict_idle():
                return Response(status_code=204)
        except RegistryError as error:
            fault = registry_fault(error)
            return error_response(fault.status_code, fault.detail)
        return error_response(409, "no kernel of this server is idle")

    async def _serve_arrived(
        self, kernel_id: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if not self._nodes.has(kernel_id):
            response = error_response(NOT_HERE, "this server does not have the kernel")
            await answer(scope, receive, send, response)
        elif scope["type"] == "websocket":
            socket = ArrivedSocket(scope, receive, send)
            await self._app(socket.scope, socket.receive, socket.send)
        else:
            await self._app(scope, receive, send)

    async def _serve(self, kernel_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        user: User = scope["user"]
        query = Request({**scope, "type": "http"}).query_params
        everyone = user.admin and query.get("include_all") in _YES
        owner = query.get("owner")
        exchange = _Exchange(scope, receive, send, self._drain)
        response: Response
        try:
            for _ in range(2):
                node = await self._nodes.find(user, kernel_id, everyone=everyone, owner=owner)
                if node is None:
                    await self._app(scope, exchange.receive, send)
                    return
                assertion = Assertion(
                    user=user,
                    peer=peer_of(scope),
                    address=address_of(scope),
                    has_credentials=True,
                )
                target = target_of(scope)
                method = scope.get("method", "GET")
                headers = forwarded_headers(scope["headers"])
                request = await self._nodes.request(node, method, target, assertion, headers)
                if await exchange.forward(request):
                    return
                self._nodes.forget(user, kernel_id, owner=owner)
            response = error_response(503, _MOVED)
        except HTTPException as error:
            response = error_response(error.status_code, error.detail)
        except RegistryError as error:
            fault = registry_fault(error)
            response = error_response(fault.status_code, fault.detail)
        except (*LOST, LinkLost) as error:
            self._nodes.forget(user, kernel_id, owner=owner)
            if exchange.has_begun:
                logger.warning("a forwarded request was interrupted: %s", words(error))
                return
            logger.warning("a request cannot be forwarded: %s", words(error))
            response = error_response(503, AWAY)
        await answer(scope, receive, send, response)


class _Exchange:
    """One request of a client, which may be sent to two servers in turn.

    Attributes:
        has_begun: whether the client has received a part of the response.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, drain: Drain) -> None:
        self.has_begun = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._drain = drain
        self._connect: Message | None = None

    async def forward(self, request: ForwardedRequest) -> bool:
        """Forward the request; return False if the other server does not have the kernel.

        Raises:
            Exception: one of LOST, or LinkLost.
        """
        if self._scope["type"] == "http":
            return await forward(request, self._receive, self._pass)
        if self._connect is None:
            self._connect = await self._receive()
        try:
            await forward_websocket(request, self._scope, self._receive, self._pass, self._drain)
        except Refused as refused:
            if refused.status == NOT_HERE:
                return False
            response = Response(refused.body, refused.status, media_type="application/json")
            if refused.status == 503:
                response.headers["Retry-After"] = str(RETRY_SECONDS)
            await answer(self._scope, self.receive, self._send, response)
        return True

    async def receive(self) -> Message:
        """Return the next event of the client; the first event again if it was needed here."""
        event, self._connect = self._connect, None
        return await self._receive() if event is None else event

    async def _pass(self, event: Any) -> None:
        self.has_begun = True
        await self._send(event)
