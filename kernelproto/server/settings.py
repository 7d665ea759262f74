"""The settings of a kernel server. ``settings_sources`` reads them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta

from kernelproto.exceptions import InvalidSettings
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.server.access_settings import SECRET, AccessSettings
from kernelproto.server.isolation_settings import IsolationSettings
from kernelproto.server.limits import LimitTables

# Marks a setting that can only be set in a file.
_TABLE = {"table": True}

_NODE_URL = r"https?://[^/?#@\s]+"


class Settings(AccessSettings, frozen=True, kw_only=True):
    """The settings of a kernel server.

    Raises:
        InvalidSettings: the settings contradict each other, or would make the server unsafe.
    """

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
    ssh_hosts: Annotated[
        list[str],
        Meta(
            description="machines whose kernel types clients can start over SSH (ssh/HOST/NAME), "
            "with the account and the keys of the server"
        ),
    ] = []
    providers: Annotated[
        dict[str, dict[str, Any]],
        Meta(
            description="settings of kernel providers, in tables such as [providers.kubernetes]; "
            "only in the file",
            extra=_TABLE,
        ),
    ] = {}
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
    isolate: Annotated[
        Literal["none", "users"],
        Meta(
            description="users: each user's kernels run in sandboxes, as a system user of their "
            "own, with a home folder of their own; Linux only, and the server must run as root"
        ),
    ] = "none"
    isolation: Annotated[
        IsolationSettings,
        Meta(
            description="the numbers of the system users, their home folders and the sandbox for "
            "isolate = users, in the table [isolation]; only in the file",
            extra=_TABLE,
        ),
    ] = IsolationSettings()
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
            description="seconds from the start of a kernel until its shutdown, even if busy or "
            "connected; 0 for never",
        ),
    ] = 0.0
    limits: Annotated[
        LimitTables,
        Meta(
            description="different limits and sandboxes for some kernel types, groups and users, "
            "in tables such as [limits.users.ada]; only in the file",
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
        Meta(
            description="directory for the files of MCP; by default a temporary one, or the home "
            "folder of an isolated user"
        ),
    ] = None
    mcp_sandbox: Annotated[
        Sandbox | None,
        Meta(
            description="the sandbox of each kernel for MCP, in the table [mcp_sandbox], which may "
            "be empty; only in the file; without the table, kernels have the sandbox of the user's "
            "other kernels, if any",
            extra=_TABLE,
        ),
    ] = None
    mcp_expires: Annotated[
        float, Meta(gt=0, description="seconds without a call after which an MCP conversation ends")
    ] = 3600.0

    keep_kernels: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="whether kernels and sessions go on after SIGTERM, SIGKILL or a crash of "
            "the server, and the next server has them again; SIGINT (Ctrl-C) ends them; auto: only "
            "with state_dir, registry, or under systemd with StateDirectory=; Linux only, without "
            "warm"
        ),
    ] = "auto"
    state_dir: Annotated[
        str | None,
        Meta(
            description="directory for the registry of kernels and sessions, for one server at a "
            "time; by default that of StateDirectory= of systemd, or one in Jupyter's data folder"
        ),
    ] = None
    registry: Annotated[
        str | None,
        Meta(
            description="URL of the registry, postgresql://USER@HOST/DATABASE, in place of a file "
            "in state_dir; for one server at a time, or several with node_url; keeps kernels as "
            "state_dir does",
            extra=SECRET,
        ),
    ] = None
    node_url: Annotated[
        str | None,
        Meta(
            description="URL at which the other servers with the same registry reach this server, "
            "such as http://10.0.0.2:8888; with it several servers share the registry, and each "
            "serves the kernels of all"
        ),
    ] = None
    linger_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="seconds without a server after which a kept kernel ends; 0 means never, "
            "and an hour with node_url; it needs kernels that a host can run: without sandbox, tcp "
            "and encryption",
        ),
    ] = 0.0
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
            extra=SECRET,
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
        super().__post_init__()
        if self.metrics_token == "":
            raise InvalidSettings("metrics_token: it is empty: set a token, or remove it")
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
        is_warm = self.warm > 0 or any(table.warm for table in self.limits.kernels.values())
        if is_warm and any(table.sandbox is not UNSET for table in self.limits.kernels.values()):
            raise InvalidSettings(
                "warm: a kernel that is started ahead of time has no working directory yet, so it "
                "cannot have the sandbox of a kernel type: remove warm"
            )
        if self.isolate == "users":
            self.isolation.check(
                multi_user=self.multi_user, root_dir=self.root_dir, is_warm=is_warm
            )
            self._check_users_of_sandboxes()
        elif self.isolation != IsolationSettings():
            raise InvalidSettings("isolation: set isolate = users, or remove the table")
        if self.state_dir and self.keep_kernels == "off":
            raise InvalidSettings(
                "state_dir: nothing is stored with keep_kernels = off: remove one of them"
            )
        self._check_providers()
        if self.registry is not None:
            self._check_registry(self.registry)
        if self.node_url is not None:
            self._check_node(self.node_url)
        if self.linger_seconds and self.isolate == "users":
            raise InvalidSettings(
                "linger_seconds: no host runs the kernels of isolated users, so they would not "
                "end: remove one of linger_seconds and isolate"
            )
        if self.mcp_dir is not None and self.isolate == "users":
            raise InvalidSettings(
                "mcp_dir: the files of conversations are in the home folders of isolated users: "
                "remove mcp_dir"
            )
        if self.mcp_sandbox is not None and self.isolate == "users" and self.mcp_sandbox.uid:
            raise InvalidSettings(
                "mcp_sandbox.uid: remove it: isolation.uids gives each user another one"
            )
        if self.mcp_sandbox is not None and isinstance(self.mcp_sandbox.uid, str):
            raise InvalidSettings("mcp_sandbox.uid: set one number: this user owns the files")
        if not self.mcp and (self.mcp_kernels or self.mcp_dir or self.mcp_sandbox):
            raise InvalidSettings("mcp_kernels, mcp_dir, mcp_sandbox: set mcp = true as well")

    def _check_providers(self) -> None:
        for provider, setting in (("env", "environments"), ("ssh", "ssh_hosts")):
            if provider in self.providers:
                raise InvalidSettings(f"providers.{provider}: use the setting {setting} instead")

    def _check_registry(self, url: str) -> None:
        if not url.startswith(("postgresql://", "postgres://")):
            raise InvalidSettings("registry: write postgresql://USER@HOST/DATABASE, or remove it")
        if self.keep_kernels == "off":
            raise InvalidSettings(
                "registry: nothing is stored with keep_kernels = off: remove one of them"
            )

    def _check_node(self, url: str) -> None:
        if self.registry is None:
            raise InvalidSettings("node_url: set registry, which the servers share, or remove it")
        if not re.fullmatch(_NODE_URL, url):
            raise InvalidSettings("node_url: write http://HOST:PORT or https://HOST:PORT")
        if self.mcp:
            raise InvalidSettings(
                "mcp: a conversation belongs to one server, but with node_url any server gets its "
                "requests: remove mcp or node_url"
            )

    def _check_users_of_sandboxes(self) -> None:
        for kind, name, table in self.limits.tables():
            if table.sandbox is not UNSET and "uid" in table.sandbox:
                raise InvalidSettings(
                    f'limits.{kind}."{name}".sandbox: remove uid: isolation.uids gives each user '
                    "another one"
                )

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
