"""Seals: the header with which a server forwards the request of an authenticated user. Pure.

The header has the user and the address of the client and the time as JSON, and a code that only the
servers with the secret of the registry can make. The code covers the receiving server, the method
and the target of the request, so a header that leaks is of no use for another request. It is of no
use for the same request either, ``LONGEST_SECONDS`` later. The clocks of the servers may differ by
this time.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

from kernelproto.interfaces import User

HEADER = "kernelproto-forwarded"

# How far the time in a header may be from that of the receiver. Kerberos has the same limit.
LONGEST_SECONDS = 300.0


class SealExpired(Exception):
    """A header is right, but was made too long ago, or the clocks of two servers differ.

    Attributes:
        seconds: the age of the header; negative if made in the future.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Assertion(msgspec.Struct, frozen=True, kw_only=True):
    """The statement of a server about a request that it forwards.

    Args:
        user: the user.
        peer: the address of the client or of a proxy; None if unknown.
        address: the address of the client; None if unknown.
        has_credentials: whether the request has the credentials of the user, so that the receiver
            can authenticate it again later.
    """

    user: User
    peer: str | None = None
    address: str | None = None
    has_credentials: bool = False


class _Statement(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON of the header."""

    assertion: Assertion
    at: float


def seal(
    assertion: Assertion, *, now: float, secret: str, node: str, method: str, target: str
) -> str:
    """Return the value of the header.

    Args:
        assertion: the statement.
        now: the time, in seconds since the epoch.
        secret: the secret of the registry.
        node: the name of the receiving server.
        method: the method of the request.
        target: the path and query of the request.
    """
    statement = _Statement(assertion=assertion, at=now)
    text = urlsafe_b64encode(msgspec.json.encode(statement)).decode()
    return f"{text}.{_code(secret, node, method, target, text)}"


def unseal(
    value: str, *, now: float, secret: str, node: str, method: str, target: str
) -> Assertion | None:
    """Return the assertion in a header; None if no server with the secret has made it.

    Args:
        value: the value of the header.
        now: as for ``seal``.
        secret: as for ``seal``.
        node: the name of this server.
        method: as for ``seal``.
        target: as for ``seal``.

    Raises:
        SealExpired: the header was made ``LONGEST_SECONDS`` ago or earlier, or in the future.
    """
    text, _, code = value.partition(".")
    expected = _code(secret, node, method, target, text)
    if not hmac.compare_digest(expected.encode(), code.encode()):
        return None
    try:
        statement = msgspec.json.decode(urlsafe_b64decode(text), type=_Statement)
    except ValueError:
        return None  # from another version of kernelproto
    if abs(now - statement.at) >= LONGEST_SECONDS:
        raise SealExpired(now - statement.at)
    return statement.assertion


def _code(secret: str, *words: str) -> str:
    # No word but the last two can have a line feed.
    return hmac.new(secret.encode(), "\n".join(words).encode(), "sha256").hexdigest()
