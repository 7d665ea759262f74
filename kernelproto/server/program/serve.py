"""The server as a program: ``python -m kernelproto.server``, or ``kernelproto serve``."""

from __future__ import annotations

import errno
import importlib.util
import math
import os
import secrets
import signal
import socket
import sys
from collections.abc import Generator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext

import anyio
import uvicorn
from anyio.abc import TaskStatus

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import InvalidSettings, KernelProtoError
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.spec.naming import ENVIRONMENTS, SSH
from kernelproto.pool import KernelPool
from kernelproto.registry import Registry
from kernelproto.server.access_settings import is_loopback
from kernelproto.server.app import create_app
from kernelproto.server.auth.authenticators import hash_token
from kernelproto.server.auth.from_settings import make_authenticator
from kernelproto.server.connections import Connections
from kernelproto.server.drain import Drain
from kernelproto.server.limits import warm_kernels
from kernelproto.server.program.arguments import build_parser
from kernelproto.server.program.checks import check_open_files, check_settings
from kernelproto.server.program.compatibility import choose_protocols
from kernelproto.server.settings import Settings
from kernelproto.server.settings_sources import load_settings, remove_secrets
from kernelproto.server.state_folder import find_state_folder, open_state_folder
from kernelproto.server.telemetry.logs import configure_logging

_PROG = "python -m kernelproto.server"

# The name of a server in its registry, unless several share the registry.
_NODE = "server"

# The time in which responses can finish when the server ends.
_GRACE_SECONDS = 5

# The event loop accepts up to this many connections in one turn. With more, other clients would
# wait for the end of the turn.
_ACCEPTED_PER_TURN = 128

# So many connections may wait to be accepted. The system drops the first packet of each further
# one, and that client tries again after a second.
_BACKLOG = 4096

# The system closes the connection of a client that acknowledges no data for so long.
_TCP_USER_TIMEOUT_MS = 60_000


def main(arguments: Sequence[str] | None = None, *, prog: str = _PROG) -> int:
    """Serve kernels until SIGINT or SIGTERM; return the exit status.

    See ``serve`` for the kernels.

    Args:
        arguments: the command line without the program; None for that of the process.
        prog: the name of the program in messages.
    """
    options = vars(build_parser(prog).parse_args(arguments))
    new_user, config = options.pop("new_token"), options.pop("config")
    if new_user is not None:
        token, lines = new_token(new_user)
        print(f"the token of {new_user}, to be kept secret: {token}", file=sys.stderr)
        print(*lines, sep="\n")
        return 0
    given = {key: text for key, text in options.items() if text is not None}
    try:
        settings = load_settings(config, os.environ, given)
        remove_secrets(os.environ, settings)
        configure_logging(settings.log_format, settings.audit_file)
        use_uvloop = importlib.util.find_spec("uvloop") is not None
        anyio.run(serve, settings, backend_options={"use_uvloop": use_uvloop})
    except (KernelProtoError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


async def serve(settings: Settings) -> None:
    """Serve kernels until SIGINT or SIGTERM, then shut all of them down. Asyncio only.

    With a state folder (see ``find_state_folder``), SIGTERM leaves the kernels to the next server.

    Args:
        settings: the settings of the server; all of them apply.

    Raises:
        InvalidSettings: the settings do not fit this machine; the message names the setting.
        RegistryError: the registry cannot be used, and is unchanged.
    """
    state_folder = find_state_folder(settings, os.environ)
    authenticator, token = make_authenticator(settings)
    finder = KernelFinder.from_entrypoints()
    config = {
        **settings.providers,
        ENVIRONMENTS: _environments(settings),
        SSH: {"hosts": settings.ssh_hosts},
    }
    finder.load_config(config)
    await check_settings(settings, finder)
    warm = await warm_kernels(settings.limits, finder, kernel=settings.kernel, warm=settings.warm)
    with _listener(settings) as listener:
        check_open_files(settings)
        async with (
            background_tasks() as tasks,  # outlives the pool, so a second signal is still handled
            _registry(state_folder, settings) as registry,
            KernelPool(
                finder=finder,
                kernel_type=settings.kernel,
                max_kernels=settings.max_kernels,
                max_per_user=settings.max_per_user if settings.multi_user else settings.max_kernels,
                idle_timeout=settings.idle_timeout or None,
                max_age=settings.max_age or None,
                cull_connected=settings.cull_connected,
                warm=warm,
                cwd=_real_path(settings.root_dir),
                registry=registry,
                node=settings.node_url or _NODE,
                shared=settings.node_url is not None,
                linger=settings.linger_seconds or None,
                replays=registry is not None,  # see kept_clients.py
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
                    backlog=_ACCEPTED_PER_TURN,
                    timeout_keep_alive=math.ceil(settings.keep_alive),
                    log_config=None,
                    # The other levels log URLs, which can contain tokens.
                    log_level="warning",
                    access_log=False,
                    server_header=False,
                    # The peer address must be the real one; ProxyHeader trusts it.
                    proxy_headers=False,
                    ssl_certfile=settings.certfile,
                    ssl_keyfile=settings.keyfile,
                    ws=ws,
                    ws_max_size=settings.max_message_bytes,
                    ws_per_message_deflate=False,
                    timeout_graceful_shutdown=_GRACE_SECONDS,
                )
            )
            signals = await tasks.start(
                _end_on_signal, server, pool, app.state.drain, settings.grace_seconds
            )
            async with app.router.lifespan_context(app):
                _announce(listener, settings, token)
                await server.serve(sockets=[listener])
            if signal.SIGINT in signals:
                await pool.release_all()


def _registry(
    state_folder: str | None, settings: Settings
) -> AbstractAsyncContextManager[Registry | None]:
    """Open the registry of the kernels that outlive the server, if there are any."""
    if state_folder is None:
        return nullcontext()
    return open_state_folder(state_folder, settings.registry, settings.node_url)


def new_token(user: str) -> tuple[str, list[str]]:
    """Return a new token for a user, and the lines for a token file."""
    token = secrets.token_urlsafe(32)
    name = user.replace("\\", "\\\\").replace('"', '\\"')
    return token, [f'["{name}"]', f'token = "{hash_token(token)}"']


def _environments(settings: Settings) -> dict[str, object]:
    """Return the configuration of the provider of environments.

    For several users there are none by default. Everyone with write access to root_dir could offer
    an interpreter to all others, and the names would depend on files that change while the server
    runs. The server's account may also have environments that are not for its users.
    """
    if settings.environments == "off" or (settings.environments == "auto" and settings.multi_user):
        return {"sources": []}
    return {"project": _real_path(settings.root_dir)}


def _real_path(directory: str) -> str:
    """Return the path that requests for kernels have; only such requests get warm kernels."""
    return os.path.realpath(directory)


class _Server(uvicorn.Server):
    """A server without signal handlers: those of uvicorn would end the process at once."""

    def capture_signals(self) -> nullcontext[None]:  # type: ignore[override]
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(_BACKLOG)  # asyncio has set _ACCEPTED_PER_TURN for both


async def _end_on_signal(
    server: uvicorn.Server,
    pool: KernelPool,
    drain: Drain,
    grace: float,
    *,
    task_status: TaskStatus[list[int]],
) -> None:
    """End the server after a signal; after a second one, do not wait for busy kernels.

    The list that this task starts with gets the signals.
    """
    received: list[int] = []

    async def end() -> None:
        await drain.run(pool, grace=grace)
        server.should_exit = True

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with background_tasks() as tasks:
            task_status.started(received)
            async for signum in signals:
                received.append(signum)
                if drain.begun:
                    drain.hurry()
                else:
                    drain.beginning.set()  # the next signal may arrive before `end` runs
                    tasks.start_soon(end)


@contextmanager
def _listener(settings: Settings) -> Generator[socket.socket]:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server(
            (settings.host, settings.port), family=family, backlog=_BACKLOG
        )
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # the parentheses repeat the address
        where = f"{settings.host} port {settings.port}"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            key, remedy = "port", "; choose another one, or 0 for a free one"
        else:
            key, remedy = "host", ""
        raise InvalidSettings(f"{key}: cannot listen on {where}: {reason}{remedy}") from None
    with listener:
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
        yield listener


def _announce(listener: socket.socket, settings: Settings, token: str | None) -> None:
    host, port, *_ = listener.getsockname()
    name = host if is_loopback(host) else socket.gethostname()
    query = f"?token={token}" if token else ""
    address = f"[{name}]" if ":" in name else name
    url = f"{'https' if settings.certfile else 'http'}://{address}:{port}"
    path = f"{settings.base_url.rstrip('/')}/{query}"
    print(f"serving kernels at {url}{path}", file=sys.stderr, flush=True)
