"""The routes of the sessions: a session assigns a kernel to a document."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from weakref import WeakValueDictionary

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernelproto.exceptions import KernelProtoError, PoolFull, QuotaExceeded
from kernelproto.interfaces import User
from kernelproto.server.models import (
    KernelModel,
    KernelRequest,
    SessionChange,
    SessionModel,
    SessionRequest,
    kernel_model,
)
from kernelproto.server.nodes.lists import add_kernels
from kernelproto.server.responses import json_response, read_body, status_of, wait_until_gone
from kernelproto.server.session_store import SessionStore
from kernelproto.server.session_table import Session, SessionTable
from kernelproto.server.settings import Settings
from kernelproto.server.user_kernels import Gone, UserKernels
from kernelproto.server.user_messages import user_message

logger = logging.getLogger(__name__)

_NO_KERNELS: Mapping[str, KernelModel] = {}


class SessionRoutes:
    """The sessions of the user. A session ends with its kernel.

    The first request loads the sessions of earlier servers, whose kernels have outlived them. If
    several servers share the registry, each request loads the sessions of its user. A kernel ends
    with its last session, because two documents may share a kernel.

    Args:
        user_kernels: finds and starts the kernels.
        settings: limits the sessions of each user and the bodies of requests.
    """

    def __init__(self, user_kernels: UserKernels, settings: Settings) -> None:
        self._user_kernels = user_kernels
        self._max_body_bytes = settings.max_body_bytes
        # Sessions can share a kernel, so the pool's limits do not limit their number.
        self._max_sessions = settings.max_sessions_per_user
        self._max_bytes = settings.max_session_bytes
        self._own_table = SessionTable(self._has_kernel)
        self._store = SessionStore(user_kernels.pool.registry)
        self._loading = anyio.Lock()
        self._is_loaded = False
        # Two requests for the same document share a kernel, and the requests for one session are
        # handled in turn. Keys are the user, and the document's path or the session's id.
        self._locks: WeakValueDictionary[tuple[str, str], anyio.Lock] = WeakValueDictionary()

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/api/sessions/{session_id}"
        return [
            Route("/api/sessions", self._list, methods=["GET"]),
            Route("/api/sessions", self._open, methods=["POST"]),
            Route(one, self._show, methods=["GET"]),
            Route(one, self._change, methods=["PATCH"]),
            Route(one, self._close, methods=["DELETE"]),
        ]

    async def documents(self, user: str | None = None) -> dict[tuple[str, str], list[str]]:
        """Return the paths of documents by the user and the id of their kernel.

        Args:
            user: the user; None means all users.

        Raises:
            RegistryError: they cannot be read; the next call tries again.
        """
        return (await self._load(user)).documents(user)

    async def _load(self, user: str | None) -> SessionTable:
        """Return a table with the sessions of a user, or of all users.

        Raises:
            RegistryError: they cannot be read; the next call tries again.
        """
        if self._user_kernels.nodes is not None:
            # The registry removes a session together with its kernel.
            table = SessionTable(lambda user, kernel_id: True)
            for owner, session in await self._store.load(user):
                table.add(owner, session)
            return table
        if not self._is_loaded:
            async with self._loading:
                sessions = [] if self._is_loaded else await self._store.load()
                for owner, session in sessions:
                    self._own_table.add(owner, session)
                self._is_loaded = True
        return self._own_table

    async def _list(self, request: Request) -> Response:
        user: User = request.user
        sessions = (await self._load(user.name)).of_user(user.name)
        kernels: dict[str, KernelModel] = {}
        if self._user_kernels.nodes is not None and sessions:
            own = map(kernel_model, self._user_kernels.pool.kernels(user.name))
            models = await add_kernels([*own], self._user_kernels.nodes, user, everyone=False)
            kernels = {model.id: model for model in models}
            sessions = [session for session in sessions if session.kernel_id in kernels]
        return json_response([await self._model(user, each, kernels) for each in sessions])

    async def _open(self, request: Request) -> Response:
        user: User = request.user
        wanted = await read_body(request, SessionRequest, limit=self._max_body_bytes)
        async with self._lock(user, wanted.path):
            table = await self._load(user.name)
            session, model = table.of_path(user.name, wanted.path), None
            if session is not None:
                model = await self._find_model(user, session)
            if session is None or model is None:  # the kernel may have ended with its server
                session = Session(
                    str(uuid.uuid4()), wanted.path, wanted.name or "", wanted.type, kernel_id=""
                )
                self._check_limits(table, user, session)
                gone = partial(wait_until_gone, request)
                session.kernel_id = await self._kernel(user, wanted.kernel, wanted.path, gone=gone)
                table.add(user.name, session)
                await self._store.save(user.name, session)
        location = f"{request.scope.get('root_path', '')}/api/sessions/{session.id}"
        model = model or await self._model(user, session)
        return json_response(model, 201, {"Location": location})

    async def _show(self, request: Request) -> Response:
        session = self._find(await self._load(request.user.name), request)
        return json_response(await self._model(request.user, session))

    async def _change(self, request: Request) -> Response:
        user: User = request.user
        change = await read_body(request, SessionChange, limit=self._max_body_bytes)
        async with self._lock(user, request.path_params["session_id"]):
            table = await self._load(user.name)
            session = self._find(table, request)
            path = change.path or session.path
            name = session.name if change.name is None else change.name
            kind = change.type or session.type
            self._check_limits(table, user, replace(session, path=path, name=name, type=kind))
            if change.kernel is not None and change.kernel.id != session.kernel_id:
                await self._replace_kernel(table, user, session, change.kernel, path)
            table.rename(user.name, session, path=path, name=name, type=kind)
            await self._store.save(user.name, session)
        return json_response(await self._model(user, session))

    async def _close(self, request: Request) -> Response:
        user: User = request.user
        async with self._lock(user, request.path_params["session_id"]):
            table = await self._load(user.name)
            session = self._find(table, request)
            if (
                self._user_kernels.nodes is not None
                and table.sharing(user.name, session.kernel_id) == 1
            ):
                # If the server with the kernel does not answer, the client can try again.
                await self._user_kernels.end_any(user, session.kernel_id)
            table.remove(user.name, session)
            await self._store.remove(user.name, session)
        await self._release_unshared(table, user, session.kernel_id)
        return Response(status_code=204)

    async def _replace_kernel(
        self, table: SessionTable, user: User, session: Session, wanted: KernelRequest, path: str
    ) -> None:
        """Replace the kernel of a session; end the old kernel once the new one is ready.

        If there is no room for both, the old kernel ends first. If the new kernel then fails to
        start, the session ends, and the error says so.
        """
        old = session.kernel_id
        replaces = old if table.sharing(user.name, old) == 1 else None
        try:
            new = await self._replacement(user, wanted, path, replaces)
        except KernelProtoError as error:
            if await self._user_kernels.any_model(user, old) is not None:
                raise
            logger.warning(
                "a session ends: kernel %s was ended, and the next failed: %s", old, error
            )
            raise HTTPException(
                status_of(error),
                f"{user_message(error)}; the session's old kernel was shut down to make room, so "
                "this session has ended: open the document again",
            ) from None
        table.replace_kernel(user.name, session, new)
        await self._store.save(user.name, session)  # before the old kernel removes the row
        await self._release_unshared(table, user, old)

    async def _replacement(
        self, user: User, wanted: KernelRequest, path: str, replaces: str | None
    ) -> str:
        """Start a kernel in place of another one, which ends first if there is no room for both."""
        try:
            return await self._kernel(user, wanted, path, replaces=replaces)
        except (PoolFull, QuotaExceeded):
            nodes = self._user_kernels.nodes  # another server may have the old kernel
            if nodes is None or replaces is None or not await nodes.end(user, replaces):
                raise
            return await self._kernel(user, wanted, path)

    async def _release_unshared(self, table: SessionTable, user: User, kernel_id: str) -> None:
        """End a kernel unless another session uses the kernel."""
        if not table.sharing(user.name, kernel_id):
            await self._user_kernels.end_any(user, kernel_id)

    def _check_limits(self, table: SessionTable, user: User, session: Session) -> None:
        """Check the limits of a user for a new or changed session.

        Raises:
            HTTPException: 429, the user has too many sessions, or their paths and names are too
                long.
        """
        others = table.total_without(user.name, session.id)
        size = session.size + others.size
        if others.number >= self._max_sessions or size > self._max_bytes:
            table.forget_ended(user.name)  # there may be room without these
            others = table.total_without(user.name, session.id)
        if others.number >= self._max_sessions:
            raise HTTPException(
                429,
                f"you may have at most {self._max_sessions} sessions at the same time "
                "(max_sessions_per_user): close one first",
            )
        if session.size + others.size > self._max_bytes:
            raise HTTPException(
                429,
                "the paths and names of your sessions are too long: together they may have at most "
                f"{self._max_bytes} bytes (max_session_bytes); close a session first",
            )

    async def _kernel(
        self,
        user: User,
        wanted: KernelRequest | None,
        path: str,
        *,
        replaces: str | None = None,
        gone: Gone | None = None,
    ) -> str:
        wanted = wanted or KernelRequest()
        wanted.path = wanted.path or path
        return (await self._user_kernels.start(user, wanted, replaces=replaces, gone=gone)).id

    def _lock(self, user: User, key: str) -> anyio.Lock:
        return self._locks.setdefault((user.name, key), anyio.Lock())

    def _has_kernel(self, user: str, kernel_id: str) -> bool:
        return self._user_kernels.pool.find(kernel_id, user=user) is not None

    def _find(self, table: SessionTable, request: Request) -> Session:
        session_id: str = request.path_params["session_id"]
        session = table.find(request.user.name, session_id)
        if session is None:
            raise HTTPException(404, f"there is no session {session_id[:100]}")
        return session

    async def _model(
        self, user: User, session: Session, kernels: Mapping[str, KernelModel] = _NO_KERNELS
    ) -> SessionModel:
        model = await self._find_model(user, session, kernels)
        if model is None:
            raise HTTPException(404, f"there is no kernel {session.kernel_id[:100]}")
        return model

    async def _find_model(
        self, user: User, session: Session, kernels: Mapping[str, KernelModel] = _NO_KERNELS
    ) -> SessionModel | None:
        kernel = kernels.get(session.kernel_id)
        if kernel is None:
            kernel = await self._user_kernels.any_model(user, session.kernel_id)
        if kernel is None:
            return None
        return SessionModel(session.id, session.path, session.name, session.type, kernel)
