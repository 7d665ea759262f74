"""Launch parameters in the requests that start a kernel: ``launch_params`` of the REST API.

They are next to the ``name`` of a kernel, as in kernelproto's own server. jupyter_server ignores
unknown fields of a request, so handlers of its two routes take them first.
"""

# traitlets' and tornado's types are unknown to pyright.
# pyright: basic

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.handlers import MainKernelHandler
from jupyter_server.services.sessions.handlers import SessionRootHandler
from jupyter_server.utils import ensure_async, url_path_join
from tornado import web

from kernelproto.exceptions import InvalidLaunchParameter

# Those of the request that this task handles. tornado handles each request in a task of its own.
_requested: ContextVar[Mapping[str, object] | None] = ContextVar("_requested", default=None)

# Python objects, or of no use to a client.
_REFUSED = ("detached", "listed_as", "output")

_EXISTS = "launch_params: the kernel exists already: leave them out"


def requested_parameters() -> Mapping[str, object] | None:
    """Return the launch parameters of the current request; None if it has none."""
    return _requested.get()


def add_handlers(server: ServerApp) -> None:
    """Have a server take launch parameters in requests for kernels and sessions."""
    web_app: Any = server.web_app
    handlers = [("api/kernels", KernelsHandler), ("api/sessions", SessionsHandler)]
    web_app.add_handlers(
        ".*$", [(url_path_join(server.base_url, path), handler) for path, handler in handlers]
    )


class KernelsHandler(MainKernelHandler):
    """jupyter_server's handler of ``/api/kernels``, with launch parameters."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Start a kernel."""
        model: Any = self.get_json_body()
        kernels: Any = self.kernel_manager
        inherited: Any = super()
        with _parameters_of(model):
            if requested_parameters() is not None and model.get("kernel_id") in kernels:
                raise web.HTTPError(400, _EXISTS)
            await inherited.post()


class SessionsHandler(SessionRootHandler):
    """jupyter_server's handler of ``/api/sessions``, with launch parameters of its kernel."""

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Create a session, and start its kernel."""
        model: Any = self.get_json_body()
        kernel: Any = model.get("kernel") if isinstance(model, dict) else None
        kernels: Any = self.kernel_manager
        sessions: Any = self.session_manager
        inherited: Any = super()
        with _parameters_of(kernel):
            if requested_parameters() is not None and (
                kernel.get("id") in kernels
                or await ensure_async(sessions.session_exists(path=model.get("path")))
            ):
                raise web.HTTPError(400, _EXISTS)
            await inherited.post()


@contextmanager
def _parameters_of(request: object) -> Generator[None]:
    """Apply the launch parameters of a request for a kernel in the block.

    Raises:
        HTTPError: 400, the kernel type does not take them.
    """
    params = request.get("launch_params") if isinstance(request, dict) else None
    if params is None:
        yield
        return
    if not isinstance(params, dict):
        raise web.HTTPError(400, "launch_params: an object is required, with the parameters")
    for name in _REFUSED:
        if name in params:
            raise web.HTTPError(400, f"launch_params: {name!r} cannot be set by a client")
    token = _requested.set(params)
    try:
        yield
    except Exception as error:
        # The handler of sessions wraps each exception in an HTTPError.
        if isinstance(refusal := error.__cause__ or error, InvalidLaunchParameter):
            raise web.HTTPError(400, str(refusal)) from error
        raise
    finally:
        _requested.reset(token)
