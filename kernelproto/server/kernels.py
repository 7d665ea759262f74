"""The routes of the kernels: list, start, look at, interrupt, restart and end them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernelproto.interfaces import User
from kernelproto.server.answers import json_response, read_body
from kernelproto.server.desk import Desk
from kernelproto.server.models import KernelRequest, kernel_model

_YES = ("1", "true")


class KernelRoutes:
    """The kernels of whoever asks.

    Args:
        desk: has them.
        max_body_bytes: of a request.
    """

    def __init__(self, desk: Desk, *, max_body_bytes: int) -> None:
        self._desk = desk
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
        user: User = request.user
        everyone = user.admin and request.query_params.get("include_all") in _YES
        kernels = self._desk.pool.kernels(None if everyone else user.name)
        return json_response([kernel_model(kernel, with_owner=everyone) for kernel in kernels])

    async def _start(self, request: Request) -> Response:
        wanted = await read_body(request, KernelRequest, limit=self._max_body_bytes)
        model = await self._desk.start(request.user, wanted)
        location = f"{request.scope.get('root_path', '')}/api/kernels/{model.id}"
        return json_response(model, 201, {"Location": location})

    async def _show(self, request: Request) -> Response:
        return json_response(self._desk.model(request.user, request.path_params["kernel_id"]))

    async def _end(self, request: Request) -> Response:
        await self._desk.release(request.user, request.path_params["kernel_id"])
        return Response(status_code=204)

    async def _interrupt(self, request: Request) -> Response:
        await self._desk.interrupt(request.user, request.path_params["kernel_id"])
        return Response(status_code=204)

    async def _restart(self, request: Request) -> Response:
        kernel_id: str = request.path_params["kernel_id"]
        await self._desk.restart(request.user, kernel_id)
        return json_response(self._desk.model(request.user, kernel_id))
