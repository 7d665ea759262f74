"""The authenticators of the server that need no other service.

Clients send a token as ``Authorization: token X``, as ``Authorization: Bearer X`` or, where a
browser cannot send headers, as ``?token=X``.
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
    """Authenticate one user, an admin, by one token.

    Args:
        token: the token; None creates one.

    Attributes:
        token: the token, to give to the user.
    """

    def __init__(self, token: str | None = None) -> None:
        self.token = token or secrets.token_urlsafe(32)
        self._hash = hash_token(self.token)
        self._user = User(_SINGLE_USER, admin=True)

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user if the request has the token."""
        token = token_of(request)
        return self._user if token and compare_digest(hash_token(token), self._hash) else None


class TokenFile:
    """Authenticate many users by a token each.

    A TOML file has the hashes of the tokens::

        [ada]
        token = "sha256:..."
        admin = true
        groups = ["students"]

    The file is read again after each change. If the new file is invalid, a warning is logged, and
    the users are unchanged.

    Args:
        path: the file.

    Raises:
        InvalidSettings: the file cannot be read, or is invalid.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._version = self._look()
        self._users = read_token_file(self._path)

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user with the token of the request."""
        self._refresh()
        token = token_of(request)
        if not token:
            return None
        hashed = hash_token(token)
        # The time of this lookup depends on the hash of the guess alone, so a measurement does not
        # help to find a token. The time does not grow with the number of users.
        return self._users.get(hashed)

    def _refresh(self) -> None:
        version = self._look()
        if version == self._version:
            return
        self._version = version
        try:
            self._users = read_token_file(self._path)
        except InvalidSettings as error:
            logger.warning("kept the previous users: %s", error)
        else:
            logger.info("read %s again: %d users", self._path, len(self._users))

    def _look(self) -> tuple[int, ...] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns


class TrustedProxies:
    """The addresses of trusted reverse proxies; test one with ``peer in proxies``.

    Args:
        networks: addresses and networks. A peer on a Unix socket is never trusted.

    Raises:
        ValueError: one of them is neither an address nor a network.
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
    """Take the user from a header of a reverse proxy, which has authenticated the user.

    The proxy must set or remove this header in every request, so that clients cannot send it.

    Args:
        header: the name of the header.
        trusted: the addresses and networks of the proxies. Requests from other addresses, or over
            a Unix socket, are refused.
        admins: the names of admins.
        groups_header: the name of the header with the user's groups, separated by commas; None if
            users have no groups.
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
        """Return the user in the header, if a trusted proxy has sent the request."""
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
    """Authenticate every request as one user, an admin. Only for a server on a loopback address.

    The Host header must name this machine. So a web page cannot reach the server through a DNS name
    that was rebound to the loopback address.
    """

    def __init__(self) -> None:
        self._user = User(_SINGLE_USER, admin=True)

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the user, if the Host header names this machine."""
        host = request.headers.get("host", "")
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return self._user if name in _THIS_MACHINE else None


class Shared:
    """Map all users of another authenticator to one user, so that they share kernels and outputs.

    Args:
        authenticator: authenticates the requests.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def authenticate(self, request: UserRequest) -> User | None:
        """Return the shared user, an admin if the authenticated user is one."""
        user = await self._authenticator.authenticate(request)
        return None if user is None else User(_SINGLE_USER, admin=user.admin)


def token_of(request: UserRequest) -> str | None:
    """Return the token of a request; a header overrides the query."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() in _SCHEMES:
        return token.strip() or None
    return request.query.get("token") or None


def hash_token(token: str) -> str:
    """Return the hash of a token for a token file.

    One round of SHA-256 is enough for a random token, but not for a password.
    """
    return _HASH_PREFIX + hashlib.sha256(token.encode(errors="replace")).hexdigest()


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    token: str
    admin: bool = False
    groups: frozenset[str] = frozenset()


def read_token_file(path: str) -> dict[str, User]:
    """Return the users in a token file by the hashes of their tokens.

    Raises:
        InvalidSettings: the file cannot be read, or is invalid.
    """
    users: dict[str, User] = {}
    try:
        with open(path, "rb") as file:
            entries = msgspec.convert(tomllib.load(file), dict[str, _Entry])
    except OSError as error:
        raise InvalidSettings(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidSettings(f"cannot read {path}: {error}") from error
    for name, entry in entries.items():
        digest = entry.token.removeprefix(_HASH_PREFIX)
        if digest == entry.token or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise InvalidSettings(
                f"{path}: {name}: token is not a hash: write {_HASH_PREFIX!r} and 64 lower-case "
                "hexadecimal digits, or create the lines with --new-token"
            )
        if entry.token in users:
            raise InvalidSettings(
                f"{path}: {name} has the same token as {users[entry.token].name}: create a new one"
            )
        users[entry.token] = User(name, entry.admin, entry.groups)
    return users
