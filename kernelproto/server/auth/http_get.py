"""An HTTP client for authenticators: GET requests with short responses, on asyncio and Trio.

The client follows no redirect, which could send a token to another server. h11 comes with the extra
``server`` anyway, and httpx does not.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import urlsplit

import anyio
import h11
from anyio.abc import ByteStream

_PORTS = {"http": 80, "https": 443}
_READ_BYTES = 65_536

# The longest response body: that of a JupyterHub user with thousands of servers is long.
_MAX_BYTES = 2**20

# The errors of ``get``, and those of decoding a response.
FAILURES = (
    OSError,
    anyio.BrokenResourceError,
    h11.ProtocolError,
    ValueError,
    RecursionError,
)


class Address(NamedTuple):
    """A parsed URL; see ``read_address``.

    Attributes:
        url: the URL.
        host: the host to connect to.
        port: the port to connect to.
        tls: whether to use TLS.
        target: the path.
        headers: the headers of every request.
    """

    url: str
    host: str
    port: int
    tls: bool
    target: str
    headers: list[tuple[str, str]]


def read_address(url: str) -> Address:
    """Parse a URL for ``get``.

    Raises:
        ValueError: the URL is not one of http or https, or has a user, a password or a query.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS[parts.scheme]
        headers = [("Host", parts.netloc), ("Accept", "application/json"), ("Connection", "close")]
        target = parts.path or "/"
        h11.Request(method="GET", target=target, headers=headers)  # raises if invalid
    except (KeyError, h11.LocalProtocolError) as error:
        raise ValueError(f"it is not a valid http or https URL: {error}") from None
    if not parts.hostname or "@" in parts.netloc or parts.query:
        raise ValueError("it has no host, or contains a user or a query")
    return Address(url, parts.hostname, port, parts.scheme == "https", target, headers)


async def get(address: Address, *headers: tuple[str, str]) -> tuple[int, bytes]:
    """Return the status and the body of the response. Set a deadline around the call.

    Args:
        address: the URL.
        headers: further headers, each a name and a value.

    Raises:
        OSError: the server is unreachable. Another error of FAILURES: the response is not HTTP, or
            is too long.
    """
    http = h11.Connection(h11.CLIENT)
    fields = [*address.headers, *headers]
    request = h11.Request(method="GET", target=address.target, headers=fields)
    data = (http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b"")
    async with await connect(address) as stream:
        await stream.send(data)
        return await _read_response(http, stream)


def words(error: Exception) -> str:
    """Return the text of an error, for the log."""
    return str(error) or type(error).__name__


async def connect(address: Address) -> ByteStream:
    """Connect to the server of a URL. Set a deadline around the call.

    Raises:
        OSError: the server is unreachable.
    """
    host, port = address.host, address.port
    if address.tls:
        # HTTP marks the end of a response, and many servers skip the closing message of TLS.
        return await anyio.connect_tcp(host, port, tls=True, tls_standard_compatible=False)
    return await anyio.connect_tcp(host, port)


async def _read_response(http: h11.Connection, stream: ByteStream) -> tuple[int, bytes]:
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
                if len(body) > _MAX_BYTES:
                    raise ValueError(f"the response is longer than {_MAX_BYTES} bytes")
            case h11.EndOfMessage():
                return status, bytes(body)
            case event:
                raise ValueError(f"unexpected event in the response: {event!r}")
