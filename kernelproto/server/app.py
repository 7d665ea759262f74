"""The ASGI application: all routes over a KernelPool."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernelproto.exceptions import InvalidSettings, KernelProtoError
from kernelproto.extras import fault
from kernelproto.fanout.broadcasts import Broadcasts
from kernelproto.interfaces import Authenticator, User
from kernelproto.launch.finder import KernelFinder
from kernelproto.pool import KernelPool
from kernelproto.server import dashboard
from kernelproto.server.auth.logins import Logins
from kernelproto.server.auth.revocation import Access
from kernelproto.server.connections import UserSockets
from kernelproto.server.contexts.contexts import Contexts
from kernelproto.server.drain import Drain
from kernelproto.server.kept_clients import KeptClients
from kernelproto.server.middleware.access import Guard, SecurityHeaders
from kernelproto.server.middleware.cancellable_send import CancellableSends
from kernelproto.server.middleware.forwarded import Forwarded
from kernelproto.server.models import timestamp
from kernelproto.server.nodes.forwarding import Forwarding
from kernelproto.server.nodes.nodes import Nodes
from kernelproto.server.responses import (
    answer_bug,
    answer_http_error,
    answer_kernel_error,
    json_response,
)
from kernelproto.server.routes import health, mcp
from kernelproto.server.routes.channels import ChannelsRoute
from kernelproto.server.routes.contexts import ContextRoutes
from kernelproto.server.routes.kernels import KernelRoutes
from kernelproto.server.routes.kernelspecs import KernelSpecRoutes
from kernelproto.server.routes.sessions import SessionRoutes
from kernelproto.server.settings import Settings
from kernelproto.server.telemetry.metrics import Metrics
from kernelproto.server.telemetry.usage import UsageMeter
from kernelproto.server.user_kernels import UserKernels

if TYPE_CHECKING:
    from kernelproto.server.mcp.users import McpUsers

_DEFAULT_SETTINGS = Settings()


def create_app(
    pool: KernelPool,
    *,
    finder: KernelFinder,
    authenticator: Authenticator,
    settings: Settings = _DEFAULT_SETTINGS,
) -> Starlette:
    """Return the application that serves the kernels of a pool to Jupyter's clients.

    The application runs on asyncio and on Trio, alone or mounted in another application. The pool
    must be open meanwhile; the application neither opens nor closes it. Only these settings apply:
    kernel, root_dir, isolate, isolation, allow_env, allow_origins, base_url, trusted_proxies,
    node_url, metrics_token, revoked_kernels, those of MCP and the limits for one user or client.

    If the pool has a registry, the sessions are stored there, and clients of kernels that have
    outlived an earlier server are served again. Create one application for such a pool, as soon as
    the pool is open. With ``node_url`` the pool must be *shared*, with this URL as its *node*; then
    the application serves the kernels of all servers with the registry.

    With the setting ``mcp``, the lifespan of the application, which holds the conversations, must
    be open as well. An ASGI server opens the lifespan, but not that of a mounted application.

    On any ASGI server a client that does not read is disconnected and delays no other client, and a
    request whose body arrives too slowly gets 408. The ASGI server itself is responsible for

    - the time for the head of a request: uvicorn has no limit;
    - a connection to a client that never reads again: hypercorn on Trio has no limit;
    - the number of connections, and of the chunks and frames that are parsed in one turn of the
      event loop: neither uvicorn nor hypercorn has a limit.

    ``python -m kernelproto.server`` limits all of these.

    Args:
        pool: the kernels.
        finder: the kernel types of the pool, which clients can list.
        authenticator: authenticates each request and WebSocket.
        settings: the settings.

    Raises:
        InvalidSettings: the setting ``mcp`` is on, and the extra ``mcp`` is not installed.
    """
    broadcasts = Broadcasts(limit=settings.send_buffer_bytes, seconds=settings.replay_seconds)
    access = Access(authenticator)
    logins = Logins(authenticator, per_minute=settings.failed_logins_per_minute)
    sockets = UserSockets(settings.max_websockets_per_user)
    meter = UsageMeter()
    metrics = Metrics(pool, broadcasts, finder=finder, meter=meter, logins=logins, sockets=sockets)
    drain = Drain()
    nodes = _nodes(pool, settings)
    user_kernels = UserKernels(pool, finder, settings, metrics, access, drain, nodes)
    kept = KeptClients(pool, broadcasts, user_kernels)
    kept.resume()
    limit = settings.max_body_bytes
    channels = ChannelsRoute(
        user_kernels,
        broadcasts,
        metrics.traffic,
        access,
        drain,
        sockets,
        kept,
        max_message_bytes=settings.max_message_bytes,
    )
    contexts = ContextRoutes(
        Contexts(user_kernels, finder, settings),
        user_kernels,
        access,
        drain,
        max_body_bytes=limit,
    )
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.allow_origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "Idempotency-Key",
            "Range",
            "X-XSRFToken",
            *mcp.HEADERS,
        ],
        expose_headers=mcp.HEADERS[:1],
    )
    # The first is the outermost. CORS precedes Guard: browsers send no token with a preflight.
    middleware = [
        Middleware(SecurityHeaders),
        Middleware(Forwarded, base_url=settings.base_url, trusted=settings.trusted_proxies),
        *([cors] if settings.allow_origins else []),
        Middleware(
            Guard,
            logins=logins,
            access=access,
            refuse=dashboard.refuse,
            allow_origins=settings.allow_origins,
            public=(*dashboard.PUBLIC, *health.PUBLIC),
            challenging=(mcp.MCP_PATH,),
            arrivals=nodes,
        ),
        Middleware(CancellableSends),
        *([] if nodes is None else [Middleware(Forwarding, nodes=nodes, drain=drain)]),
    ]
    sessions = SessionRoutes(user_kernels, settings)
    mcp_routes: list[Route] = []
    lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None
    users: McpUsers | None = None
    if settings.mcp:
        users = _mcp_users(user_kernels, finder, settings, drain)
        mcp_routes = mcp.McpRoute(users, access, drain, max_body_bytes=limit).routes()
        lifespan = users.lifespan
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: answer_http_error,
        KernelProtoError: answer_kernel_error,
        Exception: answer_bug,
    }
    app = Starlette(
        routes=[
            *_about(pool),
            *health.HealthRoutes(metrics, logins, drain, settings.metrics_token).routes(),
            *KernelRoutes(user_kernels, max_body_bytes=limit).routes(),
            *channels.routes(),
            *contexts.routes(),
            *KernelSpecRoutes(finder, settings.kernel).routes(),
            *sessions.routes(),
            *dashboard.Dashboard(user_kernels, meter, sessions).routes(),
            *mcp_routes,
        ],
        middleware=middleware,
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    app.state.drain = drain
    app.state.mcp = users
    app.state.metrics = metrics
    return app


def _nodes(pool: KernelPool, settings: Settings) -> Nodes | None:
    if settings.node_url is None:
        return None
    if pool.registry is None:
        raise InvalidSettings("node_url: the pool needs a registry that the servers share")
    return Nodes(pool, pool.registry, settings.node_url)


def _mcp_users(
    user_kernels: UserKernels, finder: KernelFinder, settings: Settings, drain: Drain
) -> McpUsers:
    if os.name != "posix":
        raise InvalidSettings("mcp: it needs Linux, macOS or another POSIX system")
    lacking = fault("mcp")
    if lacking is not None:
        raise InvalidSettings(f"mcp: {lacking}")
    from kernelproto.server.mcp.users import McpUsers  # which needs the extra

    return McpUsers(user_kernels, finder, settings, drain)


def _about(pool: KernelPool) -> list[Route]:
    """Return the routes about the server and the current user."""
    started = datetime.now(UTC)

    async def api(request: Request) -> Response:
        return json_response({"version": version("kernelproto")})

    async def status(request: Request) -> Response:
        user: User = request.user
        kernels = pool.kernels(None if user.admin else user.name)
        return json_response(
            {
                "started": timestamp(started),
                "last_activity": timestamp(max([started, *(k.last_activity for k in kernels)])),
                "kernels": len(kernels),
                "connections": sum(kernel.connections for kernel in kernels),
            }
        )

    async def me(request: Request) -> Response:
        user: User = request.user
        identity = {
            "username": user.name,
            "name": user.name,
            "display_name": user.name,
            "initials": user.name[:1].upper(),
            "avatar_url": None,
            "color": None,
        }
        return json_response({"identity": identity, "permissions": {}})

    return [
        Route("/api", api, methods=["GET"]),
        Route("/api/status", status, methods=["GET"]),
        Route("/api/me", me, methods=["GET"]),
    ]
