"""GET over HTTP for authenticators: small answers, no redirects, on anyio's streams.

No redirect is followed, which could lead a token elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

import anyio
import h11
from anyio.abc import ByteStream

_PORTS = {"http": 80, "https": 443}
_READ_BYTES = 65_536

# The longest answer: a user of a JupyterHub with thousands of servers has a long one.
_MOST_BYTES = 2**20

# Raised by ``get``, by the network or HTTP, and by decoding an answer.
FAILURES = (
    OSError,
    anyio.BrokenResourceError,
    h11.ProtocolError,
    ValueError,
    RecursionError,
)


class Address(NamedTuple):
    """Where to send a request; ``read_address`` makes it.

    Attributes:
        url: the whole address.
        host: the host to connect to.
        port: its port.
        tls: whether to encrypt.
        target: the path.
        headers: those that every request has.
    """

    url: str
    host: str
    port: int
    tls: bool
    target: str
    headers: list[tuple[str, str]]


def read_address(url: str) -> Address:
    """Return the parts of an address, for ``get``.

    Raises:
        ValueError: it is no address of http or https, or has a password or a query.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        headers = [("Host", parts.netloc), ("Accept", "application/json"), ("Connection", "close")]
        target = parts.path or "/"
        h11.Request(method="GET", target=target, headers=headers)  # it raises
    except (KeyError, h11.LocalProtocolError) as error:
        raise ValueError(f"it cannot be requested: {error}") from None
    if not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError("it has no host, or a user, or a query")
    return Address(url, parts.hostname, port, parts.scheme == "https", target, headers)


async def get(address: Address, *headers: tuple[str, str]) -> tuple[int, bytes]:
    """Return the status and the body of an answer; set a deadline around it.

    Raises:
        OSError: the server cannot be reached; or another one of FAILURES: it does not speak HTTP,
            or its answer is too long.
    """
    http = h11.Connection(h11.CLIENT)
    fields = [*address.headers, *headers]
    request = h11.Request(method="GET", target=address.target, headers=fields)
    question = (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")
    async with await _connect(address) as stream:
        await stream.send(question)
        return await _answer(http, stream)


def words(error: Exception) -> str:
    """Return the text of a failure, for the log."""
    return str(error) or type(error).__name__


async def _connect(address: Address) -> ByteStream:
    host, port = address.host, address.port
    if address.tls:
        # HTTP says itself where an answer ends; servers do not say it again with TLS.
        return await anyio.connect_tcp(host, port, tls=True, tls_standard_compatible=False)
    return await anyio.connect_tcp(host, port)


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
