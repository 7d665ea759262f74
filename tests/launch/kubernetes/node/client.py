"""The few requests that a node sends to the API server."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

import anyio
import httpx

CALL_SECONDS = 10
WATCH_SECONDS = 300
RETRY_SECONDS = 0.2

MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


class Lost(Exception):
    """A watch has ended; only a new list tells the state."""


class Client:
    """Args:
    url: of the API server.
    ca_file: the certificates that it is trusted by.
    token: tells it which node asks.
    """

    def __init__(self, url: str, ca_file: str, token: str) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            verify=ssl.create_default_context(cafile=ca_file),
            headers={"Authorization": f"Bearer {token}"},
            timeout=CALL_SECONDS,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def call(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> tuple[int, dict]:
        """Send a request once; return the status and the object.

        Raises:
            httpx.HTTPError: the server does not answer.
        """
        content = None if body is None else json.dumps(body)
        response = await self._http.request(
            method, path, content=content, headers={"Content-Type": kind}
        )
        return response.status_code, response.json()

    async def insist(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> tuple[int, dict]:
        """Send a request until the server answers something else than that it is overloaded."""
        while True:
            with suppress(httpx.HTTPError, ValueError):
                status, found = await self.call(method, path, body, kind)
                if status < 500 and status != httpx.codes.TOO_MANY_REQUESTS:
                    return status, found
            await anyio.sleep(RETRY_SECONDS)

    async def watch(self, path: str, selector: str, version: str) -> AsyncIterator[dict]:
        """Yield the changes of a list since a version.

        Raises:
            Lost: the watch has ended.
        """
        query = {
            "watch": "1",
            "fieldSelector": selector,
            "resourceVersion": version,
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        timeout = httpx.Timeout(CALL_SECONDS, read=WATCH_SECONDS + CALL_SECONDS)
        try:
            async with self._http.stream("GET", path, params=query, timeout=timeout) as response:
                if response.status_code != httpx.codes.OK:
                    raise Lost
                async for line in response.aiter_lines():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise Lost
                    yield event
        except (httpx.HTTPError, ValueError):
            pass
        raise Lost


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now_micro() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
