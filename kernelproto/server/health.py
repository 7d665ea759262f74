"""The routes of whoever watches over the server: ``/healthz`` and ``/metrics``.

``/healthz`` tells everybody that the server answers, and nothing else. ``/metrics`` is for admins,
and for whoever has the token for it: a Prometheus needs no user's token, with which it could run
code. That a request comes from this machine is no reason to answer it: it may come from a proxy.
"""

from __future__ import annotations

from hmac import compare_digest

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernelproto.interfaces import Authenticator, UserRequest
from kernelproto.server.answers import json_response
from kernelproto.server.guard import user_request
from kernelproto.server.metrics import CONTENT_TYPE, Metrics
from kernelproto.server.users import hash_token, token_of

_HEALTH_PATH = "/healthz"
_METRICS_PATH = "/metrics"

# The guard lets everybody pass to these: their routes look for themselves.
PUBLIC = (_HEALTH_PATH, _METRICS_PATH)


class HealthRoutes:
    """How the server is.

    Args:
        metrics: what it tells.
        authenticator: knows the admins.
        metrics_token: lets others read the metrics; None where nobody else may.
    """

    def __init__(
        self, metrics: Metrics, authenticator: Authenticator, metrics_token: str | None
    ) -> None:
        self._metrics = metrics
        self._authenticator = authenticator
        self._hash = None if metrics_token is None else hash_token(metrics_token)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(_HEALTH_PATH, self._health, methods=["GET"]),
            Route(_METRICS_PATH, self._show_metrics, methods=["GET"]),
        ]

    async def _health(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def _show_metrics(self, request: Request) -> Response:
        if not await self._may_read(user_request(request.scope)):
            raise HTTPException(403, "the metrics are for admins, and for the metrics_token")
        return Response(self._metrics.expose(), headers={"Content-Type": CONTENT_TYPE})

    async def _may_read(self, request: UserRequest) -> bool:
        token = token_of(request)
        if token and self._hash and compare_digest(hash_token(token), self._hash):
            return True
        user = await self._authenticator.authenticate(request)
        return user is not None and user.admin
