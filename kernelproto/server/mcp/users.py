"""McpUsers: the conversations of each user of the server, and the sessions of the user's clients.

A user begins with a request, and has a folder, conversations and sessions that no other user can
name. A user without a conversation and a request for a while ends. The files of an isolated user
are in the user's home folder, and are opened with the rights of the user.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from importlib.metadata import version
from typing import Any

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup
from mcp.server.context import ServerRequestContext
from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from kernelproto.concurrency.shield import to_the_end
from kernelproto.concurrency.task_groups import background_tasks, start_logged
from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import InvalidSettings, NoSuchKernel
from kernelproto.interfaces import User
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.process.confinement import sandbox_fault
from kernelproto.log_fields import logging_about
from kernelproto.mcp.conversations import Conversations
from kernelproto.mcp.folders import Folders
from kernelproto.mcp.http import HttpTransport, until_gone
from kernelproto.mcp.kernel_types import KernelTypes, find_kernel_types
from kernelproto.mcp.kernels import owner_of_files
from kernelproto.mcp.limits import Limits
from kernelproto.mcp.root import root_folder
from kernelproto.mcp.server import KernelServer
from kernelproto.server.drain import SHUTTING_DOWN, Drain
from kernelproto.server.mcp.kernels import ServerKernels
from kernelproto.server.settings import Settings
from kernelproto.server.telemetry.audit import acting
from kernelproto.server.user_kernels import UserKernels

# After this time without a request a session ends, and a user without a conversation.
_SESSION_SECONDS = 1800.0
_EXAMINE_SECONDS = 60.0

_MOST_SESSIONS = 100
_MOST_REQUESTS = 200

# A file that is read at once is encoded in the event loop.
_RESOURCE_BYTES = 700_000

# How long the kernels of a user's conversations may take to end.
_END_SECONDS = 30.0

_MOST_READABLE = 40

# The folder of the conversations in the home folder of an isolated user.
_IN_HOME = "conversations"


class _McpUser:
    """One user.

    Attributes:
        kernels: the user's kernels.
        transport: serves the user's requests; an error if that is impossible.
        conversations: the user's conversations, once the transport is there.
        requests: the number of requests that are served now.
        used_at: when the last request ended.
        leaving: set to end the user.
    """

    def __init__(self, kernels: ServerKernels) -> None:
        self.kernels = kernels
        self.transport = Waiter[HttpTransport]()
        self.conversations: Conversations | None = None
        self.requests = 0
        self.used_at = anyio.current_time()
        self.leaving = anyio.Event()

    @property
    def is_unused(self) -> bool:
        """Whether the user has no conversation and had no request for a while."""
        if self.requests or (self.conversations is not None and self.conversations.names):
            return False
        return anyio.current_time() - self.used_at > _SESSION_SECONDS


class McpUsers:
    """All users, during the lifespan, whose end ends the kernels of their conversations.

    Args:
        user_kernels: starts the kernels.
        finder: finds the kernel types.
        settings: the settings of the server.
        drain: announces the end of the server.
    """

    def __init__(
        self, user_kernels: UserKernels, finder: KernelFinder, settings: Settings, drain: Drain
    ) -> None:
        self._user_kernels = user_kernels
        self._finder = finder
        self._names = settings.mcp_kernels or [settings.kernel]
        self._directory = settings.mcp_dir
        self._are_isolated = settings.isolate == "users"
        self._sandbox = settings.mcp_sandbox
        self._body_bytes = settings.max_body_bytes
        self._limits = Limits(expires=settings.mcp_expires, resource_bytes=_RESOURCE_BYTES)
        self._drain = drain
        self._version = version("kernelproto")
        self._users: dict[str, _McpUser] = {}
        self._kernel_types: KernelTypes
        self._root = ""
        self._tasks: TaskGroup | None = None

    def __len__(self) -> int:
        """Return the number of users with a conversation or a recent request."""
        return len(self._users)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        """Serve users during the block; the lifespan of the application.

        Raises:
            InvalidSettings: a kernel type does not exist, ``mcp_dir`` cannot be used, or the
                sandbox cannot be enforced.
        """
        if self._sandbox is not None:
            reason = await to_thread.run_sync(sandbox_fault, self._sandbox)
            if reason is not None:
                raise InvalidSettings(f"mcp_sandbox: this machine cannot enforce it: {reason}")
        try:
            self._kernel_types = await find_kernel_types(self._finder, self._names)
        except NoSuchKernel as error:
            raise InvalidSettings(f"mcp_kernels: {error}") from None
        async with AsyncExitStack() as stack:
            try:
                if not self._are_isolated:
                    self._root = await stack.enter_async_context(root_folder(self._directory))
            except OSError as error:
                raise InvalidSettings(f"mcp_dir: {error}") from None
            tasks = self._tasks = await stack.enter_async_context(background_tasks())
            start_logged(tasks, self._keep_time)
            try:
                yield
            finally:
                self._tasks = None

    @asynccontextmanager
    async def transport(self, user: User) -> AsyncGenerator[HttpTransport]:
        """Give the transport for a request of a user.

        Raises:
            HTTPException: 429, the user has too many requests; 503, the block has not been entered,
                or the user's files cannot be used; 403 or 503, an isolated user has no home folder.
        """
        if self._tasks is None:
            raise HTTPException(503, "MCP does not run: open the lifespan of the application")
        of_user = self._users.get(user.name)
        if of_user is None:
            of_user = self._users[user.name] = _McpUser(
                ServerKernels(self._user_kernels, user, self._sandbox)
            )
            start_logged(self._tasks, self._serve, user.name, of_user)
        if of_user.requests >= _MOST_REQUESTS:
            raise HTTPException(
                429, f"you have {_MOST_REQUESTS} requests under way: end some first"
            )
        of_user.kernels.user = user
        of_user.requests += 1
        try:
            yield await of_user.transport.wait()
        finally:
            of_user.requests -= 1
            of_user.used_at = anyio.current_time()

    async def _serve(self, name: str, user: _McpUser) -> None:
        """Serve a user until the user leaves, or the block ends."""
        try:
            # This task has the context of the first request.
            with (
                acting(None, None),
                logging_about(user=name),
                closing(await self._folders(user.kernels.user)) as folders,
            ):
                await self._serve_files(user, folders)
        except HTTPException as error:
            user.transport.fail(error)
        finally:
            user.transport.fail(HTTPException(503, "the server cannot use your files: see its log"))
            if self._users.get(name) is user:
                del self._users[name]

    async def _folders(self, user: User) -> Folders:
        home = await self._user_kernels.home(user)

        def folders() -> Folders:
            if home is not None:
                return Folders(home.path, self._limits, inside=(_IN_HOME,), rights=home.owner)
            path = os.path.join(self._root, _folder_name(user.name))
            os.makedirs(path, mode=0o700, exist_ok=True)
            return Folders(path, self._limits, owner=owner_of_files(self._sandbox))

        return await to_thread.run_sync(folders)

    async def _serve_files(self, user: _McpUser, folders: Folders) -> None:
        temporary = self._directory is None and not self._are_isolated
        async with Conversations(
            user.kernels, folders, self._limits, temporary=temporary
        ) as conversations:
            user.conversations = conversations
            server = KernelServer(
                conversations,
                self._kernel_types,
                version=self._version,
                until_end=self._until_call_ends,
            )
            try:
                async with HttpTransport(
                    server,
                    sessions=_MOST_SESSIONS,
                    session_seconds=_SESSION_SECONDS,
                    body_bytes=self._body_bytes,
                ) as transport:
                    user.transport.set(transport)
                    await user.leaving.wait()
            finally:
                await to_the_end(conversations.end, seconds=_END_SECONDS)

    async def _until_call_ends(self, context: ServerRequestContext[Any, Any]) -> str:
        """Wait until a call must end; return the reason."""
        reason = Waiter[str]()

        async def with_client() -> None:
            await until_gone(context)
            reason.set("the client has disconnected")

        async def with_server() -> None:
            await self._drain.closing.wait()
            reason.set(SHUTTING_DOWN)

        async with background_tasks() as tasks:
            tasks.start_soon(with_client)
            tasks.start_soon(with_server)
            return await reason.wait()

    async def _keep_time(self) -> None:
        while True:
            await anyio.sleep(_EXAMINE_SECONDS)
            for name, user in list(self._users.items()):
                if user.is_unused:
                    del self._users[name]
                    user.leaving.set()


def _folder_name(user: str) -> str:
    """Return a name for a user's folder, different for each user even without case."""
    readable = re.sub("[^a-z0-9]+", "-", user.lower())[:_MOST_READABLE].strip("-")
    return f"{readable}-{hashlib.sha256(user.encode(errors='surrogatepass')).hexdigest()[:32]}"
