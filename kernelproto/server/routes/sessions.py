"""The routes of the sessions: a session assigns a kernel to a document."""

from __future__ import annotations

import logging
import uuid
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from weakref import WeakValueDictionary

import anyio
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernelproto.exceptions import KernelProtoError
from kernelproto.interfaces import User
from kernelproto.server.models import (
    KernelRequest,
    SessionChange,
    SessionModel,
    SessionRequest,
    kernel_model,
)
from kernelproto.server.responses import json_response, read_body, status_of, wait_until_gone
from kernelproto.server.settings import Settings
from kernelproto.server.user_kernels import Gone, UserKernels
from kernelproto.server.user_messages import user_message

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Session:
    id: str
    path: str
    name: str
    type: str
    kernel_id: str

    @property
    def size(self) -> int:
        return sum(len(text.encode()) for text in (self.path, self.name, self.type))


class SessionRoutes:
    """The sessions of the user. A session ends with its kernel, or with this program.

    A kernel ends with the last of its sessions, because two documents may share a kernel.

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
        self._sessions: dict[str, dict[str, _Session]] = {}
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

    def documents(self, user: str | None = None) -> dict[tuple[str, str], list[str]]:
        """Return the paths of documents by their kernel: its user and its id.

        Args:
            user: the user; None means all users.
        """
        users = list(self._sessions) if user is None else [user]
        documents: dict[tuple[str, str], list[str]] = {}
        for name in users:
            for session in self._sessions.get(name, {}).values():
                documents.setdefault((name, session.kernel_id), []).append(session.path)
        return documents

    async def _list(self, request: Request) -> Response:
        sessions = self._living(request.user)
        return json_response([self._model(request.user, s) for s in sessions.values()])

    async def _open(self, request: Request) -> Response:
        user: User = request.user
        wanted = await read_body(request, SessionRequest, limit=self._max_body_bytes)
        async with self._lock(user, wanted.path):
            session = self._of_path(user, wanted.path)
            if session is None:
                session = _Session(
                    str(uuid.uuid4()), wanted.path, wanted.name or "", wanted.type, kernel_id=""
                )
                self._check_limits(user, session)
                gone = partial(wait_until_gone, request)
                session.kernel_id = await self._kernel(user, wanted.kernel, wanted.path, gone=gone)
                self._forget()
                self._sessions.setdefault(user.name, {})[session.id] = session
        location = f"{request.scope.get('root_path', '')}/api/sessions/{session.id}"
        return json_response(self._model(user, session), 201, {"Location": location})

    async def _show(self, request: Request) -> Response:
        return json_response(self._model(request.user, self._find(request)))

    async def _change(self, request: Request) -> Response:
        user: User = request.user
        change = await read_body(request, SessionChange, limit=self._max_body_bytes)
        async with self._lock(user, request.path_params["session_id"]):
            session = self._find(request)
            path = change.path or session.path
            name = session.name if change.name is None else change.name
            changed = replace(session, path=path, name=name, type=change.type or session.type)
            self._check_limits(user, changed)
            if change.kernel is not None and change.kernel.id != session.kernel_id:
                await self._replace_kernel(user, session, change.kernel, path)
            session.path, session.name, session.type = path, name, changed.type
        return json_response(self._model(user, session))

    async def _close(self, request: Request) -> Response:
        user: User = request.user
        async with self._lock(user, request.path_params["session_id"]):
            session = self._find(request)
            del self._sessions[user.name][session.id]
        await self._release_unshared(user, session.kernel_id)
        return Response(status_code=204)

    async def _replace_kernel(
        self, user: User, session: _Session, wanted: KernelRequest, path: str
    ) -> None:
        """Replace the kernel of a session; end the old kernel once the new one is ready.

        If there is no room for both, the old kernel ends first. If the new kernel then fails to
        start, the session ends, and the error says so.
        """
        old = session.kernel_id
        shared = [s for s in self._living(user).values() if s.kernel_id == old]
        replaces = old if len(shared) == 1 else None
        try:
            session.kernel_id = await self._kernel(user, wanted, path, replaces=replaces)
        except KernelProtoError as error:
            if self._user_kernels.pool.find(old, user=user.name) is not None:
                raise
            logger.warning(
                "a session ends: kernel %s was ended, and the next failed: %s", old, error
            )
            raise HTTPException(
                status_of(error),
                f"{user_message(error)}; the session's old kernel was shut down to make room, so "
                "this session has ended: open the document again",
            ) from None
        self._sessions.setdefault(user.name, {})[session.id] = session
        await self._release_unshared(user, old)

    async def _release_unshared(self, user: User, kernel_id: str) -> None:
        """End a kernel unless another session has it."""
        if all(session.kernel_id != kernel_id for session in self._living(user).values()):
            with suppress(HTTPException):  # the kernel has ended before
                await self._user_kernels.end(user, self._user_kernels.find(user, kernel_id))

    def _check_limits(self, user: User, session: _Session) -> None:
        """Check the limits of a user for a new or changed session.

        Raises:
            HTTPException: 429, the user has too many sessions, or their paths and names are too
                long.
        """
        others = [other for other in self._living(user).values() if other.id != session.id]
        if len(others) >= self._max_sessions:
            raise HTTPException(
                429,
                f"you may have at most {self._max_sessions} sessions at the same time "
                "(max_sessions_per_user): close one first",
            )
        if session.size + sum(other.size for other in others) > self._max_bytes:
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

    def _forget(self) -> None:
        """Forget sessions whose kernels have ended, also of users who never return.

        Each new session checks two users in turn, so the cost does not grow with their number.
        """
        for user in list(islice(self._sessions, 2)):
            self._sessions[user] = self._sessions.pop(user)  # now the last one
            self._forget_ended(user)

    def _forget_ended(self, user: str) -> None:
        kernels = {kernel.kernel_id for kernel in self._user_kernels.pool.kernels(user)}
        sessions = self._sessions.get(user, {})
        for session in [s for s in sessions.values() if s.kernel_id not in kernels]:
            del sessions[session.id]
        if not sessions:
            self._sessions.pop(user, None)

    def _living(self, user: User) -> dict[str, _Session]:
        """Return a user's sessions; forget those whose kernels have ended."""
        self._forget_ended(user.name)
        return self._sessions.get(user.name, {})

    def _of_path(self, user: User, path: str) -> _Session | None:
        return next((s for s in self._living(user).values() if s.path == path), None)

    def _find(self, request: Request) -> _Session:
        session_id: str = request.path_params["session_id"]
        session = self._living(request.user).get(session_id)
        if session is None:
            raise HTTPException(404, f"there is no session {session_id[:100]}")
        return session

    def _model(self, user: User, session: _Session) -> SessionModel:
        kernel = kernel_model(self._user_kernels.find(user, session.kernel_id))
        return SessionModel(session.id, session.path, session.name, session.type, kernel)
