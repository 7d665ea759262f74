"""A Jupyter-compatible server for many users, over a KernelPool. Needs the extra ``server``.

As a program: ``python -m kernelproto.server --help``. In a program::

    async with KernelPool(finder=finder) as pool:
        app = create_app(pool, finder=finder, authenticator=TokenFile("users.toml"))

which is an ASGI application, to be served or mounted while the pool is open.
"""

from kernelproto.server.app import create_app
from kernelproto.server.settings import Settings, load_settings
from kernelproto.server.users import (
    Anybody,
    ProxyHeader,
    Shared,
    SingleUserToken,
    TokenFile,
    hash_token,
)

__all__ = [
    "Anybody",
    "ProxyHeader",
    "Settings",
    "Shared",
    "SingleUserToken",
    "TokenFile",
    "create_app",
    "hash_token",
    "load_settings",
]
