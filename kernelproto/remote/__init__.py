"""A client of kernelproto's server, for programs that run code on another machine.

Needs the extra ``remote-client``::

    async with connect_server("https://kernels.example.org", token="...") as server:
        async with server.run_context(language="python") as context:
            result = await context.execute("6 * 7")
"""

import importlib
import typing

from kernelproto.extras import importing
from kernelproto.remote.exceptions import ContextNotFound, RemoteServerError, ServerUnreachable

if typing.TYPE_CHECKING:
    from kernelproto.remote.client import RemoteContext, RemoteServer, connect_server

__all__ = [
    "ContextNotFound",
    "RemoteContext",
    "RemoteServer",
    "RemoteServerError",
    "ServerUnreachable",
    "connect_server",
]


def __getattr__(name: str) -> object:
    # Loaded on first use: the server uses other modules of this package, without httpx.
    if name in __all__:
        with importing("remote-client"):
            module = importlib.import_module("kernelproto.remote.client")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
