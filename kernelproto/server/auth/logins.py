"""Logins: limit failed attempts to log in by address, and tell the audit log of attempts.

A request with a token that the server has not accepted before is an attempt. An address with too
many failed attempts has to wait, whether its next token is right or wrong, so guessing is slow. A
token that was accepted before is no attempt: users who share the address, behind a NAT or a
gateway, keep working.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Hashable
from typing import NamedTuple

import anyio

from kernelproto.interfaces import Authenticator, User, UserRequest
from kernelproto.server.auth.authenticators import hash_token, token_of
from kernelproto.server.rate_limit import RateLimit
from kernelproto.server.telemetry.audit import acting, audit

# Failed attempts at once, after a while without any.
_BURST = 50

# Accepted tokens, addresses that attempts come from, and users with their addresses.
_MOST_REMEMBERED = 10_000

# An IPv6 host may use every address of its network.
_IPV6_PREFIX = 64


class TooManyLogins(Exception):
    """Too many attempts from this address have failed.

    Attributes:
        seconds: how long it has to wait.
    """

    def __init__(self, seconds: int) -> None:
        super().__init__(
            f"too many log-ins from your address have failed: try again in {seconds} s"
        )
        self.seconds = seconds


class Attempt(NamedTuple):
    """A request that may be authenticated.

    Attributes:
        address: the client's address; None if it has none.
        path: the path of the request.
        key: the hash of its token; None where it has none.
        counts: whether it was counted as a failure until its token is accepted.
    """

    address: str | None
    path: str
    key: str | None
    counts: bool


class Logins:
    """Authenticate requests, and limit how often that may fail.

    Args:
        authenticator: knows the users.
        per_minute: failed attempts of an address in a minute; 0 for no limit.

    Attributes:
        refused: how many attempts had an unknown token.
        limited: how many came from an address that had to wait.
    """

    def __init__(self, authenticator: Authenticator, *, per_minute: float) -> None:
        self.refused = 0
        self.limited = 0
        self._authenticator = authenticator
        self._failures = RateLimit(per_minute=per_minute, burst=_BURST, most=_MOST_REMEMBERED)
        self._accepted = _Recent()
        self._waiting = _Recent()
        self._logged_in = _Recent()

    async def authenticate(
        self, request: UserRequest, *, address: str | None, path: str
    ) -> User | None:
        """Return the user who makes a request; None refuses it.

        Raises:
            TooManyLogins: the address has to wait.
            AuthenticatorUnavailable: as the authenticator does.
        """
        attempt = self.begin(request, address=address, path=path)
        user = await self._authenticator.authenticate(request)
        if user is None:
            self.refuse(attempt)
        else:
            self.accept(attempt, user.name)
        return user

    def begin(self, request: UserRequest, *, address: str | None, path: str) -> Attempt:
        """Count an attempt; ``accept`` takes that back.

        Raises:
            TooManyLogins: the address has to wait.
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
        if self._waiting.add(network):  # told once, however often it goes on
            with acting(None, address):
                audit("login", "refused", path=path, reason="too many failed attempts")
        raise TooManyLogins(seconds)

    def accept(self, attempt: Attempt, user: str | None) -> None:
        """Take note that an attempt was let in.

        Args:
            attempt: the attempt.
            user: None for a token that is no user's, such as the metrics_token.
        """
        if attempt.counts:
            self._failures.give_back(_network(attempt.address), anyio.current_time())
        if attempt.key is not None:
            self._accepted.add(attempt.key)
        if self._logged_in.add((user, attempt.address, attempt.key)):
            with acting(user, attempt.address):
                audit("login", "ok", path=attempt.path)

    def withdraw(self, attempt: Attempt) -> None:
        """Take back an attempt that is followed by another one about the same request."""
        if attempt.counts:
            self._failures.give_back(_network(attempt.address), anyio.current_time())

    def refuse(self, attempt: Attempt) -> None:
        """Take note that the user of an attempt was not let in."""
        if attempt.key is None:
            return
        self.refused += 1
        self._accepted.discard(attempt.key)
        with acting(None, attempt.address):
            audit("login", "refused", path=attempt.path, reason="unknown token")


class _Recent:
    """The things that were added last, up to a bounded number."""

    def __init__(self) -> None:
        self._things: dict[Hashable, None] = {}

    def __contains__(self, thing: Hashable) -> bool:
        return thing in self._things

    def add(self, thing: Hashable) -> bool:
        """Add a thing; return whether it was not there."""
        is_new = thing not in self._things
        self.discard(thing)
        self._things[thing] = None
        if len(self._things) > _MOST_REMEMBERED:
            del self._things[next(iter(self._things))]
        return is_new

    def discard(self, thing: Hashable) -> None:
        self._things.pop(thing, None)


def _network(address: str | None) -> str:
    """Return the key of the limit: an IPv4 address, or the network of an IPv6 address."""
    try:
        ip = ipaddress.ip_address(address or "")
    except ValueError:  # such as the name that a test client has
        return address or ""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((int(ip), _IPV6_PREFIX), strict=False))
    return str(ip)
