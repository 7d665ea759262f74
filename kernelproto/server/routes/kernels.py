"""The routes of the kernels: list, start, show, interrupt, restart and end them."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernelproto.interfaces import User
from kernelproto.pool import PooledKernel
from kernelproto.server.models import KernelRequest, kernel_model
from kernelproto.server.nodes.lists import add_kernels
from kernelproto.server.nodes.requests import ARRIVED
from kernelproto.server.responses import json_response, read_body, wait_until_gone
from kernelproto.server.user_kernels import UserKernels

_YES = ("1", "true")


class KernelRoutes:
    """The kernels of the user, or of all users for an admin with ``?include_all=1``.

    If two users have chosen the same id, the admin has to add ``&owner=NAME``.

    Args:
        user_kernels: finds and starts the kernels.
        max_body_bytes: the maximum size of a request's body.
    """

    def __init__(self, user_kernels: UserKernels, *, max_body_bytes: int) -> None:
        self._user_kernels = user_kernels
        self._max_body_bytes = max_body_bytes

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/api/kernels/{kernel_id}"
        return [
            Route("/api/kernels", self._list, methods=["GET"]),
            Route("/api/kernels", self._start, methods=["POST"]),
            Route(one, self._show, methods=["GET"]),
            Route(one, self._end, methods=["DELETE"]),
            Route(f"{one}/interrupt", self._interrupt, methods=["POST"]),
            Route(f"{one}/restart", self._restart, methods=["POST"]),
        ]

    async def _list(self, request: Request) -> Response:
        everyone = _includes_all(request)
        kernels = self._user_kernels.pool.kernels(None if everyone else request.user.name)
        models = [kernel_model(kernel, with_owner=everyone) for kernel in kernels]
        if self._user_kernels.nodes is not None and ARRIVED not in request.scope:
            nodes = self._user_kernels.nodes
            models = await add_kernels(models, nodes, request.user, everyone=everyone)
        return json_response(models)

    async def _start(self, request: Request) -> Response:
        wanted = await read_body(request, KernelRequest, limit=self._max_body_bytes)
        gone = partial(wait_until_gone, request)
        model = await self._user_kernels.start(request.user, wanted, gone=gone)
        location = f"{request.scope.get('root_path', '')}/api/kernels/{model.id}"
        return json_response(model, 201, {"Location": location})

    async def _show(self, request: Request) -> Response:
        return self._model(request)

    async def _end(self, request: Request) -> Response:
        await self._user_kernels.end(request.user, self._find(request))
        return Response(status_code=204)

    async def _interrupt(self, request: Request) -> Response:
        await self._user_kernels.interrupt(request.user, self._find(request))
        return Response(status_code=204)

    async def _restart(self, request: Request) -> Response:
        await self._user_kernels.restart(request.user, self._find(request))
        return self._model(request)

    def _find(self, request: Request) -> PooledKernel:
        return self._user_kernels.find(
            request.user,
            request.path_params["kernel_id"],
            everyone=_includes_all(request),
            owner=request.query_params.get("owner"),
        )

    def _model(self, request: Request) -> Response:
        kernel = self._find(request)
        return json_response(kernel_model(kernel, with_owner=_includes_all(request)))


def _includes_all(request: Request) -> bool:
    user: User = request.user
    return user.admin and request.query_params.get("include_all") in _YES
