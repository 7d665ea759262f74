"""Build the authenticator that the settings choose."""

from __future__ import annotations

from kernelproto.exceptions import InvalidSettings
from kernelproto.interfaces import Authenticator
from kernelproto.server.auth.authenticators import (
    Anybody,
    ProxyHeader,
    Shared,
    SingleUserToken,
    TokenFile,
)
from kernelproto.server.auth.jupyterhub import HubToken
from kernelproto.server.settings import Settings


def make_authenticator(settings: Settings) -> tuple[Authenticator, str | None]:
    """Return the authenticator, and its new token, if any.

    Raises:
        InvalidSettings: the token file, or the URL of the hub or of the issuer, is unusable.
    """
    token: str | None = None
    authenticator: Authenticator
    if settings.authentication == "token":
        authenticator = single = SingleUserToken(settings.token)
        token = None if settings.token else single.token
    elif settings.authentication == "file":
        authenticator = TokenFile(settings.token_file or "")
    elif settings.authentication == "proxy":
        authenticator = ProxyHeader(
            settings.proxy_header,
            trusted=settings.trusted_proxies,
            admins=settings.admins,
            groups_header=settings.proxy_groups_header,
        )
    elif settings.authentication == "hub":
        authenticator = HubToken(
            settings.hub_api_url or "",
            scopes=settings.hub_scopes,
            cache_seconds=settings.hub_cache_seconds,
        )
    elif settings.authentication == "oidc":
        authenticator = _oidc(settings)
    else:
        authenticator = Anybody()
    return (authenticator if settings.multi_user else Shared(authenticator)), token


def _oidc(settings: Settings) -> Authenticator:
    try:
        from kernelproto.server.auth.oidc import OidcToken
    except ImportError as error:
        raise InvalidSettings(
            f'authentication: oidc needs {error.name}: pip install "kernelproto[oidc]"'
        ) from None
    return OidcToken(
        settings.oidc_issuer or "",
        audience=settings.oidc_audience,
        name_claim=settings.oidc_name_claim,
        admin_claim=settings.oidc_admin_claim,
        admin_values=settings.oidc_admin_values,
        admins=settings.admins,
        groups_claim=settings.oidc_groups_claim,
    )
