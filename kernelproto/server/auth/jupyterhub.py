"""HubToken: authenticate users by the tokens of a JupyterHub.

``GET {url}/user`` with a token returns the user.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Annotated
from weakref import WeakValueDictionary

import anyio
import msgspec

from kernelproto.exceptions import AuthenticatorUnavailable, InvalidSettings
from kernelproto.interfaces import User, UserRequest
from kernelproto.server.auth.authenticators import hash_token, token_of
from kernelproto.server.auth.http_get import FAILURES, Address, get, read_address, words

logger = logging.getLogger(__name__)

# Concurrent requests to the hub: one limit for tokens that the hub has accepted before, and one for
# all others, so that unknown tokens cannot delay known users.
_MAX_REQUESTS = 20

# The tokens whose users are remembered.
_MAX_REMEMBERED = 10_000

# The characters that a header can have. A token with others is not a token of a hub.
_TOKEN = re.compile(r"[!-~]{1,1000}")


class HubToken:
    """Authenticate the users of a JupyterHub by their tokens.

    Accepted tokens are cached for *cache_seconds*, so a revoked token keeps working for that long.
    Unknown tokens are not cached. Admins of the hub are admins of the server. Tokens of the hub's
    services are refused, because a service may have the name of a user.

    Args:
        url: the URL of the hub's API, such as ``http://127.0.0.1:8081/hub/api``.
        scopes: a token needs at least one of these scopes, for example
            ``access:services!service=kernels``. If empty, any token of a user is accepted.
        cache_seconds: seconds for which the hub's answer about a token is cached.
        timeout: seconds to wait for the hub's response.

    Raises:
        InvalidSettings: the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        *,
        scopes: Collection[str] = (),
        cache_seconds: float = 3.0,
        timeout: float = 5.0,
    ) -> None:
        self._url = url
        self._address = _read_url(url)
        # A scope for all services includes this service.
        self._scopes = {*scopes, *(scope.partition("!")[0] for scope in scopes)}
        self._cache_seconds = cache_seconds
        self._timeout = timeout
        self._reachable = True
        self._for_users = anyio.Semaphore(_MAX_REQUESTS)
        self._for_others = anyio.Semaphore(_MAX_REQUESTS)
        # In the order of expiry.
        self._known: dict[str, tuple[User, float]] = {}
        # A browser sends many requests at once; the first request asks the hub, the others wait for
        # the answer.
        self._locks: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user of the request's token, or None if the hub does not know the token.

        Raises:
            AuthenticatorUnavailable: the hub does not respond, or the response is invalid.
        """
        token = token_of(request)
        if not token or not _TOKEN.fullmatch(token):
            return None
        key = hash_token(token)
        return self._remembered(key) or await self._find_out(key, token)

    async def _find_out(self, key: str, token: str) -> User | None:
        lock = self._locks.setdefault(key, anyio.Lock())
        try:
            with anyio.fail_after(self._timeout):
                async with lock:
                    return self._remembered(key) or await self._ask(key, token)
        except FAILURES as error:
            if self._reachable:  # log the first failure only
                logger.warning("cannot reach the hub at %s: %s", self._url, words(error))
            self._reachable = False
            raise AuthenticatorUnavailable(
                "the JupyterHub that authenticates users does not respond: try again later"
            ) from error

    async def _ask(self, key: str, token: str) -> User | None:
        async with self._for_users if key in self._known else self._for_others:
            user = self._judge(*await self._get(token))
        if not self._reachable:
            logger.info("the hub at %s responds again", self._url)
        self._reachable = True
        if user is not None:
            self._remember(key, user)
        else:
            self._known.pop(key, None)
        return user

    async def _get(self, token: str) -> tuple[int, bytes]:
        return await get(self._address, ("Authorization", f"token {token}"))

    def _judge(self, status: int, body: bytes) -> User | None:
        """Return the user in a response, or None; raise ValueError if invalid."""
        if status in (401, 403):
            return None
        if status != 200:
            raise ValueError(f"unexpected status {status}")
        found = msgspec.json.decode(body, type=_HubUser)
        if found.kind != "user" or (self._scopes and self._scopes.isdisjoint(found.scopes)):
            return None
        return User(found.name, admin=bool(found.admin), groups=found.groups)

    def _remembered(self, key: str) -> User | None:
        user, until = self._known.get(key, (None, 0.0))
        return user if anyio.current_time() < until else None

    def _remember(self, key: str, user: User) -> None:
        self._known.pop(key, None)
        self._known[key] = user, anyio.current_time() + self._cache_seconds
        if len(self._known) > _MAX_REMEMBERED:
            del self._known[next(iter(self._known))]


class _HubUser(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    kind: str = "user"
    admin: bool | None = None
    groups: frozenset[str] = frozenset()
    scopes: list[str] = []


def _read_url(url: str) -> Address:
    try:
        read_address(url)
        return read_address(f"{url.rstrip('/')}/user")
    except ValueError:
        raise InvalidSettings(
            "hub_api_url: it is not a valid URL: use one such as http://127.0.0.1:8081/hub/api"
        ) from None
