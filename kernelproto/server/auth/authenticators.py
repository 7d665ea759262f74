"""Who makes a request: the authenticators that come with the server.

A token comes as ``Authorization: token X``, as ``Authorization: Bearer X`` or, where a browser
cannot send headers, as ``?token=X``.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
import os
import secrets
import tomllib
from collections.abc import Collection, Iterable
from hmac import compare_digest

import msgspec

from kernelproto.exceptions import InvalidSettings
from kernelproto.interfaces import Authenticator, User, UserRequest

logger = logging.getLogger(__name__)

_SCHEMES = ("token", "bearer")
_HASH_PREFIX = "sha256:"
_SINGLE_USER = "user"
_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")


class SingleUserToken:
    """One user, an admin: whoever has the token.

    Args:
        token: the token; None makes one.

    Attributes:
        token: to be told to the user.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token or secrets.token_urlsafe(32)
        self._hash = hash_token(self.token)
        self._user = User(_SINGLE_USER, admin=True)

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user, if the token is right."""
        token = token_of(request)
        return self._user if token and compare_digest(hash_token(token), self._hash) else None


class TokenFile:
    """Many users, each with a token.

    The hashes of the tokens stand in a TOML file::

        [ada]
        token = "sha256:..."
        admin = true
        groups = ["students"]

    The file is read again when it has changed. One that cannot be used then is logged, and what it
    said before goes on.

    Args:
        path: the file.

    Raises:
        InvalidSettings: it cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._version = self._look()
        self._users = read_token_file(self._path)

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user whose token it is."""
        self._refresh()
        token = token_of(request)
        if not token:
            return None
        hashed = hash_token(token)
        # The time that this takes may tell something about the hash of a guess, and nothing about
        # the hash that the guess would need. It does not grow with the number of users.
        return self._users.get(hashed)

    def _refresh(self) -> None:
        version = self._look()
        if version == self._version:
            return
        self._version = version
        try:
            self._users = read_token_file(self._path)
        except InvalidSettings as error:
            logger.warning("the users stay as they were: %s", error)
        else:
            logger.info("%s was read again: %d users", self._path, len(self._users))

    def _look(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


class TrustedProxies:
    """The addresses and networks that reverse proxies connect from; ``peer in proxies`` asks.

    Args:
        networks: the addresses and networks. No other address is trusted, and no unix socket.

    Raises:
        ValueError: one of them is neither.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def __contains__(self, peer: str | None) -> bool:
        try:
            address = ipaddress.ip_address(peer or "")
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)


class ProxyHeader:
    """Users that a reverse proxy has authenticated, and names in a header.

    The proxy must set or remove that header itself, whatever its client sends.

    Args:
        header: its name.
        trusted: the addresses and networks that proxies connect from; from anywhere else, and
            over a unix socket, nobody is let in.
        admins: the names of those who are admins.
        groups_header: the name of the header with the user's groups, separated by commas; None
            means that users have no groups.
    """

    def __init__(
        self,
        header: str,
        *,
        trusted: Iterable[str],
        admins: Collection[str] = (),
        groups_header: str | None = None,
    ) -> None:
        self._header = header.lower()
        self._trusted = TrustedProxies(trusted)
        self._admins = frozenset(admins)
        self._groups_header = (groups_header or "").lower()

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user that a trusted proxy names."""
        name = request.headers.get(self._header, "").strip()
        if not name or request.peer not in self._trusted:
            return None
        groups = request.headers.get(self._groups_header, "").split(",")
        return User(
            name,
            admin=name in self._admins,
            groups=frozenset(group.strip() for group in groups if group.strip()),
        )


class Anybody:
    """One user, an admin: everybody, for a server that only this machine can reach.

    A page of somewhere else whose name was made to lead here is kept out: the browser says in the
    Host header what it takes the server for.
    """

    def __init__(self) -> None:
        self._user = User(_SINGLE_USER, admin=True)

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user."""
        host = request.headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return self._user if name in _THIS_MACHINE else None


class Shared:
    """The users of another authenticator, who share their kernels and see each other's outputs.

    Args:
        authenticator: lets them in.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the one user that all are."""
        user = await self._authenticator.authenticate(request)
        return None if user is None else User(_SINGLE_USER, admin=user.admin)


def token_of(request: UserRequest) -> str | None:
    """Return the token that a request carries; a header goes before the query."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in _SCHEMES:
        return token.strip() or None
    return request.query.get("token") or None


def hash_token(token: str) -> str:
    """Return what stands in a token file.

    One round of SHA-256 is enough for a token that nobody can guess; it is not for a password.
    """
    return _HASH_PREFIX + hashlib.sha256(token.encode(errors="replace")).hexdigest()


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    token: str
    admin: bool = False
    groups: frozenset[str] = frozenset()


def read_token_file(path: str) -> dict[str, User]:
    """Return the users in a token file, by the hashes of their tokens.

    Raises:
        InvalidSettings: it cannot be read, or says something else than it should.
    """
    users: dict[str, User] = {}
    try:
        with open(path, "rb") as file:
            entries = msgspec.convert(tomllib.load(file), dict[str, _Entry])
    except OSError as error:
        raise InvalidSettings(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidSettings(f"{path} cannot be read: {error}") from error
    for name, entry in entries.items():
        digest = entry.token.removeprefix(_HASH_PREFIX)
        if digest == entry.token or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise InvalidSettings(
                f"{path}: {name}: token is no hash: it is {_HASH_PREFIX!r} and 64 hexadecimal "
                "digits in lower case"
            )
        if entry.token in users:
            raise InvalidSettings(f"{path}: {name} has the token of {users[entry.token].name}")
        users[entry.token] = User(name, entry.admin, entry.groups)
    return users
