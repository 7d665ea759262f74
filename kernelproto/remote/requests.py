"""Requests to a server, and the exceptions for refused ones."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import httpx
import msgspec

from kernelproto.exceptions import MalformedMessage
from kernelproto.remote.exceptions import ContextNotFound, RemoteServerError, ServerUnreachable
from kernelproto.remote.models import ErrorModel

T = TypeVar("T")

_NOT_FOUND = 404

# The server sends an event at least every 15 s.
READ_SECONDS = 45.0

TIMEOUT = httpx.Timeout(connect=10.0, read=READ_SECONDS, write=60.0, pool=None)

# A start may wait in a queue of the server.
START_TIMEOUT = httpx.Timeout(connect=10.0, read=3700.0, write=60.0, pool=None)


class Requests:
    """Sends requests to a server.

    Args:
        http: the HTTP client, with the base URL of the server.
    """

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def send(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        phases: httpx.Timeout = TIMEOUT,
    ) -> bytes:
        """Send a request and return the body of the response.

        Args:
            method: the method.
            path: the path on the server.
            content: the body of the request.
            headers: further headers.
            phases: the time limits of the phases.

        Raises:
            RemoteServerError: the server has refused the request, or cannot be reached.
        """
        try:
            async with self.stream(
                method, path, content, headers=headers, phases=phases
            ) as response:
                data = await response.aread()
        except httpx.TransportError as error:
            raise unreachable(error) from error
        if not response.is_success:
            raise refusal(response, data)
        return data

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        phases: httpx.Timeout = TIMEOUT,
    ) -> AsyncGenerator[httpx.Response]:
        """Send a request and give the response for the block, which reads the body.

        Raises:
            httpx.TransportError: there is no response.
        """
        request = self._http.build_request(
            method, path, content=content, headers=headers, timeout=phases
        )
        request.stream = _Body(content)
        response = await self._http.send(request, stream=True)
        try:
            yield response
        finally:
            await response.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of a request, unlike that of httpx without a generator, which Trio would report."""

    def __init__(self, content: bytes) -> None:
        self._parts = [content] if content else []

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


def unreachable(error: httpx.TransportError) -> ServerUnreachable:
    """Return the exception for a request without a response."""
    reason = str(error) or type(error).__name__
    return ServerUnreachable(f"the server cannot be reached: {reason}")


def refusal(response: httpx.Response, data: bytes) -> RemoteServerError:
    """Return the exception for a response with an error, which has the body *data*."""
    status = response.status_code
    try:
        message = decoded(data, ErrorModel).message
    except MalformedMessage:
        message = response.reason_phrase
    kind = ContextNotFound if status == _NOT_FOUND else RemoteServerError
    return kind(f"the server refuses the request ({status}): {message}", status=status)


def decoded(data: bytes, kind: type[T]) -> T:
    """Return the body of a response.

    Raises:
        MalformedMessage: the body is not a *kind*.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except ValueError as error:
        raise MalformedMessage(
            f"the response of the server cannot be read: {error}. Check the URL of the server"
        ) from None
