"""UserKernels: the operations of users on their kernels, for all routes and WebSockets."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

import anyio
from starlette.exceptions import HTTPException

from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import DiscoveryError
from kernelproto.file_owner import Owner
from kernelproto.interfaces import User
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.process.sandbox import Sandbox
from kernelproto.launch.spec.naming import check_kernel_type
from kernelproto.launch.spec.parameters import LaunchParameters
from kernelproto.log_fields import logging_about
from kernelproto.pool import KernelPool, PooledKernel
from kernelproto.server.auth.revocation import Access
from kernelproto.server.directories import find_folder
from kernelproto.server.drain import SHUTTING_DOWN, Drain
from kernelproto.server.kernel_requests import allowed_env, chosen_id
from kernelproto.server.models import KernelModel, KernelRequest, kernel_model, shown_name
from kernelproto.server.rate_limit import RateLimit
from kernelproto.server.settings import Settings
from kernelproto.server.starts import Starts
from kernelproto.server.telemetry.audit import Event, acting, audit, auditing
from kernelproto.server.telemetry.metrics import Metrics
from kernelproto.server.telemetry.tracing import span
from kernelproto.supervise import Kernel

if TYPE_CHECKING:
    from kernelproto.server.homes import Home  # not on Windows
    from kernelproto.server.nodes.nodes import Nodes

logger = logging.getLogger(__name__)

_REVOKED = "the access of the user was revoked"

# Waits until the client of a request has disconnected.
Gone: TypeAlias = Callable[[], Awaitable[object]]

# Returns a working directory, given the root folder and the user whose rights open its files; see
# ``Start``.
FindFolder: TypeAlias = Callable[[str, Owner | None], Awaitable[str]]


class _Get(Protocol):
    async def __call__(self, *, wait: bool = False) -> Kernel: ...


class UserKernels:
    """Finds, starts and ends the kernels of each user; other users' kernels are not found.

    Args:
        pool: the kernels.
        finder: the kernel types of the pool.
        settings: the settings.
        metrics: counts starts.
        access: notices that a user's access is revoked.
        drain: says whether the server is shutting down and starts no kernels.
        nodes: the other servers with the same registry; None if there are none.
    """

    def __init__(
        self,
        pool: KernelPool,
        finder: KernelFinder,
        settings: Settings,
        metrics: Metrics,
        access: Access,
        drain: Drain,
        nodes: Nodes | None = None,
    ) -> None:
        self.pool = pool
        self.nodes = nodes
        self._finder = finder
        self._settings = settings
        self._metrics = metrics
        self._access = access
        self._drain = drain
        self._plans = Starts(settings, pool, finder)
        self._starts = RateLimit(per_minute=settings.starts_per_minute, burst=settings.start_burst)

    def find(
        self, user: User, kernel_id: str, *, everyone: bool = False, owner: str | None = None
    ) -> PooledKernel:
        """Return a kernel of a user, or for an admin the kernel of any user.

        Args:
            user: the user.
            kernel_id: the kernel's id. Two users may have chosen the same id.
            everyone: whether to search the kernels of all users; ignored unless *user* is an admin.
            owner: with *everyone*, the owner of the kernel; None means any user.

        Raises:
            HTTPException: 404, there is no such kernel; 409, several users have a kernel with this
                id.
        """
        if not (everyone and user.admin):
            kernel = self.pool.find(kernel_id, user=user.name)
            found = [] if kernel is None else [kernel]
        else:
            found = self.pool.kernels(owner, kernel_id=kernel_id)
        if not found:
            raise HTTPException(404, f"there is no kernel {kernel_id[:100]}")
        if len(found) > 1:
            raise HTTPException(
                409, "several users have a kernel with this id: add owner=NAME to the query"
            )
        return found[0]

    def max_kernels(self, user: User) -> int:
        """Return how many kernels a user may have at the same time."""
        return self._plans.max_kernels(user)

    async def home(self, user: User) -> Home | None:
        """Return the home folder of an isolated user; see ``Starts.home``."""
        return await self._plans.home(user)

    def model(self, user: User, kernel_id: str) -> KernelModel:
        """Return the model of a user's kernel; raises as ``find`` does."""
        return kernel_model(self.find(user, kernel_id))

    async def any_model(self, user: User, kernel_id: str) -> KernelModel | None:
        """Return the model of a user's kernel on any server; None if there is none.

        Raises:
            HTTPException: 503, no server can reach the kernel now.
            RegistryError: the registry cannot be read.
        """
        model = None
        if self.nodes is not None:
            model = await self.nodes.model(user, kernel_id, KernelModel)
        if model is None and self.pool.find(kernel_id, user=user.name) is not None:
            model = self.model(user, kernel_id)
        return model

    async def end_any(self, user: User, kernel_id: str) -> None:
        """End a user's kernel on any server, if there is one; raises as ``any_model`` does."""
        if self.nodes is not None and await self.nodes.end(user, kernel_id):
            return
        kernel = self.pool.find(kernel_id, user=user.name)
        if kernel is not None:
            await self.end(user, kernel)

    async def start(
        self,
        user: User,
        request: KernelRequest,
        *,
        replaces: str | None = None,
        gone: Gone | None = None,
        find: FindFolder | None = None,
        on_ready: Callable[[Kernel], object] | None = None,
        kept: bool = True,
    ) -> KernelModel:
        """Start a kernel for a user, or find the kernel that the request names.

        A request may choose the id of a new kernel. Ids are separate for each user, so the response
        reveals nothing about the kernels of other users.

        Args:
            user: the user.
            request: the client's request.
            replaces: the id of a kernel of the user that is ended first if there is no room for
                both. A request that the server would refuse anyway does not end this kernel.
            gone: waits for the client to disconnect, which ends a wait in the queue. The wait lasts
                at most ``queue_seconds``.
            find: returns the kernel's working directory; None means to search the path of the
                request.
            on_ready: called with the new kernel.
            kept: whether the kernel may outlive the server.

        Raises:
            HTTPException: 404, the user has no kernel with the id in the request; 400, the chosen
                id is not a UUID, or the requested sandbox is weaker; 403, an isolated user has no
                account; 429, the user has started too many kernels in a short time; 503, the server
                is shutting down, or an isolated user has no home folder.
            KernelProtoError: as for ``KernelPool.get``.
        """
        kernel_id = request.id or chosen_id(request.kernel_id)
        if request.id or request.kernel_id:
            model = await self.any_model(user, kernel_id)
            if model is not None and request.sandbox is not None:
                raise HTTPException(400, "launch_params: the kernel exists already: leave them out")
            if model is not None:
                return model
        if request.id:
            raise HTTPException(404, f"there is no kernel {kernel_id[:100]}")
        kernel_type = request.name
        if kernel_type == shown_name(self._settings.kernel):
            kernel_type = None  # the pool's default
        env = request.env or {}
        allowed = allowed_env(env, self._settings.allow_env)
        facts = {"kernel_id": kernel_id, "kernel_type": request.name}
        with logging_about(kernel_id=kernel_id), auditing("kernel.start", **facts), span("start"):
            self._check_start(user)
            plan = await self._plans.plan(user, kernel_type, kernel_id, wanted=request.sandbox)
            if find is None:
                folder = await find_folder(plan.root, request.path or "", env)
            else:
                folder = await find(plan.root, plan.owner)
            options = plan.in_folder(folder)
            allowed |= options.get("env") or {}
            options["env"] = allowed
            options["kept"] = kept
            replaced = None
            if replaces is not None:
                await self._check_request(kernel_type, allowed)
                replaced = self.pool.find(replaces, user=user.name)
            get = partial(
                self.pool.get,
                user.name,
                name=kernel_id,
                replaces=None if replaced is None else replaced.name,
                **options,
            )
            in_queue = replaced is None
            kernel = await self._launch(user, kernel_id, get, in_queue=in_queue, gone=gone)
            if on_ready is not None:
                on_ready(kernel)
            return self.model(user, kernel_id)

    async def get(
        self,
        user: User,
        kernel_type: str,
        *,
        kernel_id: str,
        folder: str,
        find_spare: Callable[[], str | None],
        sandbox: Sandbox | None = None,
    ) -> Kernel:
        """Return a kernel of a user, ready; start a kernel if there is none.

        Args:
            user: the user.
            kernel_type: the kernel type.
            kernel_id: the kernel's id.
            folder: the path of the working directory, not relative to ``root_dir``.
            find_spare: returns the id of a kernel of the user that is ended if the user may have no
                further one; None if there is none.
            sandbox: the sandbox of the kernel, which the tables of limits change; None for that of
                the user, if any.

        Raises:
            HTTPException: 429 or 503, as for ``start``.
            KernelProtoError: as for ``KernelPool.get``.
        """
        plan = await self._plans.plan(user, kernel_type, kernel_id, base=sandbox)
        options = plan.in_folder(folder)
        options["kept"] = False  # conversations end with the server

        async def get(*, wait: bool = False) -> Kernel:
            full = len(self.pool.kernels(user.name)) >= self.max_kernels(user)
            return await self.pool.get(
                user.name,
                name=kernel_id,
                wait=wait,
                replaces=find_spare() if full else None,
                **options,
            )

        with logging_about(kernel_id=kernel_id):
            if self.pool.find(kernel_id, user=user.name) is not None:
                return await get()
            facts = {"kernel_id": kernel_id, "kernel_type": kernel_type}
            with auditing("kernel.start", **facts), span("start"):
                self._check_start(user)
                return await self._launch(user, kernel_id, get, in_queue=True, gone=None)

    async def _launch(
        self, user: User, kernel_id: str, get: _Get, *, in_queue: bool, gone: Gone | None
    ) -> Kernel:
        """Start a kernel with *get*, which may wait in the queue; return the ready kernel."""
        began_at = time.monotonic()  # the clock of uvloop is coarse
        if self.nodes is not None and in_queue:
            get = partial(self.nodes.with_room, get)
        if self._settings.queue_seconds and in_queue:
            kernel = await self._wait_in_queue(get, user, kernel_id, gone)
        else:
            kernel = await get()
        self.end_when_revoked(kernel, user, kernel_id)
        seconds = time.monotonic() - began_at
        self._metrics.start_seconds.observe(seconds)
        name = self.model(user, kernel_id).name
        logger.info("a kernel of type %s is ready after %.3f s", name, seconds)
        return kernel

    def _check_start(self, user: User) -> None:
        """Check that the server starts kernels, and count a start of a user."""
        if self._drain.begun:
            raise HTTPException(503, SHUTTING_DOWN)
        self._count_start(user)

    async def interrupt(self, user: User, kernel: PooledKernel) -> None:
        """Interrupt a kernel from ``find``; raises as ``KernelPool.interrupt`` does."""
        with self._logged_action("kernel.interrupt", user, kernel):
            await self.pool.interrupt(kernel.user, name=kernel.name)

    async def restart(self, user: User, kernel: PooledKernel) -> None:
        """Restart a kernel from ``find``; raises as ``KernelPool.restart`` does.

        Raises:
            HTTPException: 429, the user has started or restarted too many in a short time.
        """
        with self._logged_action("kernel.restart", user, kernel):
            self._count_start(user)
            await self.pool.restart(kernel.user, name=kernel.name)

    async def end(self, user: User, kernel: PooledKernel) -> None:
        """End a kernel from ``find``."""
        with self._logged_action("kernel.end", user, kernel):
            await self.pool.release(kernel.user, name=kernel.name)

    async def _wait_in_queue(
        self, get: _Get, user: User, kernel_id: str, gone: Gone | None
    ) -> Kernel:
        """Return a new kernel; wait for room until the client disconnects or the server drains."""
        in_queue = anyio.CancelScope()
        ended_by: list[Gone] = []

        async def leave_after(event: Gone) -> None:
            await event()
            is_starting = self.pool.find(kernel_id, user=user.name) is not None
            if not is_starting:
                ended_by.append(event)
                in_queue.cancel()

        async with background_tasks() as tasks:
            tasks.start_soon(leave_after, partial(anyio.sleep, self._settings.queue_seconds))
            tasks.start_soon(leave_after, self._drain.beginning.wait)
            if gone is not None:
                tasks.start_soon(leave_after, gone)
            with in_queue:
                return await get(wait=True)
        if gone in ended_by:
            raise HTTPException(503, "the client has disconnected before its kernel was ready")
        if self._drain.begun:
            raise HTTPException(503, SHUTTING_DOWN)
        return await get()  # the last attempt, which may raise PoolFull

    async def _check_request(self, kernel_type: str | None, env: Mapping[str, str]) -> None:
        """Check a request before it ends another kernel; raises as ``start`` does."""
        if kernel_type:
            available = {name: about async for name, about in self._finder.find_kernels()}
            found = check_kernel_type(kernel_type, available, remedy="choose one of these")
            reason = available[found].get("unavailable")
            if reason is not None:
                raise DiscoveryError(reason)
        LaunchParameters.check({"env": env}, argv=())

    @contextmanager
    def _logged_action(self, event: Event, user: User, kernel: PooledKernel) -> Generator[None]:
        """Log an action of a user with the outcome of the block."""
        owner = None if kernel.user == user.name else kernel.user
        action = event.removeprefix("kernel.")
        with logging_about(kernel_id=kernel.kernel_id), span(action):
            logger.info("%s requested", action)
            with auditing(event, kernel_id=kernel.kernel_id, owner=owner):
                yield

    def end_when_revoked(self, kernel: Kernel, user: User, name: str) -> None:
        """End a kernel when the access of the user is revoked, if the settings say so."""
        if self._settings.revoked_kernels == "shutdown":
            kernel.start_task(self._end_with_access, user, name)

    async def _end_with_access(self, user: User, name: str) -> None:
        await self._access.wait_until_user_revoked(user)
        with acting(None, None):  # this task has the context of the start request
            audit("kernel.end", "ok", kernel_id=name, owner=user.name, reason=_REVOKED)
        await self.pool.release(user.name, name=name)

    def _count_start(self, user: User) -> None:
        wait = math.ceil(self._starts.take(user.name, anyio.current_time()))
        if wait:
            self._metrics.rate_limited += 1
            raise HTTPException(
                429,
                f"you have started too many kernels in a short time: try again in {wait} s",
                {"Retry-After": str(wait)},
            )
