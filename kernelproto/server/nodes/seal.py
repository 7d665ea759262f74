"""Seals: the header with which a server forwards the request of an authenticated user. Pure.

The header has the user and the address of the client as JSON, and a code that only the servers with
the secret of the registry can make. The code covers the receiving server, the method and the target
of the request, so a header that leaks is of no use for another request.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

from kernelproto.interfaces import User

HEADER = "kernelproto-forwarded"


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


def seal(assertion: Assertion, *, secret: str, node: str, method: str, target: str) -> str:
    """Return the value of the header.

    Args:
        assertion: the statement.
        secret: the secret of the registry.
        node: the name of the receiving server.
        method: the method of the request.
        target: the path and query of the request.
    """
    text = urlsafe_b64encode(msgspec.json.encode(assertion)).decode()
    return f"{text}.{_code(secret, node, method, target, text)}"


def unseal(value: str, *, secret: str, node: str, method: str, target: str) -> Assertion | None:
    """Return the assertion in a header; None if no server with the secret has made it.

    Args:
        value: the value of the header.
        secret: as for ``seal``.
        node: the name of this server.
        method: as for ``seal``.
        target: as for ``seal``.
    """
    text, _, code = value.partition(".")
    expected = _code(secret, node, method, target, text)
    if not hmac.compare_digest(expected.encode(), code.encode()):
        return None
    try:
        return msgspec.json.decode(urlsafe_b64decode(text), type=Assertion)
    except ValueError:
        return None  # from another version of kernelproto


def _code(secret: str, *words: str) -> str:
    # No word but the last two can have a line feed.
    return hmac.new(secret.encode(), "\n".join(words).encode(), "sha256").hexdigest()
