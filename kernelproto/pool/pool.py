"""KernelPool: kernels for many users."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import NamedTuple, Unpack

from anyio import AsyncContextManagerMixin

from kernelproto.client import MessageStream
from kernelproto.client.observers import IOPUB, STREAM_LIMIT, OverflowPolicy
from kernelproto.exceptions import PoolError
from kernelproto.launch.finder import KernelFinder
from kernelproto.launch.warm import WarmProvider
from kernelproto.pool.executor import Members, StartOptions
from kernelproto.pool.plan import Lease, Limits, Plan
from kernelproto.pool.pooled_kernel import LostKernel, PooledKernel
from kernelproto.run import RunOptions, launch_params_of
from kernelproto.supervise import Kernel, RestartPolicy
from kernelproto.supervise.instance import Launch, Launched
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ChannelName

_DEFAULT_NAME = "default"
_DEFAULT_RESTART = RestartPolicy()
_DEFAULT_TIMEOUTS = Timeouts()


class PoolConnection(NamedTuple):
    """A client of somebody's kernel; ``KernelPool.connection`` gives it.

    Attributes:
        kernel: the kernel.
        messages: what the kernel sends, and no other kernel, across restarts.
    """

    kernel: Kernel
    messages: MessageStream


class KernelPool(AsyncContextManagerMixin):
    """Kernels for many users, during the block: each user has one of their own.

    ``async with KernelPool(max_kernels=50) as pool``, then ``kernel = await pool.get("ada")``. A
    kernel is started when it is first asked for, belongs to its user for ever, and is restarted
    when it dies. One that cannot be restarted gives up its place; the next ``get`` starts anew.

    A kernel is idle when it does not work, nobody waits for anything from it, and nobody is
    connected to it. One that was idle for ``idle_timeout`` seconds is ended (culled). When there
    are ``max_kernels`` and one more is asked for, the one that has been idle longest is ended
    (evicted). A kernel that is busy or connected is taken away only if ``max_age`` or
    ``cull_connected`` say so. If your kernel was taken away, calls on it raise ClientClosed; call
    ``get`` for a new one. A ``connection`` keeps a kernel.

    Leaving the block ends all kernels, at the same time, each in order as ``run_kernel`` does.

    Args:
        finder: where kernel types are looked for; the installed providers by default.
        kernel_type: the kernel type.
        max_kernels: how many kernels there may be, those that start and end included.
        max_per_user: how many of them a user may have, under different names.
        idle_timeout: after how many idle seconds a kernel is culled; None means never. They count
            from when it was last used: from the last sign that it worked, or from the last ``get``.
            Housekeeping (kernel_info, comm_info, debug, interrupt and shutdown requests) is no use.
            The time that clients are connected does not count as idle, and a disconnect does not
            begin the count anew.
        max_age: how many seconds after its start a kernel is ended, also one that is busy or
            connected (expired); None means never.
        cull_connected: whether a kernel is culled although clients are connected to it. The time
            that they are connected counts as idle then.
        warm: how many kernels of the type *kernel_type* are started ahead of time; they have no
            user yet and come on top of *max_kernels*.
        restart: when a kernel that has died is started again; None means never by itself.
        cwd: the kernels' working directory; None means the caller's.
        env: environment variables that are added to the caller's.
        launch_params: what the provider and the kernelspec offer, as for ``run_kernel``.
        timeouts: the phases of each kernel's life, in seconds.

    Attributes:
        counts: how many kernels were "started", "restarted", "evicted", "culled", "expired",
            "released" or "lost" for good, how many have "failed", most of them to start, and how
            many requests were "refused", since the pool was made; of these, how many because the
            pool was "full", and how many because of the user's "quota".
        limits: those of the arguments.
        launch_params: those of the arguments.
        deaths: how many kernels have died, those that were restarted included, by ``Died.cause``.

    Raises:
        ValueError: a limit makes no sense.
    """

    def __init__(
        self,
        *,
        finder: KernelFinder | None = None,
        kernel_type: str = "pyimport/kernel",
        max_kernels: int = 50,
        max_per_user: int = 1,
        idle_timeout: float | None = 1800.0,
        max_age: float | None = None,
        cull_connected: bool = False,
        warm: int = 0,
        restart: RestartPolicy | None = _DEFAULT_RESTART,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        launch_params: Mapping[str, object] | None = None,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
    ) -> None:
        self.limits = Limits(
            max_kernels=max_kernels,
            max_per_user=max_per_user,
            idle_timeout=idle_timeout,
            max_age=max_age,
            cull_connected=cull_connected,
        )
        options = RunOptions(cwd=cwd, env=env, launch_params=launch_params)
        self._recipe = _Recipe(
            finder or KernelFinder.from_entrypoints(), kernel_type, warm, options
        )
        self.launch_params = MappingProxyType(dict(launch_params or {}))
        self._members = Members(Plan(self.limits), self._recipe, timeouts, restart)
        self.counts = self._members.counts
        self.deaths = self._members.deaths

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[KernelPool]:
        async with self._recipe.source, self._members:
            yield self

    async def get(
        self,
        user: str,
        *,
        name: str = _DEFAULT_NAME,
        wait: bool = False,
        replaces: str | None = None,
        **start: Unpack[StartOptions],
    ) -> Kernel:
        """Return a user's own kernel, ready; start it when there is none.

        Whoever asks meanwhile gets the same one. Cancelling one who asks changes nothing for the
        others, and the kernel that was begun for them is started all the same.

        Args:
            user: whose kernel.
            name: which one, for users that may have several.
            wait: whether to wait for room rather than to raise PoolFull. Those who wait come first
                in order; they get the place of a kernel that ends, or of one that has been idle for
                half a second.
            replaces: the name of a kernel of this user's that is released for this one, whatever it
                does, where there is no room for both and no idle kernel to evict. Nobody else gets
                its place.
            start: how it is started if there is none; a *kernel_id* must not be that of another
                kernel of this user's.

        Raises:
            PoolFull: there is no room: no kernel is idle, or others wait for room already.
            QuotaExceeded: it would be one more than the user may have.
            PoolError: it runs as another kernel type than *kernel_type*; or it was released while
                it was started; or this is not the pool's block.
            KernelProtoError: it cannot be started, as for ``run_kernel``.
        """
        replaced = None if replaces is None else Lease(user, replaces)
        async with self._members.hand_over(
            Lease(user, name), wait=wait, start=start, replaces=replaced
        ) as (_, kernel):
            return kernel

    @asynccontextmanager
    async def connection(
        self,
        user: str,
        *,
        name: str = _DEFAULT_NAME,
        wait: bool = False,
        channels: Collection[ChannelName] = IOPUB,
        msg_types: Collection[str] | None = None,
        limit: int = STREAM_LIMIT,
        overflow: OverflowPolicy = "raise",
        **start: Unpack[StartOptions],
    ) -> AsyncGenerator[PoolConnection]:
        """Connect to a user's own kernel for the block; start it when there is none.

        Meanwhile it is not evicted, and culled only with ``cull_connected``. To connect is no use
        of the kernel: if it does not work, its idle time goes on after the block.

        The messages are those of this kernel alone, across restarts; they end with KernelDied when
        it has died for good, and with ClientClosed when it was released.

        Args:
            user: as for ``get``, with *name*, *wait* and *start*.
            name: the same.
            wait: the same.
            channels: what ``messages`` gives, as for ``KernelClient.messages``, with *msg_types*,
                *limit* and *overflow*.
            msg_types: the same.
            limit: the same.
            overflow: the same.
            start: the same.

        Raises:
            KernelProtoError: as for ``get``.
        """
        async with AsyncExitStack() as stack:
            lease = Lease(user, name)
            async with self._members.hand_over(lease, wait=wait, start=start, used=False) as (
                member,
                kernel,
            ):
                stack.enter_context(self._members.connected(member))
            messages = await stack.enter_async_context(
                kernel.messages(channels, msg_types=msg_types, limit=limit, overflow=overflow)
            )
            yield PoolConnection(kernel, messages)

    async def interrupt(self, user: str, *, name: str = _DEFAULT_NAME) -> None:
        """Interrupt what a user's kernel runs; wait for one that is being started.

        Raises:
            PoolError: the user has no such kernel.
            KernelProtoError: it could not be started, has died or was ended.
        """
        await (await self._existing(Lease(user, name))).interrupt()

    async def restart(self, user: str, *, name: str = _DEFAULT_NAME) -> None:
        """Restart a user's kernel, as ``Kernel.restart`` does; wait for one that is being started.

        Raises:
            PoolError: the user has no such kernel.
            KernelProtoError: it could not be started or restarted, or was ended; one that could not
                be restarted has given up its place.
        """
        await (await self._existing(Lease(user, name))).restart()

    async def release(self, user: str, *, name: str = _DEFAULT_NAME) -> bool:
        """End a user's kernel, also one that is busy, connected or being started.

        It returns when nothing is left of the kernel. Cancelling the caller does not stop that.

        Returns:
            Whether there was one.
        """
        member = self._members.find(Lease(user, name))
        if member is None:
            return False
        await self._members.end(member)
        return True

    @property
    def waiting(self) -> int:
        """How many requests for kernels wait for room now."""
        return self._members.waiting

    def kernels(self, user: str | None = None) -> list[PooledKernel]:
        """Describe the kernels of a user, or of everybody, in the order of their starts.

        Those that are being started are among them, those that are being ended are not.
        """
        return list(self._members.describe(user))

    def lost(self, user: str | None = None) -> list[LostKernel]:
        """Describe kernels that have died and were not restarted, the last one first.

        The pool remembers the last 1,000 of all users.

        Args:
            user: whose kernels; None means everybody's.
        """
        return [lost for lost in reversed(self._members.lost) if user in (None, lost.user)]

    def find(self, kernel_id: str, *, user: str) -> PooledKernel | None:
        """Describe a user's kernel by its id; None where they have none of this id."""
        return next(self._members.describe(user, kernel_id=kernel_id), None)

    async def _existing(self, lease: Lease) -> Kernel:
        member = self._members.find(lease)
        if member is None:
            raise PoolError(f"{lease.user!r} has no kernel {lease.name!r}: get() starts one")
        return await member.ready.wait()


class _Recipe:
    """How the kernels of a pool are started.

    Args:
        finder: where kernel types are looked for.
        kernel_type: the usual kernel type.
        warm: how many of the usual kernels are started ahead of time.
        options: what the usual kernels are started with.

    Attributes:
        source: launches them.
    """

    def __init__(
        self, finder: KernelFinder, kernel_type: str, warm: int, options: RunOptions
    ) -> None:
        self._kernel_type = kernel_type
        self._options = options
        self.source = WarmProvider(
            _OneProvider(finder),
            kernel_type,
            warm=warm,
            cwd=_path(options.get("cwd")),
            launch_params=self._launch_params(StartOptions(), {}),
        )

    def kernel_type(self, start: StartOptions) -> str:
        return start.get("kernel_type") or self._kernel_type

    def launch(self, start: StartOptions) -> tuple[Launch, str | None]:
        async def launch(*, env: Mapping[str, str], cwd: str | None) -> Launched:
            return await self.source.launch(
                self.kernel_type(start), cwd=cwd, launch_params=self._launch_params(start, env)
            )

        return launch, _path(start.get("cwd") or self._options.get("cwd"))

    def _launch_params(self, start: StartOptions, changes: Mapping[str, str]) -> dict[str, object]:
        env = {**(self._options.get("env") or {}), **(start.get("env") or {}), **changes}
        params = start.get("launch_params")
        return launch_params_of(
            RunOptions(
                env=env or None,
                launch_params=self._options.get("launch_params") if params is None else params,
            )
        )


class _OneProvider:
    """All the providers of a finder as one, whose kernel types have their full names."""

    id = "pool"

    def __init__(self, finder: KernelFinder) -> None:
        self.find_kernels = finder.find_kernels
        self.launch = finder.launch


def _path(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)
