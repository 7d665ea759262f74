"""The routes of the contexts, for programs that run code over HTTP."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernelproto.confined_folder import ConfinedFolder
from kernelproto.pool import PooledKernel
from kernelproto.remote.models import (
    MOST_KEY_CHARACTERS,
    ContextModel,
    ContextRequest,
    ExecuteRequest,
    InterruptRequest,
)
from kernelproto.server.auth.revocation import Access
from kernelproto.server.contexts.contexts import Context, Contexts
from kernelproto.server.contexts.files import FileDownload, Files, byte_range
from kernelproto.server.contexts.openapi import document
from kernelproto.server.contexts.stream import NDJSON, SSE, ExecutionStream
from kernelproto.server.drain import SHUTTING_DOWN, Drain
from kernelproto.server.middleware.access import user_request
from kernelproto.server.nodes.requests import ARRIVED
from kernelproto.server.responses import json_response, read_body, wait_until_gone
from kernelproto.server.user_kernels import UserKernels

CONTEXTS = "/api/contexts"


class ContextRoutes:
    """The contexts of the user.

    Args:
        contexts: the contexts.
        user_kernels: interrupts, restarts and ends their kernels.
        access: notices that a user's access is revoked.
        drain: announces the end of the server.
        max_body_bytes: the maximum size of a request's body.
    """

    def __init__(
        self,
        contexts: Contexts,
        user_kernels: UserKernels,
        access: Access,
        drain: Drain,
        *,
        max_body_bytes: int,
    ) -> None:
        self._contexts = contexts
        self._user_kernels = user_kernels
        self._access = access
        self._drain = drain
        self._max_body_bytes = max_body_bytes
        self._files = Files()

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = f"{CONTEXTS}/{{context_id}}"
        return [
            Route("/api/openapi.json", self._describe, methods=["GET"]),
            Route(CONTEXTS, self._list, methods=["GET"]),
            Route(CONTEXTS, self._start, methods=["POST"]),
            Route(one, self._show, methods=["GET"]),
            Route(one, self._end, methods=["DELETE"]),
            Route(f"{one}/execute", self._execute, methods=["POST"]),
            Route(f"{one}/interrupt", self._interrupt, methods=["POST"]),
            Route(f"{one}/restart", self._restart, methods=["POST"]),
            Route(f"{one}/files", self._list_files, methods=["GET"]),
            Route(f"{one}/files/{{name:path}}", self._download, methods=["GET"]),
            Route(f"{one}/files/{{name:path}}", self._upload, methods=["PUT"]),
            Route(f"{one}/files/{{name:path}}", self._remove_file, methods=["DELETE"]),
        ]

    async def _describe(self, request: Request) -> Response:
        return json_response(document(version("kernelproto"), request.scope.get("root_path", "")))

    async def _list(self, request: Request) -> Response:
        models = self._contexts.models(request.user)
        if self._user_kernels.nodes is not None and ARRIVED not in request.scope:
            found = await self._user_kernels.nodes.ask_all(request.user, CONTEXTS, ContextModel)
            models += found.items
        return json_response(models)

    async def _start(self, request: Request) -> Response:
        wanted = await read_body(request, ContextRequest, limit=self._max_body_bytes)
        gone = partial(wait_until_gone, request)
        model = await self._contexts.start(request.user, wanted, gone=gone)
        location = f"{request.scope.get('root_path', '')}{CONTEXTS}/{model.id}"
        return json_response(model, 201, {"Location": location})

    async def _show(self, request: Request) -> Response:
        return self._model(request)

    async def _end(self, request: Request) -> Response:
        await self._user_kernels.end(request.user, self._kernel(request))
        return Response(status_code=204)

    async def _restart(self, request: Request) -> Response:
        await self._user_kernels.restart(request.user, self._kernel(request))
        return self._model(request)

    async def _interrupt(self, request: Request) -> Response:
        wanted = await read_body(request, InterruptRequest, limit=self._max_body_bytes)
        key = wanted.idempotency_key
        if key is None:
            await self._user_kernels.interrupt(request.user, self._kernel(request))
            return Response(status_code=204)
        run = self._find(request).runs.find(key)
        if run is None:
            raise HTTPException(404, "there is no execution with this idempotency_key")
        await run.interrupt()
        return Response(status_code=204)

    async def _execute(self, request: Request) -> Response:
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= MOST_KEY_CHARACTERS:
            raise HTTPException(
                400, f"Idempotency-Key must have 1 to {MOST_KEY_CHARACTERS} characters"
            )
        wanted = await read_body(request, ExecuteRequest, limit=self._max_body_bytes)
        context = self._find(request)
        run = None if key is None else context.runs.find(key)
        headers = {} if run is None else {"Idempotency-Replayed": "true"}
        if run is None:
            if self._drain.begun:
                raise HTTPException(503, SHUTTING_DOWN)
            run = context.runs.start(wanted, key=key)
        elif run.request != wanted:
            raise HTTPException(
                422, "another request had this Idempotency-Key: use a new key for each execution"
            )
        return ExecutionStream(
            run.join(),
            SSE if SSE in request.headers.get("accept", "") else NDJSON,
            headers,
            revoked=partial(
                self._access.wait_until_revoked, request.user, user_request(request.scope)
            ),
            drain=self._drain,
        )

    async def _list_files(self, request: Request) -> Response:
        with self._folder(request) as folder:
            return json_response(await self._files.files(folder))

    async def _download(self, request: Request) -> Response:
        with self._folder(request) as folder:
            file = await self._files.open(folder, request.path_params["name"])
        try:
            part = byte_range(request.headers.get("range"), file.size)
        except HTTPException:
            file.close()
            raise
        return FileDownload(file, part)

    async def _upload(self, request: Request) -> Response:
        name: str = request.path_params["name"]
        with self._folder(request) as folder:
            await self._files.upload(request.path_params["context_id"], folder, name, request)
        return Response(status_code=204)

    async def _remove_file(self, request: Request) -> Response:
        with self._folder(request) as folder:
            await self._files.remove(folder, request.path_params["name"])
        return Response(status_code=204)

    def _folder(self, request: Request) -> ConfinedFolder:
        return self._contexts.folder(request.user, request.path_params["context_id"])

    def _find(self, request: Request) -> Context:
        return self._contexts.find(request.user, request.path_params["context_id"])

    def _kernel(self, request: Request) -> PooledKernel:
        """Return the kernel of a context; raises as ``_find`` does."""
        self._find(request)
        return self._user_kernels.find(request.user, request.path_params["context_id"])

    def _model(self, request: Request) -> Response:
        return json_response(self._contexts.model(request.user, request.path_params["context_id"]))
