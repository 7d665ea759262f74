"""The ASGI application: all routes over a KernelPool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernelproto.exceptions import KernelProtoError
from kernelproto.interfaces import Authenticator, User
from kernelproto.launch.finder import KernelFinder
from kernelproto.pool import KernelPool
from kernelproto.server.answers import (
    answer_bug,
    answer_http_error,
    answer_kernel_error,
    json_response,
)
from kernelproto.server.channels import ChannelsRoute
from kernelproto.server.desk import Desk
from kernelproto.server.guard import Guard
from kernelproto.server.kernels import KernelRoutes
from kernelproto.server.kernelspecs import KernelSpecRoutes
from kernelproto.server.models import timestamp
from kernelproto.server.sessions import SessionRoutes
from kernelproto.server.settings import Settings

_DEFAULT_SETTINGS = Settings()


def create_app(
    pool: KernelPool,
    *,
    finder: KernelFinder,
    authenticator: Authenticator,
    settings: Settings = _DEFAULT_SETTINGS,
) -> Starlette:
    """Return the application that serves a pool's kernels to Jupyter's clients.

    It runs on asyncio and on Trio, by itself or mounted in another application, while the pool is
    open; it neither opens nor closes it. Of the settings it heeds what is about requests: kernel,
    root_dir, allow_env, allow_origins and the limits in bytes.

    Args:
        pool: has the kernels.
        finder: the kernel types that clients are told of, those that the pool has.
        authenticator: knows the users; it is asked for every request and WebSocket.
        settings: what clients may do.
    """
    desk = Desk(pool, settings)
    limit = settings.max_body_bytes
    channels = ChannelsRoute(
        desk,
        max_message_bytes=settings.max_message_bytes,
        send_buffer_bytes=settings.send_buffer_bytes,
    )
    # What is first in the list is outermost: a browser asks what it may before it says who it is.
    middleware = [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.allow_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "X-XSRFToken"],
        ),
        Middleware(Guard, authenticator=authenticator, allow_origins=settings.allow_origins),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
        HTTPException: answer_http_error,
        KernelProtoError: answer_kernel_error,
        Exception: answer_bug,
    }
    return Starlette(
        routes=[
            *_about(pool),
            *KernelRoutes(desk, max_body_bytes=limit).routes(),
            *channels.routes(),
            *KernelSpecRoutes(finder, settings.kernel).routes(),
            *SessionRoutes(desk, max_body_bytes=limit).routes(),
        ],
        middleware=middleware if settings.allow_origins else middleware[1:],
        exception_handlers=handlers,
    )


def _about(pool: KernelPool) -> list[Route]:
    """Return the routes that tell about the server, and about who asks."""
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
