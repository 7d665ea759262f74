"""The server as a program: ``python -m kernelproto.server``."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import logging
import math
import os
import secrets
import signal
import socket
import ssl
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.metadata import version
from typing import Any, NoReturn

import anyio
import uvicorn
from anyio.abc import TaskStatus
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import InvalidSettings, KernelProtoError, NoSuchKernel
from kernelproto.interfaces import Authenticator
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.process.open_files import raise_open_files
from kernelproto.launch.spec.naming import check_kernel_type
from kernelproto.pool import KernelPool
from kernelproto.server.app import create_app
from kernelproto.server.auth.authenticators import (
    Anybody,
    ProxyHeader,
    Shared,
    SingleUserToken,
    TokenFile,
    hash_token,
)
from kernelproto.server.auth.jupyterhub import HubToken
from kernelproto.server.connections import MOST_REFUSED, Connections
from kernelproto.server.drain import Drain
from kernelproto.server.limits import check_limits
from kernelproto.server.program.acknowledgements import AcknowledgementProtocol
from kernelproto.server.program.header_timeout import HeaderTimeout
from kernelproto.server.program.protocols import shape_faults
from kernelproto.server.settings import (
    OPTIONS,
    Settings,
    is_loopback,
)
from kernelproto.server.settings_sources import load_settings, remove_secrets
from kernelproto.server.telemetry.logs import configure_logging

logger = logging.getLogger(__name__)

_PROG = "python -m kernelproto.server"

_MISUSED = 2  # the command line cannot be understood

# How long requests that are being answered may go on when the server ends.
_GRACE_SECONDS = 5

# With room to spare: sockets, pipes and the like of a kernel, and of the program itself.
_FILES_PER_KERNEL = 20
_OTHER_FILES = 100

# An event loop accepts as many connections in a turn as its queue may have. Each needs a chance to
# send its request before others take its place.
_ACCEPTED_AT_ONCE = 128

# A client that takes nothing in for so long is gone, also for the system.
_DEAF_CLIENT_MS = 60_000


def main(arguments: Sequence[str] | None = None, *, prog: str = _PROG) -> int:
    """Serve kernels until SIGINT or SIGTERM; return the exit status.

    Args:
        arguments: the command line without the program; None means that of the process.
        prog: what the program is called.
    """
    options = vars(_parser(prog).parse_args(arguments))
    new_user, config = options.pop("new_token"), options.pop("config")
    if new_user is not None:
        token, lines = new_token(new_user)
        print(f"for {new_user}, who keeps it secret: {token}", file=sys.stderr)
        print(*lines, sep="\n")
        return 0
    said = {key: text for key, text in options.items() if text is not None}
    try:
        settings = load_settings(config, os.environ, said)
        remove_secrets(os.environ, settings)
        configure_logging(settings.log_format, settings.audit_file)
        use_uvloop = importlib.util.find_spec("uvloop") is not None
        anyio.run(serve, settings, backend_options={"use_uvloop": use_uvloop})
    except (KernelProtoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


async def serve(settings: Settings) -> None:
    """Serve kernels until SIGINT or SIGTERM; then end all of them in order. Asyncio only.

    Args:
        settings: all of them count.

    Raises:
        InvalidSettings: the port cannot be had, or the users, the kernel type or the folder not be
            found where they should be.
    """
    authenticator, token = make_authenticator(settings)
    finder = KernelFinder.from_entrypoints()
    await _check_kernel(finder, settings.kernel)
    await check_limits(settings.limits, finder, has_groups=settings.users_have_groups)
    _check_folder(settings.root_dir)
    _check_certificate(settings)
    with _listener(settings) as listener:
        _check_open_files(settings)
        async with (
            background_tasks() as tasks,  # outlives the pool: a second signal changes nothing
            KernelPool(
                finder=finder,
                kernel_type=settings.kernel,
                max_kernels=settings.max_kernels,
                max_per_user=settings.max_per_user if settings.multi_user else settings.max_kernels,
                idle_timeout=settings.idle_timeout or None,
                max_age=settings.max_age or None,
                cull_connected=settings.cull_connected,
                warm=settings.warm,
                cwd=settings.root_dir,
            ) as pool,
        ):
            connections = Connections(
                most=settings.max_connections, frames_per_second=settings.frames_per_second
            )
            app = create_app(pool, finder=finder, authenticator=authenticator, settings=settings)
            app.state.metrics.connections = connections
            tasks.start_soon(app.state.metrics.watch_loop)
            http, ws = choose_protocols(connections)
            server = _Server(
                uvicorn.Config(
                    app,
                    lifespan="off",
                    http=http,
                    backlog=_ACCEPTED_AT_ONCE,
                    timeout_keep_alive=math.ceil(settings.keep_alive),
                    log_config=None,
                    # At its other levels it logs addresses with the tokens in them.
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    # Who connects is who it is: ProxyHeader relies on it.
                    proxy_headers=False,
                    ssl_certfile=settings.certfile,
                    ssl_keyfile=settings.keyfile,
                    ws=ws,
                    ws_max_size=settings.max_message_bytes,
                    ws_per_message_deflate=False,
                    timeout_graceful_shutdown=_GRACE_SECONDS,
                )
            )
            await tasks.start(_end_on_signal, server, pool, app.state.drain, settings.grace_seconds)
            _announce(listener, settings, token)
            await server.serve(sockets=[listener])


def choose_protocols(connections: Connections) -> tuple[Any, Any]:
    """Return the protocols of a server for HTTP and WebSockets; plain ones of uvicorn at worst."""
    faults = [*shape_faults(H11Protocol), *shape_faults(WebSocketsSansIOProtocol)]
    if not faults:
        return (
            partial(HeaderTimeout, served=connections),
            partial(AcknowledgementProtocol, served=connections),
        )
    logger.warning(
        "uvicorn %s is not one that this server knows (%s): a client that sends many small chunks "
        "or frames can delay other clients, and connections are not limited; install another "
        "version of uvicorn",
        version("uvicorn"),
        ", ".join(faults),
    )
    return H11Protocol, WebSocketsSansIOProtocol


def _check_open_files(settings: Settings) -> None:
    """Raise the limit for open files; see that all connections and kernels have room in it."""
    allowed = raise_open_files()
    connections = settings.max_connections + MOST_REFUSED
    needed = connections + settings.max_kernels * _FILES_PER_KERNEL + _OTHER_FILES
    if allowed is not None and needed > allowed:
        raise InvalidSettings(
            f"max_connections: {settings.max_connections} connections and {settings.max_kernels} "
            f"kernels may need {needed} open files, and this process may have {allowed}: raise its "
            "hard limit (LimitNOFILE= of systemd, ulimit -Hn), or lower max_connections or "
            "max_kernels"
        )


def make_authenticator(settings: Settings) -> tuple[Authenticator, str | None]:
    """Return who lets users in, and the token that nobody knows yet, where one was made.

    Raises:
        InvalidSettings: the token file, or the address of the hub or of the issuer, cannot be used.
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


async def _check_kernel(finder: KernelFinder, name: str) -> None:
    available = {kernel_type: about async for kernel_type, about in finder.find_kernels()}
    try:
        found = check_kernel_type(name, available, remedy="install it, or name another one")
    except NoSuchKernel as error:
        raise InvalidSettings(f"kernel: {error}") from None
    reason = available[found].get("unavailable")
    if reason is not None:
        raise InvalidSettings(f"kernel: {reason}")


def _check_folder(root_dir: str) -> None:
    if not os.path.isdir(root_dir):
        raise InvalidSettings(f"root_dir: {root_dir!r} is no folder")


def _check_certificate(settings: Settings) -> None:
    """Raise InvalidSettings where uvicorn could not load the certificate and its key."""
    if settings.certfile is None:
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.certfile, settings.keyfile, password="")
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(
            f"certfile, keyfile: they cannot be used: {error.strerror or error}"
        ) from error


def new_token(user: str) -> tuple[str, list[str]]:
    """Return a new token for a user, and the lines for the token file."""
    token = secrets.token_urlsafe(32)
    name = user.replace("\\", "\\\\").replace('"', '\\"')
    return token, [f'["{name}"]', f'token = "{hash_token(token)}"']


class _Server(uvicorn.Server):
    """A server that leaves signals to others: its own handling would end the process at once."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()


async def _end_on_signal(
    server: uvicorn.Server,
    pool: KernelPool,
    drain: Drain,
    grace: float,
    *,
    task_status: TaskStatus[None],
) -> None:
    """End the server after a signal; a second one does not wait for busy kernels."""

    async def end() -> None:
        await drain.run(pool, grace=grace)
        server.should_exit = True

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with background_tasks() as tasks:
            task_status.started()
            async for _ in signals:
                if drain.begun:
                    drain.hurry()
                else:
                    drain.beginning.set()  # the next signal may come before the task runs
                    tasks.start_soon(end)


@contextmanager
def _listener(settings: Settings) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (settings.host, settings.port), family=family, backlog=_ACCEPTED_AT_ONCE
        )
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # in brackets is the address once more
        where = f"{settings.host} port {settings.port}"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            key, remedy = "port", "; port = 0 takes a free one"
        else:
            key, remedy = "host", ""
        raise InvalidSettings(f"{key}: cannot listen at {where}: {reason}{remedy}") from None
    with listener:
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAF_CLIENT_MS)
        yield listener


def _announce(listener: socket.socket, settings: Settings, token: str | None) -> None:
    host, port, *_ = listener.getsockname()
    name = host if is_loopback(host) else socket.gethostname()
    query = f"?token={token}" if token else ""
    address = f"[{name}]" if ":" in name else name
    url = f"{'https' if settings.certfile else 'http'}://{address}:{port}"
    path = f"{settings.base_url.rstrip('/')}/{query}"
    print(f"serving kernels at {url}{path}", file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """A parser that does not list all options before it says what is wrong with one."""

    def error(self, message: str) -> NoReturn:
        self.exit(_MISUSED, f"error: {message} (see {self.prog} --help)\n")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        description="Serve Jupyter kernels to many users, over Jupyter's REST and WebSocket API.",
        epilog="Each setting can also stand in the file, as key = value with underscores for the "
        "dashes inside, or in\nthe environment. The command line goes before the environment, "
        "and that before the file.",
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="a TOML file with settings")
    parser.add_argument(
        "--new-token",
        metavar="USER",
        help="print a new token, and on standard output its lines for a token file",
    )
    for option in OPTIONS.values():
        if option.table:
            continue
        default = "" if option.default is None else f" (default: {_shown(option.default)})"
        parser.add_argument(
            "--" + option.key.replace("_", "-"),
            metavar="VALUE",
            help=f"{option.description}{default}\n{', '.join(option.variables)}".replace("%", "%%"),
        )
    return parser


def _shown(value: object) -> str:
    match value:
        case list():
            return "none; several are separated by commas"
        case bool():
            return str(value).lower()
        case _:
            return str(value)
