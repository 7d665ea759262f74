"""The exceptions of requests to a server.

::

    KernelProtoError
    `- RemoteServerError                     the server has refused a request
       |- ContextNotFound (LookupError)      the context does not exist, or has ended
       `- ServerUnreachable (ConnectionError)   there is no connection to the server
"""

from __future__ import annotations

from kernelproto.exceptions import KernelProtoError


class RemoteServerError(KernelProtoError):
    """A server has refused a request.

    Attributes:
        status: the HTTP status of the response; None if there was no response.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ContextNotFound(RemoteServerError, LookupError):
    """A context does not exist, has ended, or belongs to another user."""


class ServerUnreachable(RemoteServerError, ConnectionError):
    """A server cannot be reached, or the connection is lost."""
