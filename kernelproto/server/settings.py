"""Settings: everything a kernel server can be told; ``settings_sources`` reads them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

from kernelproto.exceptions import InvalidSettings
from kernelproto.server.limits import LimitTables

_PREFIX = "KERNELPROTO_"

# Names that other kernel servers, and JupyterHub, have made known.
_KNOWN_NAMES = {
    "multi_user": "MULTI_USER_JUPYTER_KERNELS",
    "idle_timeout": "JUPYTER_KERNEL_IDLE_TIMEOUT_SECONDS",
    "max_kernels": "JUPYTER_KERNEL_MAX_PER_SERVER",
    "hub_api_url": "JUPYTERHUB_API_URL",
}

# A prefix of paths, without a slash at its end; nothing in it needs an escape.
BASE_URL = r"(?:/[A-Za-z0-9._~-]+)*"

# Marks a setting whose value must not be shown.
_SECRET = {"secret": True}

# Marks a setting that only a file can have.
_TABLE = {"table": True}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a kernel server is told.

    Raises:
        InvalidSettings: they do not go together.
    """

    host: Annotated[
        str, Meta(description="the address to listen at; others than loopback need authentication")
    ] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="the port; 0 takes a free one")] = 8888
    base_url: Annotated[
        str,
        Meta(
            description="the path below which clients find the server, such as /kernels, whether a "
            "reverse proxy removes it or not"
        ),
    ] = ""
    certfile: Annotated[
        str | None,
        Meta(description="a file with the server's certificate and its chain, for TLS of its own"),
    ] = None
    keyfile: Annotated[
        str | None,
        Meta(description="a file with the key of the certificate, where certfile has none"),
    ] = None
    authentication: Annotated[
        Literal["token", "file", "proxy", "hub", "oidc", "none"],
        Meta(
            description="who is let in: everybody with one token, the users of token_file, whom a "
            "reverse proxy names, the users of a JupyterHub, those of an OpenID Connect provider, "
            "or everybody"
        ),
    ] = "token"
    token: Annotated[
        str | None,
        Meta(
            description="the token, for authentication by token; a new one by default",
            extra=_SECRET,
        ),
    ] = None
    token_file: Annotated[
        str | None, Meta(description="a TOML file with users and the hashes of their tokens")
    ] = None
    proxy_header: Annotated[
        str, Meta(description="the header in which the proxy names the user")
    ] = "X-Forwarded-User"
    proxy_groups_header: Annotated[
        str | None,
        Meta(
            description="the header in which the proxy names the user's groups, separated by "
            "commas, such as X-Forwarded-Groups"
        ),
    ] = None
    trusted_proxies: Annotated[
        list[str],
        Meta(
            description="addresses and networks of reverse proxies, whose X-Forwarded-For, -Proto "
            "and -Prefix, and proxy_header, are believed"
        ),
    ] = []
    admins: Annotated[
        list[str], Meta(description="the names of admins, for authentication by a proxy or oidc")
    ] = []
    hub_api_url: Annotated[
        str | None, Meta(description="where the API of the JupyterHub is that knows the users")
    ] = None
    hub_scopes: Annotated[
        list[str],
        Meta(description="scopes of which a user's token needs one, for authentication by a hub"),
    ] = []
    hub_cache_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="how long an answer of the hub about a token is believed; the access of a "
            "revoked token ends that much later",
        ),
    ] = 3.0
    oidc_issuer: Annotated[
        str | None,
        Meta(description="the address of the OpenID Connect provider, as in the claim iss"),
    ] = None
    oidc_audience: Annotated[
        list[str], Meta(description="values of which a token needs one in its claim aud")
    ] = []
    oidc_name_claim: Annotated[
        str, Meta(description="the claim of a token with the user's name, which no user may choose")
    ] = "sub"
    oidc_admin_claim: Annotated[
        str, Meta(description="the claim that makes admins, such as groups or realm_access.roles")
    ] = "groups"
    oidc_admin_values: Annotated[
        list[str], Meta(description="values of that claim, of which an admin has one")
    ] = []
    oidc_groups_claim: Annotated[
        str, Meta(description="the claim with the groups of a user, for limits.groups")
    ] = "groups"
    revoked_kernels: Annotated[
        Literal["keep", "shutdown"],
        Meta(
            description="whether the kernels of a user whose tokens were all revoked are kept, "
            "until they are idle for idle_timeout, or shut down at once"
        ),
    ] = "keep"
    allow_origins: Annotated[
        list[str], Meta(description="origins whose pages may use the server, beside its own")
    ] = []
    kernel: Annotated[str, Meta(description="the kernel type that is started by default")] = (
        "pyimport/kernel"
    )
    root_dir: Annotated[
        str, Meta(description="the folder that the paths of notebooks begin in")
    ] = "."
    allow_env: Annotated[
        list[str],
        Meta(description="variables that clients may set for a kernel, beside KERNEL_*"),
    ] = []
    hide_env: Annotated[
        list[str],
        Meta(
            description="variables of the server that no kernel gets, beside those with its own "
            "secrets: names, or patterns such as AWS_*"
        ),
    ] = []
    multi_user: Annotated[
        bool, Meta(description="whether each user has kernels of their own, or all share them")
    ] = True
    max_kernels: Annotated[int, Meta(ge=1, description="how many kernels there may be")] = 50
    max_per_user: Annotated[int, Meta(ge=1, description="how many kernels a user may have")] = 1
    idle_timeout: Annotated[
        float, Meta(ge=0, description="seconds after which an idle kernel is ended; 0 for never")
    ] = 1800.0
    cull_connected: Annotated[
        bool, Meta(description="whether an idle kernel is ended although clients are connected")
    ] = False
    max_age: Annotated[
        float,
        Meta(
            ge=0,
            description="seconds after its start at which a kernel is ended, also one that is busy "
            "or connected; 0 for never",
        ),
    ] = 0.0
    limits: Annotated[
        LimitTables,
        Meta(
            description="other limits for some kernel types, groups and users: tables such as "
            "[limits.users.ada], only in a file",
            extra=_TABLE,
        ),
    ] = LimitTables()
    warm: Annotated[int, Meta(ge=0, description="how many kernels are started ahead of time")] = 0
    queue_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="how long the start of a kernel waits in line while all are in use, before "
            "it is answered 503; 0 for not at all",
        ),
    ] = 0.0
    starts_per_minute: Annotated[
        float,
        Meta(
            ge=0,
            description="how many kernels a user may start or restart in a minute; 0 for no limit",
        ),
    ] = 60.0
    start_burst: Annotated[
        int, Meta(ge=1, description="how many of them at once, after a while without any")
    ] = 20
    failed_logins_per_minute: Annotated[
        float,
        Meta(
            ge=0,
            description="how many log-ins of one address may fail in a minute, after 50 at once; "
            "tokens that were accepted before work on; 0 for no limit",
        ),
    ] = 20.0
    max_connections: Annotated[
        int, Meta(ge=1, description="how many connections there may be, WebSockets included")
    ] = 1000
    max_websockets_per_user: Annotated[
        int, Meta(ge=1, description="how many WebSockets a user may have")
    ] = 200
    frames_per_second: Annotated[
        float,
        Meta(
            gt=0,
            description="how many pings, pongs and small pieces of messages a client may send on a "
            "WebSocket in a second; whole messages do not count",
        ),
    ] = 1000.0
    keep_alive: Annotated[
        float,
        Meta(gt=0, description="seconds after which a connection without a request is closed"),
    ] = 75.0
    max_sessions_per_user: Annotated[
        int, Meta(ge=1, description="how many sessions a user may have")
    ] = 1000
    max_session_bytes: Annotated[
        int,
        Meta(ge=1, description="how many bytes the paths and names of a user's sessions may have"),
    ] = 2**20
    max_body_bytes: Annotated[
        int, Meta(ge=1, description="the largest body of a request, in bytes")
    ] = 2**20
    max_message_bytes: Annotated[
        int, Meta(ge=1, description="the largest message on a WebSocket, in bytes")
    ] = 64 * 2**20
    send_buffer_bytes: Annotated[
        int,
        Meta(
            ge=1,
            description="how many bytes of each kernel are kept for clients that are away or slow; "
            "a slow one is cut off beyond",
        ),
    ] = 64 * 2**20
    replay_seconds: Annotated[
        float,
        Meta(ge=0, description="for how long they are kept for a client that does not come back"),
    ] = 3600.0

    grace_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="how long busy kernels may go on when the server is told to end (SIGTERM); "
            "a second signal does not wait for them",
        ),
    ] = 5.0

    metrics_token: Annotated[
        str | None,
        Meta(
            description="a token with which /metrics can be read; admins can read it anyway",
            extra=_SECRET,
        ),
    ] = None
    log_format: Annotated[
        Literal["text", "json"],
        Meta(description="what the lines of the log are: text, or JSON with kernel_id and user"),
    ] = "text"
    audit_file: Annotated[
        str | None,
        Meta(description="a file that the lines of the audit log are appended to as well"),
    ] = None

    def __post_init__(self) -> None:
        """Refuse what would leave a server open, or open to nobody."""
        if self.token == "":
            raise InvalidSettings("token: it is empty; authentication = none is what lets all in")
        if self.metrics_token == "":
            raise InvalidSettings("metrics_token: it is empty; leave it out where there is none")
        if not re.fullmatch(BASE_URL, self.base_url.rstrip("/")):
            raise InvalidSettings(
                f"base_url: {self.base_url!r} is no path such as /kernels, with a slash before "
                "each part, and letters, digits and ._~- in it"
            )
        if self.keyfile and not self.certfile:
            raise InvalidSettings("keyfile: TLS needs a certfile as well")
        if self.authentication == "none" and not is_loopback(self.host):
            raise InvalidSettings(
                f"host: {self.host!r} can be reached from elsewhere, so authentication must not be "
                "none: everybody could run code here"
            )
        if self.authentication == "file" and not self.token_file:
            raise InvalidSettings("token_file: authentication by file needs it")
        if self.authentication == "hub" and not self.hub_api_url:
            raise InvalidSettings("hub_api_url: authentication by a hub needs it")
        if self.authentication == "oidc" and not self.oidc_issuer:
            raise InvalidSettings("oidc_issuer: authentication by oidc needs it")
        if self.authentication == "proxy" and not self.trusted_proxies:
            raise InvalidSettings(
                "trusted_proxies: authentication by a proxy needs its address, or anybody could "
                "claim to be anybody"
            )
        if self.revoked_kernels == "shutdown" and not self.multi_user:
            raise InvalidSettings(
                "revoked_kernels: all users share their kernels (multi_user = false), so the end "
                "of one user's access must not shut them down: use keep"
            )
        if (self.limits.users or self.limits.groups) and not self.multi_user:
            raise InvalidSettings(
                "limits: all users share their kernels (multi_user = false), so limits.users and "
                "limits.groups would have no effect: remove them"
            )
        for network in self.trusted_proxies:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise InvalidSettings(f"trusted_proxies: {error}") from None

    @property
    def users_have_groups(self) -> bool:
        """Whether the authentication that is set tells the groups of users."""
        if self.authentication == "proxy":
            return self.proxy_groups_header is not None
        return self.authentication in ("file", "hub", "oidc")

    def __repr__(self) -> str:
        """Return the settings without the secrets among them."""
        values = {
            key: "..." if option.secret and getattr(self, key) is not None else getattr(self, key)
            for key, option in OPTIONS.items()
        }
        return f"Settings({', '.join(f'{key}={value!r}' for key, value in values.items())})"


class Option(NamedTuple):
    """One of the settings, for whoever explains or reads them.

    Attributes:
        key: its name in a file.
        variables: its names in the environment; the first one that is set counts.
        kind: its type.
        default: what it is when nobody has said anything.
        description: what it means.
        secret: whether its value must not be shown.
        table: whether only a file can have it.
    """

    key: str
    variables: Sequence[str]
    kind: Any
    default: object
    description: str
    secret: bool
    table: bool


def _option(field: msgspec.structs.FieldInfo) -> Option:
    meta: Meta = field.type.__metadata__[0]
    table = bool((meta.extra or {}).get("table"))
    variables = [] if table else [_PREFIX + field.name.upper()]
    if field.name in _KNOWN_NAMES:
        variables.append(_KNOWN_NAMES[field.name])
    return Option(
        key=field.name,
        variables=variables,
        kind=field.type,
        default=field.default if field.default is not msgspec.NODEFAULT else [],
        description=meta.description or "",
        secret=bool((meta.extra or {}).get("secret")),
        table=table,
    )


OPTIONS: Mapping[str, Option] = {
    field.name: _option(field) for field in msgspec.structs.fields(Settings)
}


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address; a name other than localhost does not."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
