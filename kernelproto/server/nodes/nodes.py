"""Nodes: the other servers of a registry, and the kernels that they have.

The name of a server in the registry is the URL at which the others reach it. A row of a kernel
names the server that holds it, and every server forwards requests for the kernel there. A server
that gets a request for a kernel without a server adopts the kernel.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Generic, NamedTuple, NoReturn, TypeVar

import anyio
import msgspec
from starlette.exceptions import HTTPException

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import PoolFull, RegistryError
from kernelproto.interfaces import User
from kernelproto.pool import KernelPool
from kernelproto.registry import RegisteredKernel, Registry
from kernelproto.server.auth.http_get import read_address, words
from kernelproto.server.nodes.http import LOST, ForwardedRequest, fetch
from kernelproto.server.nodes.requests import Headers
from kernelproto.server.nodes.seal import HEADER, Assertion, SealExpired, seal, unseal
from kernelproto.supervise import Kernel

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The number of kernels with remembered servers.
_MOST_PLACES = 10_000

# The time limit of a request for a list or a model, and of one that ends a kernel.
_LIST_SECONDS = 3
_END_SECONDS = 60
_EVICT_SECONDS = 15
_MOST_LIST_BYTES = 16 * 2**20

# If no server has an idle kernel, none is asked again for so long.
_FULL_SECONDS = 1.0

# How often a waiting request asks: the pool counts the kernels of others a bit more often.
_ASK_AGAIN_SECONDS = 6.0

# The longest idle kernel of a server; only other servers may end it.
IDLE = "/api/nodes/idle"

AWAY = "the server that has this kernel does not answer: try again in a few seconds"
_UNHELD = "no server can reach this kernel now: try again in a few seconds"


# For a request on behalf of a server.
_NO_USER = User("")


class Found(NamedTuple, Generic[T]):
    """The lists of the other servers.

    Attributes:
        items: the items of all lists.
        rows: the kernels in the registry, those of this server included.
    """

    items: list[T]
    rows: list[RegisteredKernel]


class Nodes:
    """The servers of a registry, as seen by one of them.

    Args:
        pool: the kernels of this server; shared, and with *url* as its node.
        registry: the registry of the pool.
        url: the name of this server.
    """

    def __init__(self, pool: KernelPool, registry: Registry, url: str) -> None:
        self.url = url
        self.forwarded = 0
        self._pool = pool
        self._registry = registry
        self._secret: str | None = None
        self._places: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._full_until = -math.inf

    async def find(
        self, user: User, kernel_id: str, *, everyone: bool = False, owner: str | None = None
    ) -> str | None:
        """Return the server with a kernel; None for this server, or if there is no such kernel.

        A kernel that no server has is adopted.

        Args:
            user: the user.
            kernel_id: the id of the kernel.
            everyone: as for ``UserKernels.find``.
            owner: as for ``UserKernels.find``.

        Raises:
            HTTPException: 503, no server can reach the kernel now.
            RegistryError: the registry cannot be read.
        """
        shown = owner if everyone and user.admin else user.name
        key = (shown or "", kernel_id)
        if self._pool.kernels(shown, kernel_id=kernel_id):
            return None
        if (place := self._places.get(key)) is not None:
            return place
        for _ in range(2):  # the second time if another server was faster
            rows = await self._registry.kernels(owner=shown, kernel_id=kernel_id)
            if not rows:
                return None
            if self._is_elsewhere(rows[0]):
                self._remember(key, rows[0].node)
                return rows[0].node
            await self._pool.take_over(rows[0])
            if self._pool.kernels(shown, kernel_id=kernel_id):
                return None
        if not await self._registry.kernels(owner=shown, kernel_id=kernel_id):
            return None
        raise HTTPException(503, _UNHELD)

    def has(self, kernel_id: str) -> bool:
        """Return whether this server has a kernel, of any user."""
        return bool(self._pool.kernels(kernel_id=kernel_id))

    def forget(self, user: User, kernel_id: str, *, owner: str | None = None) -> None:
        """Forget the server of a kernel, because it does not have the kernel or does not answer."""
        for name in (user.name, owner or ""):
            self._places.pop((name, kernel_id), None)

    async def request(
        self,
        node: str,
        method: str,
        target: str,
        assertion: Assertion,
        headers: Headers | None = None,
    ) -> ForwardedRequest:
        """Return a request to another server.

        Args:
            node: the name of the server.
            method: the method.
            target: the path and the query.
            assertion: the statement about the request.
            headers: the headers of the client's request.

        Raises:
            RegistryError: the registry cannot be read.
            ValueError: the name is no URL.
        """
        secret = await self._get_secret()
        value = seal(
            assertion, now=time.time(), secret=secret, node=node, method=method, target=target
        )
        headers = [*(headers or []), (HEADER.encode(), value.encode())]
        return ForwardedRequest(read_address(node), method, target, headers)

    async def arrival(self, value: str, *, method: str, target: str) -> Assertion | None:
        """Return the statement of another server about a request; None for a forgery or a replay.

        Raises:
            RegistryError: the registry cannot be read.
        """
        secret = await self._get_secret()
        try:
            return unseal(
                value,
                now=time.time(),
                secret=secret,
                node=self.url,
                method=method,
                target=target,
            )
        except SealExpired as error:
            logger.warning(
                "a forwarded request is refused: its header was made %.0f s ago; set the clocks of "
                "the servers, or else the header was replayed",
                error.seconds,
            )
            return None

    async def ask_all(
        self, user: User, path: str, kind: type[T], *, everyone: bool = False
    ) -> Found[T]:
        """Ask the other servers for a list; a server that does not answer is left out.

        Args:
            user: the user.
            path: the path of the list.
            kind: the type of the items.
            everyone: whether the list has the kernels of all users.

        Raises:
            RegistryError: the registry cannot be read.
        """
        rows = await self._registry.kernels(owner=None if everyone else user.name)
        target = f"{path}?include_all=1" if everyone else path
        lists: dict[str, list[T]] = {}

        async def ask(node: str) -> None:
            with suppress(HTTPException):  # which is logged
                status, body = await self._fetch(node, "GET", target, user, _LIST_SECONDS)
                if status == 200:
                    lists[node] = msgspec.json.decode(body, type=list[kind])  # type: ignore[valid-type]

        async with anyio.create_task_group() as tasks:
            for node in {row.node for row in rows if self._is_elsewhere(row)}:
                tasks.start_soon(ask, node)
        return Found([item for node in sorted(lists) for item in lists[node]], rows)

    async def model(self, user: User, kernel_id: str, kind: type[T]) -> T | None:
        """Return the model of a user's kernel on another server; None without such a server.

        Raises:
            HTTPException: 503, no server can reach the kernel now.
            RegistryError: the registry cannot be read.
        """
        response = await self._ask_for(user, kernel_id, "GET", _LIST_SECONDS)
        return None if response is None else msgspec.json.decode(response, type=kind)

    async def end(self, user: User, kernel_id: str) -> bool:
        """End a user's kernel on another server; return whether there was such a server.

        Raises:
            HTTPException: 503, no server can reach the kernel now.
            RegistryError: the registry cannot be read.
        """
        return await self._ask_for(user, kernel_id, "DELETE", _END_SECONDS) is not None

    async def with_room(
        self, get: Callable[..., Awaitable[Kernel]], *, wait: bool = False
    ) -> Kernel:
        """Return a new kernel; if all servers are full, have another one evict an idle kernel.

        Args:
            get: returns the kernel; takes *wait*, as ``KernelPool.get`` does.
            wait: whether to wait for room if no kernel is idle.

        Raises:
            RegistryError: the registry cannot be read.
            KernelProtoError: as for ``KernelPool.get``.
        """
        try:
            return await get()
        except PoolFull:
            if not await self.make_room() and not wait:
                raise
        async with background_tasks() as tasks:
            if wait:
                tasks.start_soon(self._make_room_again)
            return await get(wait=wait)

    async def _make_room_again(self) -> NoReturn:
        while True:
            await anyio.sleep(_ASK_AGAIN_SECONDS)
            try:
                await self.make_room()
            except RegistryError as error:
                logger.warning("no server is asked to evict a kernel: %s", error)

    async def make_room(self) -> bool:
        """Have another server evict an idle kernel; return whether one did.

        The server whose kernel was used least recently is asked first.

        Raises:
            RegistryError: the registry cannot be read.
        """
        if anyio.current_time() < self._full_until:
            return False
        idle: dict[str, float] = {}
        for row in await self._registry.kernels():
            if self._is_elsewhere(row):
                idle[row.node] = max(row.idle, idle.get(row.node, 0.0))
        for node in sorted(idle, key=idle.__getitem__, reverse=True):
            with suppress(HTTPException):  # which is logged
                status, _ = await self._fetch(node, "DELETE", IDLE, _NO_USER, _EVICT_SECONDS)
                if status == 204:
                    return True
        self._full_until = anyio.current_time() + _FULL_SECONDS
        return False

    async def evict_idle(self) -> bool:
        """Evict a kernel of this server for another one; return whether there was an idle one.

        Raises:
            RegistryError: the registry cannot be written.
        """
        return await self._pool.evict_idle()

    async def _ask_for(
        self, user: User, kernel_id: str, method: str, seconds: float
    ) -> bytes | None:
        for _ in range(2):
            node = await self.find(user, kernel_id)
            if node is None:
                return None
            status, body = await self._fetch(
                node, method, f"/api/kernels/{kernel_id}", user, seconds
            )
            if status < 300:
                return body
            self.forget(user, kernel_id)
        return None

    async def _fetch(
        self, node: str, method: str, target: str, user: User, seconds: float
    ) -> tuple[int, bytes]:
        request = await self.request(node, method, target, Assertion(user=user))
        try:
            with anyio.fail_after(seconds):
                return await fetch(request, limit=_MOST_LIST_BYTES)
        except LOST as error:
            logger.warning("the server %s does not answer: %s", node, words(error))
            raise HTTPException(503, AWAY) from error

    def _is_elsewhere(self, row: RegisteredKernel) -> bool:
        return bool(row.held) and row.node not in ("", self.url)

    def _remember(self, key: tuple[str, str], place: str) -> None:
        self._places[key] = place
        if len(self._places) > _MOST_PLACES:
            self._places.popitem(last=False)

    async def _get_secret(self) -> str:
        if self._secret is None:
            self._secret = await self._registry.secret()
        return self._secret


def registry_fault(error: RegistryError) -> HTTPException:
    """Return the response for a request that needs the registry."""
    logger.warning("a request needs the registry: %s", error)
    return HTTPException(503, "the registry of the servers does not answer: try again in a moment")
