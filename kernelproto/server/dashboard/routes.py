"""The routes of the dashboard: the page and the files of the page.

The page's script fetches the page again every two seconds and replaces the parts that have changed.
The files are public, because a browser loads them without a token; none holds a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from kernelproto.interfaces import User
from kernelproto.server.dashboard.page import LOGIN, View, read_file, render
from kernelproto.server.middleware.access import path_in_app
from kernelproto.server.responses import error_response
from kernelproto.server.routes.sessions import SessionRoutes
from kernelproto.server.telemetry.usage import UsageMeter, pids_of
from kernelproto.server.user_kernels import UserKernels

_PAGE = "/"

_MEDIA_TYPES = {
    "style.css": "text/css",
    "script.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}

_ASSETS: Mapping[str, tuple[bytes, str]] = {
    f"/dashboard/{name}": (read_file(name), media_type) for name, media_type in _MEDIA_TYPES.items()
}

# The paths that need no token.
PUBLIC = frozenset(_ASSETS)

# Only the page's own files: even a script that was not escaped would not run.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
}


class Dashboard:
    """The page with the user's kernels; an admin sees the kernels of all users.

    Args:
        user_kernels: finds the kernels.
        meter: measures the kernels' processes.
        sessions: finds the documents of the kernels.
    """

    def __init__(
        self, user_kernels: UserKernels, meter: UsageMeter, sessions: SessionRoutes
    ) -> None:
        self._user_kernels = user_kernels
        self._pool = user_kernels.pool
        self._meter = meter
        self._sessions = sessions
        self._version = version("kernelproto")

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route(_PAGE, self._show, methods=["GET"]),
            *(Route(path, _asset, methods=["GET"]) for path in _ASSETS),
        ]

    async def _show(self, request: Request) -> Response:
        user: User = request.user
        usage = await self._meter.read(pids_of(self._pool.kernels()))
        shown = None if user.admin else user.name
        documents = await self._sessions.documents(shown)
        view = View(
            user=user,
            kernels=self._pool.kernels(shown),
            limit=self._pool.limits.max_kernels
            if user.admin
            else self._user_kernels.max_kernels(user),
            lost=self._pool.lost(shown),
            documents=documents,
            usage=usage,
            now=datetime.now(UTC),
            here=str(request.base_url),
            version=self._version,
        )
        # 1,000 rows take 40 ms.
        return _page(await anyio.to_thread.run_sync(render, view))


def refuse(request: Request, reason: str) -> Response:
    """Refuse a request; a browser that opens the page gets the login form."""
    opens = request.method == "GET" and path_in_app(request.scope) == _PAGE
    if opens and "text/html" in request.headers.get("accept", ""):
        return _page(LOGIN, 403)
    return error_response(403, reason)


async def _asset(request: Request) -> Response:
    body, media_type = _ASSETS[path_in_app(request.scope)]
    return Response(body, media_type=media_type)


def _page(text: str, status: int = 200) -> Response:
    return HTMLResponse(text, status, headers=_HEADERS)
