"""A Jupyter-compatible server for many users, over a KernelPool. Needs the extra ``server``.

As a program: ``python -m kernelproto.server --help``. In your program::

    async with KernelPool(finder=finder) as pool:
        app = create_app(pool, finder=finder, authenticator=TokenFile("users.toml"))

``app`` is an ASGI application. Serve or mount it while the pool is open.
"""

import importlib
import typing

from kernelproto.extras import importing
from kernelproto.server.auth.authenticators import (
    Anybody,
    ProxyHeader,
    Shared,
    SingleUserToken,
    TokenFile,
    hash_token,
)
from kernelproto.server.settings import Settings
from kernelproto.server.settings_sources import load_settings

if typing.TYPE_CHECKING:
    from kernelproto.server.app import create_app
    from kernelproto.server.auth.jupyterhub import HubToken
    from kernelproto.server.auth.oidc import OidcToken

__all__ = [
    "Anybody",
    "HubToken",
    "OidcToken",
    "ProxyHeader",
    "Settings",
    "Shared",
    "SingleUserToken",
    "TokenFile",
    "create_app",
    "hash_token",
    "load_settings",
]

_LAZY = {
    "create_app": "kernelproto.server.app",
    "HubToken": "kernelproto.server.auth.jupyterhub",
    "OidcToken": "kernelproto.server.auth.oidc",
}


def __getattr__(name: str) -> object:
    # Loaded on first use, so the program can start and report a missing extra.
    if name in _LAZY:
        with importing("server", "oidc"):
            module = importlib.import_module(_LAZY[name])
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
