"""The settings of a kernel server. ``settings_sources`` reads them."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kernelproto.exceptions import InvalidSettings
from kernelproto.server.limits import LimitTables

# A path prefix without a trailing slash, in which no character needs an escape.
BASE_URL = r"(?:/[A-Za-z0-9._~-]+)*"

# Marks a setting whose value must not be shown.
_SECRET = {"secret": True}

# Marks a setting that can only be set in a file.
_TABLE = {"table": True}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a kernel server.

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
            "reverse proxy may remove it or keep it"
        ),
    ] = ""
    certfile: Annotated[
        str | None,
        Meta(
            description="file with the TLS certificate and its chain; without it the server "
            "speaks plain HTTP"
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
            extra=_SECRET,
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
        Meta(description="claim with the user's name; users must not be able to change its value"),
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
            description="origins of other sites whose pages may use the server, such as "
            "https://lab.example.org; * for all"
        ),
    ] = []
    kernel: Annotated[str, Meta(description="kernel type for requests that name none")] = "python3"
    root_dir: Annotated[str, Meta(description="directory that notebook paths are relative to")] = (
        "."
    )
    environments: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="whether clients can start kernels in Python environments (env/NAME) of "
            "the project in root_dir and of the server's account; auto: only if multi_user is false"
        ),
    ] = "auto"
    allow_env: Annotated[
        list[str],
        Meta(
            description="environment variables that clients may set for a kernel, in addition to "
            "KERNEL_*"
        ),
    ] = []
    hide_env: Annotated[
        list[str],
        Meta(
            description="environment variables of the server that kernels do not inherit, in "
            "addition to its own secrets: names, or patterns such as AWS_*"
        ),
    ] = []
    multi_user: Annotated[
        bool, Meta(description="whether each user has separate kernels; if false, all share them")
    ] = True
    max_kernels: Annotated[int, Meta(ge=1, description="maximum number of kernels")] = 50
    max_per_user: Annotated[int, Meta(ge=1, description="maximum number of kernels per user")] = 1
    idle_timeout: Annotated[
        float,
        Meta(ge=0, description="seconds after which an idle kernel is shut down; 0 for never"),
    ] = 1800.0
    cull_connected: Annotated[
        bool, Meta(description="whether idle kernels are shut down while clients are connected")
    ] = False
    max_age: Annotated[
        float,
        Meta(
            ge=0,
            description="seconds after its start at which a kernel is shut down, even if it is "
            "busy or connected; 0 for never",
        ),
    ] = 0.0
    limits: Annotated[
        LimitTables,
        Meta(
            description="different limits for some kernel types, groups and users, in tables such "
            "as [limits.users.ada]; only in the file",
            extra=_TABLE,
        ),
    ] = LimitTables()
    warm: Annotated[int, Meta(ge=0, description="number of kernels started ahead of time")] = 0
    queue_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="seconds for which a start waits in a queue when max_kernels are in use, "
            "before the response is 503; 0 for no queue",
        ),
    ] = 0.0
    starts_per_minute: Annotated[
        float,
        Meta(ge=0, description="kernel starts and restarts per user and minute; 0 for no limit"),
    ] = 60.0
    start_burst: Annotated[
        int,
        Meta(ge=1, description="starts and restarts that a user may make at once, after a pause"),
    ] = 20
    failed_logins_per_minute: Annotated[
        float,
        Meta(
            ge=0,
            description="failed logins per address and minute, after a burst of 50; tokens that "
            "were accepted before keep working; 0 for no limit",
        ),
    ] = 20.0
    max_connections: Annotated[
        int, Meta(ge=1, description="maximum number of connections, including WebSockets")
    ] = 1000
    max_websockets_per_user: Annotated[
        int, Meta(ge=1, description="maximum number of WebSockets per user")
    ] = 200
    frames_per_second: Annotated[
        float,
        Meta(
            gt=0,
            description="pings, pongs and small fragments of messages per second and WebSocket; "
            "whole messages are not limited",
        ),
    ] = 1000.0
    keep_alive: Annotated[
        float,
        Meta(gt=0, description="seconds after which a connection without a request is closed"),
    ] = 75.0
    max_sessions_per_user: Annotated[
        int, Meta(ge=1, description="maximum number of sessions per user")
    ] = 1000
    max_session_bytes: Annotated[
        int,
        Meta(
            ge=1, description="maximum size of the paths and names of a user's sessions, in bytes"
        ),
    ] = 2**20
    max_body_bytes: Annotated[
        int, Meta(ge=1, description="maximum size of a request body, in bytes")
    ] = 2**20
    max_message_bytes: Annotated[
        int, Meta(ge=1, description="maximum size of a WebSocket message, in bytes")
    ] = 64 * 2**20
    send_buffer_bytes: Annotated[
        int,
        Meta(
            ge=1,
            description="bytes of output per kernel that are kept for slow or disconnected "
            "clients; a client that falls further behind is disconnected",
        ),
    ] = 64 * 2**20
    replay_seconds: Annotated[
        float,
        Meta(ge=0, description="seconds for which output is kept for a client that disconnected"),
    ] = 3600.0

    mcp: Annotated[
        bool,
        Meta(description="whether language models can run code through MCP, at the path /mcp"),
    ] = False
    mcp_kernels: Annotated[
        list[str],
        Meta(description="kernel types for MCP; the first is the default; without any: kernel"),
    ] = []
    mcp_dir: Annotated[
        str | None,
        Meta(description="directory for the files of MCP; by default a temporary one"),
    ] = None
    mcp_expires: Annotated[
        float, Meta(gt=0, description="seconds without a call after which an MCP conversation ends")
    ] = 3600.0

    grace_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="seconds for which busy kernels may finish after SIGTERM or SIGINT; a "
            "second signal ends the wait",
        ),
    ] = 5.0

    metrics_token: Annotated[
        str | None,
        Meta(
            description="token for reading /metrics; admins can read it without this token",
            extra=_SECRET,
        ),
    ] = None
    log_format: Annotated[
        Literal["text", "json"],
        Meta(description="format of log lines: text, or json with kernel_id and user"),
    ] = "text"
    audit_file: Annotated[
        str | None,
        Meta(description="file that audit log lines are also appended to"),
    ] = None

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other or would make the server unsafe."""
        if self.token == "":
            raise InvalidSettings(
                "token: it is empty: remove it, or set authentication = none to let everyone in"
            )
        if self.metrics_token == "":
            raise InvalidSettings("metrics_token: it is empty: set a token, or remove it")
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
        if self.revoked_kernels == "shutdown" and not self.multi_user:
            raise InvalidSettings(
                "revoked_kernels: all users share their kernels (multi_user = false), so revoking "
                "one user's access must not shut them down: use keep"
            )
        if (self.limits.users or self.limits.groups) and not self.multi_user:
            raise InvalidSettings(
                "limits: all users share their kernels (multi_user = false), so limits.users and "
                "limits.groups would have no effect: remove them"
            )
        if not self.mcp and (self.mcp_kernels or self.mcp_dir):
            raise InvalidSettings("mcp_kernels, mcp_dir: set mcp = true as well")
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

    def __repr__(self) -> str:
        """Return all settings, with secrets masked."""
        values = {
            field.name: "..."
            if is_secret(field) and getattr(self, field.name)
            else getattr(self, field.name)
            for field in msgspec.structs.fields(self)
        }
        return f"Settings({', '.join(f'{key}={value!r}' for key, value in values.items())})"


def is_secret(field: msgspec.structs.FieldInfo) -> bool:
    """Return whether the value of a setting must not be shown."""
    meta: Meta = field.type.__metadata__[0]
    return bool((meta.extra or {}).get("secret"))


def is_loopback(host: str) -> bool:
    """Return whether an address is a loopback address; of names, only localhost counts as one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
