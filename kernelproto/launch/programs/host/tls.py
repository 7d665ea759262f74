"""TLS for a host that listens on tcp: both ends show the same certificate, made for one host."""

from __future__ import annotations

import selectors
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

# The files in the folder of the certificate.
CERTIFICATE = "tls.crt"
KEY = "tls.key"

# More programs at once are refused, and each one has so many seconds.
_MOST_HANDSHAKES = 100
_HANDSHAKE_SECONDS = 10.0

# TLS sends and encrypts so many bytes at once.
_RECORD_BYTES = 16 * 1024

# If the other end is silent for 25 s, the connection is lost: the next program may own the kernel.
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
_UNANSWERED_MILLISECONDS = 25_000


def server_context(folder: str) -> ssl.SSLContext:
    """Return the context of a host that accepts only programs with its own certificate.

    Args:
        folder: the folder of the certificate and its key.

    Raises:
        OSError: they cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(f"{folder}/{CERTIFICATE}", f"{folder}/{KEY}")
    context.load_verify_locations(f"{folder}/{CERTIFICATE}")
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # no program resumes a session
    return context


class TlsSocket:
    """A non-blocking socket with TLS, with the methods of a socket that Connection calls.

    Args:
        end: the socket, after the handshake.
    """

    def __init__(self, end: ssl.SSLSocket) -> None:
        self._end = end
        self.fileno = end.fileno
        self.close = end.close
        self.getsockopt = end.getsockopt

    def recv_into(self, buffer: memoryview) -> int:
        """Receive into a buffer of at least a record; see ``socket.recv_into``.

        One record at a time is read, so none waits in TLS.
        """
        try:
            return self._end.recv_into(buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def sendmsg(self, buffers: Sequence[Any]) -> int:
        """Send a part of the buffers; see ``socket.sendmsg``.

        After a BlockingIOError the buffers must begin with the same bytes.
        """
        data = bytearray()
        for buffer in buffers:
            data += buffer[: _RECORD_BYTES - len(data)]
            if len(data) == _RECORD_BYTES:
                break
        try:
            return self._end.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error


class Handshakes:
    """The connections before the end of their handshakes.

    Args:
        context: the context of the host.
        selector: the selector of the loop; its data are functions.
        done: called with each connection.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        selector: selectors.BaseSelector,
        done: Callable[[TlsSocket], None],
    ) -> None:
        self._context = context
        self._selector = selector
        self._done = done
        self._deadlines: dict[ssl.SSLSocket, float] = {}

    def begin(self, end: socket.socket) -> None:
        """Take a connection that was accepted."""
        if len(self._deadlines) >= _MOST_HANDSHAKES:
            end.close()
            return
        try:
            _keep_alive(end)
            tls = self._context.wrap_socket(end, server_side=True, do_handshake_on_connect=False)
        except (OSError, ValueError):  # the other end has closed it
            end.close()
            return
        self._deadlines[tls] = time.monotonic() + _HANDSHAKE_SECONDS
        self._selector.register(tls, selectors.EVENT_READ, partial(self._continue, tls))

    def due(self) -> float | None:
        """Return the time at which look() has something to do; None if there is none."""
        return min(self._deadlines.values(), default=None)

    def look(self, now: float) -> None:
        """Close the connections that have reached their deadlines."""
        for end in [end for end, deadline in self._deadlines.items() if deadline <= now]:
            self._forget(end)
            end.close()

    def _continue(self, end: ssl.SSLSocket, events: int) -> None:
        if end not in self._deadlines:
            return
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            self._selector.modify(end, selectors.EVENT_READ, partial(self._continue, end))
        except ssl.SSLWantWriteError:
            self._selector.modify(end, selectors.EVENT_WRITE, partial(self._continue, end))
        except (OSError, ValueError):
            self._forget(end)
            end.close()
        else:
            self._forget(end)
            self._done(TlsSocket(end))

    def _forget(self, end: ssl.SSLSocket) -> None:
        del self._deadlines[end]
        self._selector.unregister(end)


def _keep_alive(end: socket.socket) -> None:
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (*_KEEPALIVE, ("TCP_USER_TIMEOUT", _UNANSWERED_MILLISECONDS)):
        with suppress(AttributeError, OSError):  # only Linux has all of them
            end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
