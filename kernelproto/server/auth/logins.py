"""Logins: limit the failed logins of each address, and write logins to the audit log.

A request with a token that the server has not accepted before is a login attempt. An address with
too many failed attempts must wait, even with a valid token, so guessing tokens is slow. Requests
with a token that was accepted before are no attempts: users can keep working although they share
the address with an attacker, behind a NAT or a gateway.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

import anyio

from kernelproto.interfaces import Authenticator, User, UserRequest
from kernelproto.server.auth.authenticators import hash_token, token_of
from kernelproto.server.rate_limit import RateLimit
from kernelproto.server.telemetry.audit import acting, audit

# Failed attempts that an address may make at once, after a pause.
_BURST = 50

# Accepted tokens, addresses with attempts, and pairs of user and address.
_MAX_REMEMBERED = 10_000

# An IPv6 host can use all addresses of the network.
_IPV6_PREFIX = 64


class TooManyLogins(Exception):
    """Too many login attempts from one address have failed.

    Attributes:
        seconds: the time until the next attempt is allowed.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many failed logins from your address: try again in {seconds} s")
        self.seconds = seconds


class Attempt(NamedTuple):
    """A login attempt.

    Attributes:
        address: the client's address; None if unknown.
        path: the path of the request.
        key: the hash of the token; None without a token.
        counts: whether the attempt counts as failed until the token is accepted.
    """

    address: str | None
    path: str
    key: str | None
    counts: bool


class Logins:
    """Authenticate requests, and limit the failed attempts.

    Args:
        authenticator: authenticates the requests.
        per_minute: failed attempts per address and minute; 0 for no limit.

    Attributes:
        refused: the number of attempts with an unknown token.
        limited: the number of attempts from an address that had to wait.
    """

    def __init__(self, authenticator: Authenticator, *, per_minute: float) -> None:
        self.refused = 0
        self.limited = 0
        self._authenticator = authenticator
        self._failures = RateLimit(per_minute=per_minute, burst=_BURST, most=_MAX_REMEMBERED)
        self._accepted = _Recent()
        self._waiting = _Recent()
        self._logged_in = _Recent()

    async def authenticate(
        self, request: UserRequest, *, address: str | None, path: str
    ) -> User | None:
        """Return the user of a request; None refuses the request.

        Raises:
            TooManyLogins: the address must wait.
            AuthenticatorUnavailable: the authenticator cannot decide now.
        """
        attempt = self.begin(request, address=address, path=path)
        user = await self._authenticator.authenticate(request)
        if user is None:
            self.refuse(attempt)
        else:
            self.accept(attempt, user.name)
        return user

    def begin(self, request: UserRequest, *, address: str | None, path: str) -> Attempt:
        """Count an attempt as failed until ``accept`` or ``withdraw``.

        Raises:
            TooManyLogins: the address must wait.
        """
        token = token_of(request)
        key = None if token is None else hash_token(token)
        if key is None or key in self._accepted:
            return Attempt(address, path, key, counts=False)
        network = _network(address)
        seconds = math.ceil(self._failures.take(network, anyio.current_time()))
        if not seconds:
            self._waiting.discard(network)
            return Attempt(address, path, key, counts=True)
        self.limited += 1
        if self._waiting.add(network):  # logged once
            with acting(None, address):
                audit("login", "refused", path=path, reason="too many failed attempts")
        raise TooManyLogins(seconds)

    def accept(self, attempt: Attempt, user: str | None) -> None:
        """Record a successful attempt.

        Args:
            attempt: the attempt.
            user: the name of the user; None for the metrics_token, which belongs to no user.
        """
        if attempt.counts:
            self._failures.give_back(_network(attempt.address), anyio.current_time())
        if attempt.key is not None:
            self._accepted.add(attempt.key)
        if self._logged_in.add((user, attempt.address, attempt.key)):
            with acting(user, attempt.address):
                audit("login", "ok", path=attempt.path)

    def withdraw(self, attempt: Attempt) -> None:
        """Remove an attempt, because another attempt for the same request follows."""
        if attempt.counts:
            self._failures.give_back(_network(attempt.address), anyio.current_time())

    def refuse(self, attempt: Attempt) -> None:
        """Record a failed attempt."""
        if attempt.key is None:
            return
        self.refused += 1
        self._accepted.discard(attempt.key)
        with acting(None, attempt.address):
            audit("login", "refused", path=attempt.path, reason="unknown token")


class _Recent:
    """The keys that were added last, up to _MAX_REMEMBERED."""

    def __init__(self) -> None:
        self._keys: OrderedDict[Hashable, None] = OrderedDict()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._keys

    def add(self, key: Hashable) -> bool:
        """Add a key; return whether the key is new."""
        is_new = key not in self._keys
        self.discard(key)
        self._keys[key] = None
        if len(self._keys) > _MAX_REMEMBERED:
            self._keys.popitem(last=False)
        return is_new

    def discard(self, key: Hashable) -> None:
        self._keys.pop(key, None)


def _network(address: str | None) -> str:
    """Return the key of the rate limit: an IPv4 address, or the network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:  # not an IP address, such as the name of a test client
        return address or ""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), _IPV6_PREFIX), strict=False))
    return str(ip)
