"""The routes for monitoring: ``/healthz``, ``/readyz`` and ``/metrics``.

``/healthz`` answers while the server runs, ``/readyz`` while it accepts new kernels and WebSockets;
both need no token. ``/metrics`` needs the token of an admin or the ``metrics_token``, which gives
no right to run code. A request from this machine has no privilege, because a proxy may have sent
it.
"""

from __future__ import annotations

from hmac import compare_digest

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernelproto.server.auth.authenticators import hash_token, token_of
from kernelproto.server.auth.logins import Logins, TooManyLogins
from kernelproto.server.drain import SHUTTING_DOWN, Drain
from kernelproto.server.middleware.access import address_of, user_request
from kernelproto.server.responses import json_response
from kernelproto.server.telemetry.metrics import CONTENT_TYPE, Metrics

_HEALTH_PATH = "/healthz"
_READY_PATH = "/readyz"
_METRICS_PATH = "/metrics"

# Guard passes these requests without a token; the route of /metrics checks the token.
PUBLIC = (_HEALTH_PATH, _READY_PATH, _METRICS_PATH)


class HealthRoutes:
    """The routes for monitoring.

    Args:
        metrics: the metrics.
        logins: authenticates the admins.
        drain: says whether the server is shutting down.
        metrics_token: a token only for the metrics; None allows only admins.
    """

    def __init__(
        self, metrics: Metrics, logins: Logins, drain: Drain, metrics_token: str | None
    ) -> None:
        self._metrics = metrics
        self._logins = logins
        self._drain = drain
        self._hash = None if metrics_token is None else hash_token(metrics_token)

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(_HEALTH_PATH, self._health, methods=["GET"]),
            Route(_READY_PATH, self._ready, methods=["GET"]),
            Route(_METRICS_PATH, self._show_metrics, methods=["GET"]),
        ]

    async def _health(self, request: Request) -> Response:
        return json_response({"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if self._drain.begun:
            raise HTTPException(503, SHUTTING_DOWN)
        return json_response({"status": "ready"})

    async def _show_metrics(self, request: Request) -> Response:
        try:
            if not await self._may_read(request):
                raise HTTPException(
                    403, "the metrics need the token of an admin or the metrics_token"
                )
        except TooManyLogins as error:
            raise HTTPException(429, str(error), {"Retry-After": str(error.seconds)}) from None
        return Response(await self._metrics.expose(), headers={"Content-Type": CONTENT_TYPE})

    async def _may_read(self, request: Request) -> bool:
        wanted = user_request(request.scope)
        address, path = address_of(request.scope), request.scope["path"]
        token = token_of(wanted)
        if token and self._hash:
            attempt = self._logins.begin(wanted, address=address, path=path)
            if compare_digest(hash_token(token), self._hash):
                self._logins.accept(attempt, None)
                return True
            self._logins.withdraw(attempt)
        user = await self._logins.authenticate(wanted, address=address, path=path)
        return user is not None and user.admin
