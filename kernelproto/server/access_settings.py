"""The settings of a kernel server about the address and the users."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kernelproto.exceptions import InvalidSettings

# A path prefix without a trailing slash, in which no character needs an escape.
BASE_URL = r"(?:/[A-Za-z0-9._~-]+)*"

# Marks a setting whose value must not be shown.
SECRET = {"secret": True}


class AccessSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings about the address and the users of the server.

    Raises:
        InvalidSettings: the settings contradict each other, or would make the server unsafe.
    """

    host: Annotated[
        str,
        Meta(description="address to listen on; any but a loopback address needs authentication"),
    ] = "127.0.0.1"
    port: Annotated[
        int, Meta(ge=0, le=65535, description="port to listen on; 0 for a free one")
    ] = 8888
    base_url: Annotated[
        str,
        Meta(
            description="path prefix under which clients reach the server, such as /kernels; a "
            "reverse proxy may remove or keep the prefix"
        ),
    ] = ""
    certfile: Annotated[
        str | None,
        Meta(
            description="file with the TLS certificate and the chain; without this file the "
            "server speaks plain HTTP"
        ),
    ] = None
    keyfile: Annotated[
        str | None,
        Meta(description="file with the key of the certificate, if certfile does not contain it"),
    ] = None
    authentication: Annotated[
        Literal["token", "file", "proxy", "hub", "oidc", "none"],
        Meta(
            description="how users authenticate: token (one token for everyone), file (the tokens "
            "in token_file), proxy (a header set by a reverse proxy), hub (JupyterHub tokens), "
            "oidc (tokens of an OpenID Connect provider) or none (loopback only)"
        ),
    ] = "token"
    token: Annotated[
        str | None,
        Meta(
            description="token for authentication = token; by default a new one at each start",
            extra=SECRET,
        ),
    ] = None
    token_file: Annotated[
        str | None, Meta(description="TOML file with users and the hashes of their tokens")
    ] = None
    proxy_header: Annotated[
        str, Meta(description="header in which the reverse proxy sends the user's name")
    ] = "X-Forwarded-User"
    proxy_groups_header: Annotated[
        str | None,
        Meta(
            description="header in which the reverse proxy sends the user's groups, separated by "
            "commas, such as X-Forwarded-Groups"
        ),
    ] = None
    trusted_proxies: Annotated[
        list[str],
        Meta(
            description="addresses and networks of reverse proxies; the server trusts "
            "X-Forwarded-For, -Proto, -Prefix and proxy_header only from these"
        ),
    ] = []
    admins: Annotated[
        list[str], Meta(description="names of admins, for authentication = proxy or oidc")
    ] = []
    hub_api_url: Annotated[
        str | None, Meta(description="URL of the JupyterHub's API, for authentication = hub")
    ] = None
    hub_scopes: Annotated[
        list[str],
        Meta(description="scopes for authentication = hub; a token needs at least one of them"),
    ] = []
    hub_cache_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="seconds for which an answer of the hub about a token is cached; a revoked "
            "token keeps working for that long",
        ),
    ] = 3.0
    oidc_issuer: Annotated[
        str | None,
        Meta(description="URL of the OpenID Connect provider, equal to the claim iss"),
    ] = None
    oidc_audience: Annotated[
        list[str],
        Meta(description="accepted values of the claim aud; a token needs at least one of them"),
    ] = []
    oidc_name_claim: Annotated[
        str,
        Meta(description="claim with the user's name; users must not be able to change it"),
    ] = "sub"
    oidc_admin_claim: Annotated[
        str,
        Meta(description="claim that identifies admins, such as groups or realm_access.roles"),
    ] = "groups"
    oidc_admin_values: Annotated[
        list[str], Meta(description="values of oidc_admin_claim that make a user an admin")
    ] = []
    oidc_groups_claim: Annotated[
        str, Meta(description="claim with the user's groups, for limits.groups")
    ] = "groups"
    revoked_kernels: Annotated[
        Literal["keep", "shutdown"],
        Meta(
            description="kernels of a user whose tokens are all revoked: keep (they run until "
            "idle_timeout) or shutdown (at once)"
        ),
    ] = "keep"
    allow_origins: Annotated[
        list[str],
        Meta(
            description="origins of other sites with access to the server, such as "
            "https://lab.example.org; * for all"
        ),
    ] = []

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other or would make the server unsafe."""
        if self.token == "":
            raise InvalidSettings(
                "token: it is empty: remove it, or set authentication = none to let everyone in"
            )
        if not re.fullmatch(BASE_URL, self.base_url.rstrip("/")):
            raise InvalidSettings(
                f"base_url: {self.base_url!r} is not a valid path: use one such as /kernels, with "
                "a slash before each part, and letters, digits and ._~- in the parts"
            )
        if self.keyfile and not self.certfile:
            raise InvalidSettings("keyfile: set certfile as well")
        if self.authentication == "none" and not is_loopback(self.host):
            raise InvalidSettings(
                f"host: {self.host!r} is reachable from other machines, where everyone could run "
                "code without authentication: choose an authentication other than none"
            )
        if self.authentication == "file" and not self.token_file:
            raise InvalidSettings("token_file: set it for authentication = file")
        if self.authentication == "hub" and not self.hub_api_url:
            raise InvalidSettings("hub_api_url: set it for authentication = hub")
        if self.authentication == "oidc" and not self.oidc_issuer:
            raise InvalidSettings("oidc_issuer: set it for authentication = oidc")
        if self.authentication == "proxy" and not self.trusted_proxies:
            raise InvalidSettings(
                "trusted_proxies: set the address of the proxy for authentication = proxy; "
                "otherwise any client could claim any name"
            )
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise InvalidSettings(f"trusted_proxies: {error}") from None

    @property
    def users_have_groups(self) -> bool:
        """Whether the chosen authentication provides the groups of users."""
        if self.authentication == "proxy":
            return self.proxy_groups_header is not None
        return self.authentication in ("file", "hub", "oidc")


def is_loopback(host: str) -> bool:
    """Return whether an address is a loopback address; of names, only localhost counts as one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
