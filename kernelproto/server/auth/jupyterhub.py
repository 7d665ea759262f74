"""HubToken: users whom a JupyterHub knows by their tokens.

The hub is asked with the token itself, ``GET {url}/user``, and answers who that is.
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

# How many tokens the hub may be asked about at the same time: so many that it has let in before,
# and so many others, which cannot hold up the former. And how many users are remembered.
_MOST_QUESTIONS = 20
_MOST_REMEMBERED = 10_000

# What can stand in a header. Anything else is no token of a hub's.
_TOKEN = re.compile(r"[!-~]{1,1000}")


class HubToken:
    """The users of a JupyterHub, each with the tokens that the hub has given them.

    A token is remembered for *cache_seconds*: so long it also lives on after the hub has revoked
    it. Those that the hub does not know are not remembered. The hub's admins are admins here.
    Services of the hub are not let in: one may have the name of a user.

    Args:
        url: of the hub's API, such as ``http://127.0.0.1:8081/hub/api``.
        scopes: of which a token needs one, such as ``access:services!service=kernels``; any token
            of a user will do where there are none.
        cache_seconds: how long what the hub has said about a token is believed.
        timeout: how many seconds the hub may take to answer.

    Raises:
        InvalidSettings: the URL cannot be used.
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
        # A token for all services is one for this service.
        self._scopes = {*scopes, *(scope.partition("!")[0] for scope in scopes)}
        self._cache_seconds = cache_seconds
        self._timeout = timeout
        self._reachable = True
        self._for_users = anyio.Semaphore(_MOST_QUESTIONS)
        self._for_strangers = anyio.Semaphore(_MOST_QUESTIONS)
        # In the order in which they expire.
        self._known: dict[str, tuple[User, float]] = {}
        # Who opens a page sends many requests at once, and the hub is asked once.
        self._asking: WeakValueDictionary[str, anyio.Lock] = WeakValueDictionary()

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user whose token it is, as the hub says.

        Raises:
            AuthenticatorUnavailable: the hub does not answer, or not as one.
        """
        token = token_of(request)
        if not token or not _TOKEN.fullmatch(token):
            return None
        key = hash_token(token)
        return self._remembered(key) or await self._find_out(key, token)

    async def _find_out(self, key: str, token: str) -> User | None:
        lock = self._asking.setdefault(key, anyio.Lock())
        try:
            with anyio.fail_after(self._timeout):
                async with lock:
                    return self._remembered(key) or await self._ask(key, token)
        except FAILURES as error:
            if self._reachable:  # else it was said already
                logger.warning("the hub at %s cannot be asked: %s", self._url, words(error))
            self._reachable = False
            raise AuthenticatorUnavailable(
                "the JupyterHub that knows the users does not answer: try again later"
            ) from error

    async def _ask(self, key: str, token: str) -> User | None:
        async with self._for_users if key in self._known else self._for_strangers:
            user = self._judge(*await self._get(token))
        if not self._reachable:
            logger.info("the hub at %s answers again", self._url)
        self._reachable = True
        if user is not None:
            self._remember(key, user)
        else:
            self._known.pop(key, None)
        return user

    async def _get(self, token: str) -> tuple[int, bytes]:
        return await get(self._address, ("Authorization", f"token {token}"))

    def _judge(self, status: int, body: bytes) -> User | None:
        """Return the user that an answer is about; ValueError where it is not one of a hub's."""
        if status in (401, 403):
            return None
        if status != 200:
            raise ValueError(f"it answers with status {status}")
        answer = msgspec.json.decode(body, type=_Answer)
        if answer.kind != "user" or (self._scopes and self._scopes.isdisjoint(answer.scopes)):
            return None
        return User(answer.name, admin=bool(answer.admin), groups=answer.groups)

    def _remembered(self, key: str) -> User | None:
        user, until = self._known.get(key, (None, 0.0))
        return user if anyio.current_time() < until else None

    def _remember(self, key: str, user: User) -> None:
        self._known.pop(key, None)
        self._known[key] = user, anyio.current_time() + self._cache_seconds
        if len(self._known) > _MOST_REMEMBERED:
            del self._known[next(iter(self._known))]


class _Answer(msgspec.Struct):
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
            "hub_api_url: it is no address of a hub's API, such as http://127.0.0.1:8081/hub/api"
        ) from None
