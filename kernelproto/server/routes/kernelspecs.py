"""The routes of the kernel types, with their logos and scripts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import cast
from urllib.parse import quote

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from kernelproto.interfaces import KernelAttributes
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.spec.naming import OWN_KERNEL
from kernelproto.server.models import KernelSpecList, KernelSpecModel, shown_name
from kernelproto.server.responses import json_response

# The public attributes of a kernel type. The environment may hold secrets.
_PUBLIC: Mapping[str, object] = {
    "argv": [],
    "display_name": "",
    "language": "",
    "interrupt_mode": "signal",
    "metadata": {},
}


class KernelSpecRoutes:
    """The kernel types, the same for all users.

    Args:
        finder: finds the kernel types.
        default: the kernel type of a start that names none.
    """

    def __init__(self, finder: KernelFinder, default: str) -> None:
        self._finder = finder
        self._default = shown_name(default)

    def routes(self) -> list[Route]:
        """Return the routes; the name of a kernel type may contain a slash."""
        return [
            Route("/api/kernelspecs", self._list, methods=["GET"]),
            Route("/api/kernelspecs/{name:path}", self._show, methods=["GET"]),
            Route("/kernelspecs/{name:path}/{file}", self._resource, methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Response:
        found = await self._find()
        models = {name: _model(request, name, about) for name, about in found.items()}
        return json_response(KernelSpecList(self._default, models))

    async def _show(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        return json_response(_model(request, name, await self._attributes(name)))

    async def _resource(self, request: Request) -> Response:
        attributes = await self._attributes(request.path_params["name"])
        # Only files that the provider names are served; the request's path never reaches the disk.
        for path in attributes.get("resources", {}).values():
            if os.path.basename(path) == request.path_params["file"]:
                return FileResponse(path, headers={"Cache-Control": "private, max-age=3600"})
        raise HTTPException(404, "this kernel type has no such resource")

    async def _find(self) -> dict[str, KernelAttributes]:
        found: dict[str, KernelAttributes] = {}
        async for kernel_type, attributes in self._finder.find_kernels():
            found.setdefault(shown_name(kernel_type), attributes)
        if OWN_KERNEL in found:
            # Most notebooks name python3, and a client does not offer another kernel instead.
            found.setdefault("python3", found[OWN_KERNEL])
        return found

    async def _attributes(self, name: str) -> KernelAttributes:
        attributes = (await self._find()).get(name)
        if attributes is None:
            raise HTTPException(404, f"there is no kernel type {name[:100]}")
        return attributes


def _model(request: Request, name: str, attributes: KernelAttributes) -> KernelSpecModel:
    about = cast("Mapping[str, object]", attributes)
    root = f"{request.scope.get('root_path', '')}/kernelspecs/{quote(name)}"
    return KernelSpecModel(
        name=name,
        spec={key: about.get(key, default) for key, default in _PUBLIC.items()} | {"env": {}},
        resources={
            key: f"{root}/{quote(os.path.basename(path))}"
            for key, path in attributes.get("resources", {}).items()
        },
    )
