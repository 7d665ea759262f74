"""Api: the few calls of the Kubernetes API that kernels need, over httpx.

All of them are of the version v1, which has not changed for years: get, list, create, delete and
watch of Pods, Secrets and ConfigMaps. Each block opens connections of its own, so an Api belongs to
no event loop.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from kernelproto.concurrency.handshake import close_cancelled_handshake
from kernelproto.extras import importing
from kernelproto.kubernetes.bodies import Body, items, part, text
from kernelproto.kubernetes.config import Access, load_access
from kernelproto.kubernetes.failures import KubernetesError, api_error, quote

with importing("kubernetes"):
    import httpx

logger = logging.getLogger(__name__)

# One call; the API answers in milliseconds. A watch is silent for longer.
_CALL_SECONDS = 15.0
_WATCH_SECONDS = 240

# An object of Kubernetes has at most 1.5 MiB; a list has at most so many objects.
_MOST_BYTES = 16 * 2**20
_MOST_LISTED = 500

_FIRST_PAUSE_SECONDS = 0.1
_LAST_PAUSE_SECONDS = 5.0

# The API is asked again after these faults.
_PASSING = ("busy", "unreachable", "expired")


class Api:
    """The API of a cluster.

    Args:
        kubeconfig: the path of a kubeconfig file; see ``load_access``.
        context: the name of a context in it.
        namespace: the namespace; by default that of the context, or of the pod of this program.
    """

    def __init__(self, kubeconfig: str | None, context: str | None, namespace: str | None) -> None:
        self._kubeconfig = kubeconfig
        self._context = context
        self._namespace = namespace
        self._access: Access | None = None

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Connection]:
        """Open connections for the block.

        Raises:
            LaunchError: there is no cluster, see ``load_access``.
        """
        if self._access is None:
            self._access = await anyio.to_thread.run_sync(
                load_access, self._kubeconfig, self._context
            )
        access = self._access
        async with httpx.AsyncClient(
            base_url=access.server,
            verify=access.tls,
            timeout=_CALL_SECONDS,
            trust_env=False,
            headers={"User-Agent": "kernelproto"},
            event_hooks={"request": [close_cancelled_handshake]},
        ) as client:
            yield Connection(client, access, self._namespace or access.namespace)


class Connection:
    """Connections to the API, for one block.

    Args:
        client: makes the requests.
        access: authenticates them.
        namespace: the namespace of all objects.

    Attributes:
        namespace: the same.
        now: the time of the API at its last answer, in seconds since the epoch; 0 before.
    """

    def __init__(self, client: httpx.AsyncClient, access: Access, namespace: str) -> None:
        self.namespace = namespace
        self.now = 0.0
        self._client = client
        self._access = access

    async def get(self, kind: str, name: str) -> Body | None:
        """Return an object; None if there is none.

        Args:
            kind: the plural of the kind in lower case, such as "pods".
            name: the name.

        Raises:
            KubernetesError: the call has failed.
        """
        try:
            return await self._call("GET", f"get {_one(kind)} {name!r}", kind, name)
        except KubernetesError as error:
            if error.fault == "missing":
                return None
            raise

    async def list(self, kind: str, label: str) -> list[Body]:
        """Return all objects with a label, in several calls if there are many.

        Args:
            kind: as for get().
            label: a selector, such as "app=a".

        Raises:
            KubernetesError: a call has failed.
        """
        found: list[Body] = []
        params: dict[str, Any] = {"labelSelector": label, "limit": _MOST_LISTED}
        while True:
            page = await self._call("GET", f"list {kind}", kind, params=params)
            found += items(page, "items")
            token = text(page, "metadata", "continue")
            if not token:
                return found
            params["continue"] = token

    async def create(self, kind: str, body: Body) -> Body:
        """Create an object, and return it.

        Raises:
            KubernetesError: the call has failed; the fault is "conflict" if it exists.
        """
        name = body["metadata"]["name"]
        return await self._call("POST", f"create {_one(kind)} {name!r}", kind, body=body)

    async def delete(self, kind: str, name: str, uid: str, *, grace: int | None = None) -> None:
        """Delete an object, unless another one has its name by now; do nothing if it is gone.

        Args:
            kind: as for get().
            name: the name.
            uid: the uid.
            grace: the seconds that a pod has to end; 0 removes it without an answer of its node.

        Raises:
            KubernetesError: the call has failed.
        """
        body: dict[str, Any] = {"preconditions": {"uid": uid}}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        try:
            await self._call("DELETE", f"delete {_one(kind)} {name!r}", kind, name, body=body)
        except KubernetesError as error:
            if error.fault not in ("missing", "conflict"):
                raise

    async def follow(self, kind: str, name: str, see: Callable[[Body | None], bool]) -> None:
        """Call a function with each state of an object, until the function returns True.

        While the API cannot be reached, this waits. States that follow each other quickly may be
        left out, but not the last one.

        Args:
            kind: as for get().
            name: the name.
            see: called with the object, and with None if there is none.

        Raises:
            KubernetesError: the API refuses the calls.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                body = await self.get(kind, name)
                if see(body) or body is None:
                    return
                pause = _FIRST_PAUSE_SECONDS
                version = str(body["metadata"]["resourceVersion"])
                if await self._see_events(kind, name, version, see):
                    return
            except KubernetesError as error:
                if error.fault not in _PASSING:
                    raise
                logger.debug("the watch of %s is interrupted: %s", name, error)
                await anyio.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE_SECONDS)

    async def _see_events(
        self, kind: str, name: str, version: str, see: Callable[[Body | None], bool]
    ) -> bool:
        """Call a function with each state behind a version; return whether it has returned True.

        The loop is cancelled, not left: otherwise the generators in httpx would stay open.
        """
        is_over = False
        failure: Exception | None = None
        with anyio.CancelScope() as scope:
            async for seen in self._watch(kind, name, version):
                if is_over:
                    continue
                try:
                    is_over = see(seen) or seen is None
                except Exception as error:
                    failure = error
                if is_over or failure is not None:
                    is_over = True
                    scope.cancel()
        if failure is not None:
            raise failure
        return is_over

    async def _watch(self, kind: str, name: str, version: str) -> AsyncIterator[Body | None]:
        """Yield each state of an object behind a version, None when it was deleted.

        The iteration ends when the API ends the watch.
        """
        params: dict[str, str | int] = {
            "watch": "true",
            "fieldSelector": f"metadata.name={name}",
            "resourceVersion": version,
            "timeoutSeconds": _WATCH_SECONDS,
        }
        action = f"watch {_one(kind)} {name!r}"
        timeout = httpx.Timeout(_CALL_SECONDS, read=_WATCH_SECONDS + _CALL_SECONDS)
        request = self._client.build_request(
            "GET",
            self._path(kind),
            params=params,
            headers=await self._access.headers(),
            timeout=timeout,
        )
        try:
            response = await self._client.send(request, stream=True)
            try:
                if not response.is_success:
                    raise _error(action, response, await _read(response))
                failure: KubernetesError | None = None
                async for line in _lines(response):
                    event = _decoded(action, line)
                    seen = part(event, "object")
                    if event.get("type") == "ERROR":
                        code = int(text(seen, "code") or 500)
                        # The API ends the watch now.
                        failure = api_error(f"cannot {action}", code, text(seen, "message"))
                    elif event.get("type") == "DELETED":
                        yield None
                    elif event.get("type") in ("ADDED", "MODIFIED"):
                        yield seen
                if failure is not None:
                    raise failure
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise _unreachable(action, error) from error

    async def _call(
        self,
        method: str,
        action: str,
        kind: str,
        name: str = "",
        *,
        params: Mapping[str, Any] | None = None,
        body: Body | None = None,
    ) -> Body:
        content = None if body is None else msgspec.json.encode(body)
        for anew in (False, True):
            headers = {"Content-Type": "application/json"}
            headers |= await self._access.headers(anew=anew)
            try:
                async with self._client.stream(
                    method, self._path(kind, name), params=params, content=content, headers=headers
                ) as response:
                    data = await _read(response)
            except httpx.HTTPError as error:
                raise _unreachable(action, error) from error
            if response.status_code != 401:
                break
        if "date" in response.headers:
            self.now = parsedate_to_datetime(response.headers["date"]).timestamp()
        if not response.is_success:
            raise _error(action, response, data)
        return _decoded(action, data)

    def _path(self, kind: str, name: str = "") -> str:
        return f"/api/v1/namespaces/{self.namespace}/{kind}" + (f"/{name}" if name else "")


async def _read(response: httpx.Response) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > _MOST_BYTES:
            raise KubernetesError("the API has sent an answer of more than 16 MiB")
    return bytes(data)


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield the lines of a watch."""
    rest = bytearray()
    async for chunk in response.aiter_bytes():
        *lines, last = chunk.split(b"\n")
        for line in lines:
            yield bytes(rest) + line
            rest.clear()
        rest += last
        if len(rest) > _MOST_BYTES:
            raise KubernetesError("the API has sent a line of more than 16 MiB")


def _decoded(action: str, data: bytes) -> Body:
    try:
        return msgspec.json.decode(data, type=dict[str, Any])
    except ValueError as error:
        raise KubernetesError(f"cannot {action}: the API has sent no JSON: {error}") from error


def _error(action: str, response: httpx.Response, data: bytes) -> KubernetesError:
    try:
        message = str(msgspec.json.decode(data, type=dict[str, Any]).get("message") or "")
    except ValueError:
        message = data[:2000].decode("utf-8", "replace")
    return api_error(f"cannot {action}", response.status_code, message or response.reason_phrase)


def _unreachable(action: str, error: httpx.HTTPError) -> KubernetesError:
    reason = quote(str(error) or type(error).__name__)
    return KubernetesError(
        f"cannot {action}: the API of the cluster cannot be reached ({reason})",
        fault="unreachable",
    )


def _one(kind: str) -> str:
    return kind.removesuffix("s")
