"""HubToken: users whom a JupyterHub knows by their tokens.

The hub is asked with the token itself, ``GET {url}/user``, and answers who that is. No redirect is
followed, which could lead the token elsewhere.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

import anyio
import h11
import msgspec
from anyio.abc import ByteStream

from kernelproto.exceptions import AuthenticatorUnavailable, InvalidSettings
from kernelproto.interfaces import User, UserRequest
from kernelproto.server.users import hash_token, token_of

logger = logging.getLogger(__name__)

_PORTS = {"http": 80, "https": 443}
_READ_BYTES = 65_536

# A user with thousands of servers has a long answer; nobody's is longer than this.
_MOST_BYTES = 2**20

# How many tokens the hub may be asked about at the same time: so many that it has let in before,
# and so many others, which cannot hold up the former. And how many users are remembered.
_MOST_QUESTIONS = 20
_MOST_REMEMBERED = 10_000

# Of the network, of HTTP, and of the hub's JSON.
_FAILURES = (
    OSError,
    anyio.BrokenResourceError,
    h11.ProtocolError,
    ValueError,
    RecursionError,
)

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
        self._hub = _read_url(url)
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
        except _FAILURES as error:
            if self._reachable:  # else it was said already
                logger.warning("the hub at %s cannot be asked: %s", self._hub.url, _words(error))
            self._reachable = False
            raise AuthenticatorUnavailable(
                "the JupyterHub that knows the users does not answer: try again later"
            ) from error

    async def _ask(self, key: str, token: str) -> User | None:
        async with self._for_users if key in self._known else self._for_strangers:
            user = self._judge(*await _get(self._hub, token))
        if not self._reachable:
            logger.info("the hub at %s answers again", self._hub.url)
        self._reachable = True
        if user is not None:
            self._remember(key, user)
        else:
            self._known.pop(key, None)
        return user

    def _judge(self, status: int, body: bytes) -> User | None:
        """Return the user that an answer is about; ValueError where it is not one of a hub's."""
        if status in (401, 403):
            return None
        if status != 200:
            raise ValueError(f"it answers with status {status}")
        answer = msgspec.json.decode(body, type=_Answer)
        if answer.kind != "user" or (self._scopes and self._scopes.isdisjoint(answer.scopes)):
            return None
        return User(answer.name, admin=bool(answer.admin))

    def _remembered(self, key: str) -> User | None:
        user, until = self._known.get(key, (None, 0.0))
        return user if anyio.current_time() < until else None

    def _remember(self, key: str, user: User) -> None:
        self._known.pop(key, None)
        self._known[key] = user, anyio.current_time() + self._cache_seconds
        if len(self._known) > _MOST_REMEMBERED:
            del self._known[next(iter(self._known))]


class _Hub(NamedTuple):
    url: str
    host: str
    port: int
    tls: bool
    headers: list[tuple[str, str]]
    target: str


class _Answer(msgspec.Struct):
    name: Annotated[str, msgspec.Meta(min_length=1)]
    kind: str = "user"
    admin: bool | None = None
    scopes: list[str] = []


def _read_url(url: str) -> _Hub:
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        headers = [("Host", parts.netloc), ("Accept", "application/json"), ("Connection", "close")]
        target = f"{parts.path.rstrip('/')}/user"
        h11.Request(method="GET", target=target, headers=headers)  # it raises
        if not parts.hostname or "@" in parts.netloc or parts.query or parts.scheme not in _PORTS:
            raise ValueError
    except (ValueError, KeyError, h11.LocalProtocolError):
        raise InvalidSettings(
            "hub_api_url: it is no address of a hub's API, such as http://127.0.0.1:8081/hub/api"
        ) from None
    return _Hub(url, parts.hostname, port, parts.scheme == "https", headers, target)


async def _get(hub: _Hub, token: str) -> tuple[int, bytes]:
    """Ask a hub whose token it is; return the status and the body of its answer."""
    http = h11.Connection(h11.CLIENT)
    headers = [*hub.headers, ("Authorization", f"token {token}")]
    request = h11.Request(method="GET", target=hub.target, headers=headers)
    question = (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")
    async with await _connect(hub) as stream:
        await stream.send(question)
        return await _answer(http, stream)


async def _connect(hub: _Hub) -> ByteStream:
    if hub.tls:
        # HTTP says itself where an answer ends; servers do not say it again with TLS.
        return await anyio.connect_tcp(hub.host, hub.port, tls=True, tls_standard_compatible=False)
    return await anyio.connect_tcp(hub.host, hub.port)


async def _answer(http: h11.Connection, stream: ByteStream) -> tuple[int, bytes]:
    status = 0
    body = bytearray()
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                try:
                    http.receive_data(await stream.receive(_READ_BYTES))
                except anyio.EndOfStream:
                    http.receive_data(b"")
            case h11.InformationalResponse():
                pass
            case h11.Response(status_code=status):
                pass
            case h11.Data(data=data):
                body += data
                if len(body) > _MOST_BYTES:
                    raise ValueError(f"its answer is longer than {_MOST_BYTES} bytes")
            case h11.EndOfMessage():
                return status, bytes(body)
            case event:
                raise ValueError(f"it answers with {event!r}")


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
