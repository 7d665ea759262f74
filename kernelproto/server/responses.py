"""Responses: JSON, with errors as ``{"message", "reason"}`` and never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import aclosing
from http import HTTPStatus
from typing import TypeVar

import anyio
import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from kernelproto.exceptions import (
    DiscoveryError,
    InvalidLaunchParameter,
    KernelProtoError,
    LaunchError,
    NoSuchKernel,
    PoolError,
    PoolFull,
    QuotaExceeded,
)
from kernelproto.server.user_messages import user_message

logger = logging.getLogger(__name__)

T = TypeVar("T")

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-site",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

# How long a client may take to send the body of a request.
BODY_SECONDS = 60

# When a client may try again after a response 503.
RETRY_SECONDS = 5

# The first match counts.
_STATUSES: list[tuple[type[KernelProtoError], HTTPStatus]] = [
    (PoolFull, HTTPStatus.SERVICE_UNAVAILABLE),
    (QuotaExceeded, HTTPStatus.TOO_MANY_REQUESTS),
    (PoolError, HTTPStatus.CONFLICT),
    (NoSuchKernel, HTTPStatus.NOT_FOUND),
    (InvalidLaunchParameter, HTTPStatus.BAD_REQUEST),
    (DiscoveryError, HTTPStatus.BAD_GATEWAY),
    (LaunchError, HTTPStatus.BAD_GATEWAY),
    (KernelProtoError, HTTPStatus.SERVICE_UNAVAILABLE),
]


def json_response(
    value: object, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with *value* as JSON."""
    body = msgspec.json.encode(value)
    return Response(body, status, headers=headers, media_type="application/json")


def error_response(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response with an error."""
    body = {"message": message, "reason": HTTPStatus(status).phrase}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_SECONDS), **(headers or {})}
    return json_response(body, status, headers)


def status_of(error: Exception) -> HTTPStatus:
    """Return the HTTP status for an error of a kernel or of the pool."""
    return next(status for kind, status in _STATUSES if isinstance(error, kind))


async def read_body(request: Request, kind: type[T], *, limit: int) -> T:
    """Return the body of a request, decoded from JSON; an empty body means an empty object.

    Args:
        request: the request.
        kind: the type of the result.
        limit: the maximum size, in bytes.

    Raises:
        HTTPException: 400, the body is invalid; 400, 408 or 413, as for ``read_bytes``.
    """
    body = await read_bytes(request, limit=limit)
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is invalid: {error}") from None


async def read_bytes(request: Request, *, limit: int) -> bytes:
    """Return the body of a request.

    Args:
        request: the request.
        limit: the maximum size, in bytes.

    Raises:
        HTTPException: 413, the body is larger; 408, the body did not arrive within BODY_SECONDS;
            400, the body is incomplete.
    """
    body = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async with aclosing(request.stream()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > limit:
                        raise HTTPException(
                            413, f"the body is too large: at most {limit} bytes are allowed"
                        )
    except TimeoutError:
        message = f"the body did not arrive within {BODY_SECONDS} s"
        raise HTTPException(408, message) from None
    except ClientDisconnect:
        raise HTTPException(400, "the body is incomplete") from None
    return bytes(body)


async def wait_until_gone(request: Request) -> None:
    """Return when the client has disconnected; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def answer_http_error(request: Request, error: Exception) -> Response:
    """Return the response to a refused request."""
    assert isinstance(error, HTTPException)
    return error_response(error.status_code, error.detail, error.headers)


async def answer_kernel_error(request: Request, error: Exception) -> Response:
    """Return the response to an error of a kernel or of the pool."""
    status = status_of(error)
    if status is not HTTPStatus.NOT_FOUND:
        logger.warning("%s %s: %s", request.method, request.url.path[:100], error)
    assert isinstance(error, KernelProtoError)
    return error_response(status, user_message(error))


async def answer_bug(request: Request, error: Exception) -> Response:
    """Return the response to an unexpected error; the log has the traceback."""
    response = error_response(500, "the server has failed: report the time to the administrator")
    response.headers.update(SECURITY_HEADERS)  # the middleware does not see this response
    return response
