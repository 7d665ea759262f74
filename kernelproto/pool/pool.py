"""KernelPool: one kernel for each user, within limits."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import NamedTuple, Unpack

from anyio import AsyncContextManagerMixin

from kernelproto.client import MessageStream
from kernelproto.client.observers import IOPUB, STREAM_LIMIT, OverflowPolicy
from kernelproto.exceptions import PoolError
from kernelproto.launch.finder import KernelFinder
from kernelproto.pool.executor import Executor
from kernelproto.pool.keeping import KeepingExecutor
from kernelproto.pool.kept_kernel import RestoredKernel
from kernelproto.pool.launcher import PoolLauncher, StartOptions, WarmKernels
from kernelproto.pool.limits import PoolLimits
from kernelproto.pool.plan import Plan
from kernelproto.pool.pooled_kernel import LostKernel, PooledKernel
from kernelproto.pool.sharing import SharingExecutor
from kernelproto.pool.slots import Lease
from kernelproto.registry.interface import RegisteredKernel, Registry
from kernelproto.run import RunOptions
from kernelproto.supervise import Kernel, RestartPolicy
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ChannelName

_DEFAULT_NAME = "default"
_DEFAULT_RESTART = RestartPolicy()
_DEFAULT_TIMEOUTS = Timeouts()
_UNHELD_SECONDS = 3600.0


class PoolConnection(NamedTuple):
    """A connection to a user's kernel, from ``KernelPool.connection``.

    Attributes:
        kernel: the kernel.
        messages: the messages of this kernel alone, across restarts.
    """

    kernel: Kernel
    messages: MessageStream


class KernelPool(AsyncContextManagerMixin):
    """Kernels for many users, during the block: each user has a kernel that no other user gets.

    ``async with KernelPool(max_kernels=50) as pool``, then ``kernel = await pool.get("ada")``. The
    first request of a user starts a kernel. The kernel belongs to that user for its whole life, and
    a dead kernel is restarted. If a restart is not possible, the kernel is removed.

    A kernel is idle when it runs no code, no call waits for a reply from it, and no client is
    connected. The pool culls (ends) a kernel that was idle for ``idle_timeout`` seconds. If the
    pool is full, a request for another kernel evicts (ends) the kernel that has been idle longest.
    A busy or connected kernel is ended only because of ``max_age``, ``cull_connected`` or
    ``replaces``. If the pool ended your kernel, calls on it raise ClientClosed; call ``get`` for a
    new one. To keep a kernel, hold a ``connection``.

    Leaving the block shuts all kernels down concurrently, each as ``run_kernel`` does. With a
    *registry*, the kernels outlive the pool and the program, even if the program is killed: the
    next pool with this registry and *node* has them again, with their users, names, ids and idle
    times. Only ``release`` and the limits of a running pool end them.

    Args:
        finder: finds the kernel types; the installed providers by default.
        kernel_type: the kernel type.
        max_kernels: how many kernels may exist, including kernels that start or end.
        max_per_user: how many kernels a user may have, under different names.
        idle_timeout: idle seconds after which a kernel is culled; None means never. The count
            starts at the last use: the last sign of activity, or the last ``get``. Housekeeping
            requests (kernel_info, comm_info, debug, interrupt, shutdown) are not activity. The time
            with connected clients does not count as idle, and a disconnect does not reset the
            count.
        max_age: seconds from the start of a kernel until the kernel expires (is ended), even if
            busy or connected; None means no limit.
        cull_connected: whether an idle kernel is culled although clients are connected. The time
            with connected clients then counts as idle.
        warm: the number of spare kernels of *kernel_type* to keep ready, or a mapping from kernel
            types to numbers (or WarmKernels). Spare kernels have no user yet and do not count
            towards *max_kernels*. ``get`` returns a spare kernel if the call requests the same
            type, working directory, environment and launch parameters.
        restart: the policy for kernels that die; None means no automatic restart.
        cwd: the kernels' working directory; None means that of this process.
        env: environment variables, added to those of this process.
        launch_params: parameters of the provider and the kernelspec, as for ``run_kernel``.
        timeouts: the phases of each kernel's life, in seconds.
        registry: stores the kernels, which are then started detached; open the registry around the
            pool. The standard output and error of their processes are discarded unless
            ``launch_params["output"]`` names a file. The options of their starts are stored, too,
            environment variables included, so they have to be values that JSON has.
        node: the name of this program in the registry; by default that of the machine.
        host: whether a host runs the kernels in the *registry*, so that no message of them is lost
            between two pools; None means if possible. See ``start_kernel``.
        linger: the seconds without a pool after which a host ends a kernel in the *registry*; None
            means never. Needs kernels that a host can run, see ``start_kernel``.
        replays: whether the restored kernels of a host send again every message that the host still
            has, even those that an earlier pool has acknowledged. The caller of ``watch_restored``
            then has to confirm messages as their clients receive them; see ``KeepsMessages``.
        shared: whether other programs, each with a *node* of its own, use the *registry* as well.
            The limits count the kernels of all of them. *linger* is an hour by default, not for
            kernels without a host; the registry forgets kernels out of reach for so long.

    Attributes:
        counts: counters since the pool was created. For kernels: "started", "restarted", "evicted",
            "culled", "expired", "released", "lost" (died and not restarted), "failed" (usually at
            startup) and "restored" (from the registry). For requests: "refused", which is the sum
            of "full" (no kernel was idle) and "quota" (the user has the maximum number of kernels).
        limits: the limits given as arguments.
        registry: the registry given as an argument.
        launch_params: the launch parameters given as arguments.
        deaths: the number of deaths by ``Died.cause``, including those followed by a restart.

    Raises:
        ValueError: a limit is 0 or less, or *warm* names a kernel type twice.
        NoSuchKernel: on entering the block, *warm* names an unknown kernel type.
        RegistryError: on entering the block, the registry cannot be read or written.
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
        warm: int | Mapping[str, int | WarmKernels] = 0,
        restart: RestartPolicy | None = _DEFAULT_RESTART,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        launch_params: Mapping[str, object] | None = None,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        registry: Registry | None = None,
        node: str | None = None,
        host: bool | None = None,
        linger: float | None = None,
        replays: bool = False,
        shared: bool = False,
    ) -> None:
        if registry is None and (host is not None or linger is not None or shared):
            raise ValueError(
                "host, linger and shared are for kernels that outlive the pool: give it a registry"
            )
        if registry is not None and warm:
            raise ValueError("warm kernels have no user and cannot be kept: leave out warm")
        self.registry = registry
        self.limits = PoolLimits(
            max_kernels=max_kernels,
            max_per_user=max_per_user,
            idle_timeout=idle_timeout,
            max_age=max_age,
            cull_connected=cull_connected,
        )
        finder = finder or KernelFinder.from_entrypoints()
        options = RunOptions(cwd=cwd, env=env, launch_params=launch_params)
        self._launcher = PoolLauncher(
            finder,
            kernel_type,
            warm,
            options,
            detached=registry is not None,
            host=host,
            linger=_UNHELD_SECONDS if shared and linger is None else linger,
            must_linger=linger is not None,
        )
        self.launch_params = MappingProxyType(dict(launch_params or {}))
        self._executor = Executor(Plan(self.limits), self._launcher, timeouts, restart)
        self._keeping: KeepingExecutor | None = None
        if registry is not None:
            kind: Callable[..., KeepingExecutor] = KeepingExecutor
            if shared:
                kind = partial(SharingExecutor, unheld_seconds=linger or _UNHELD_SECONDS)
            self._executor = self._keeping = kind(
                Plan(self.limits),
                self._launcher,
                timeouts,
                restart,
                registry=registry,
                finder=finder,
                node=node or socket.gethostname(),
                replays=replays,
            )
        self.counts = self._executor.counts
        self.deaths = self._executor.deaths

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[KernelPool]:
        async with self._launcher, self._executor:
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
        """Return a user's kernel, ready; start a kernel if the user has none.

        Concurrent calls for the same user and name return the same kernel. If a caller is
        cancelled, the kernel still starts.

        Args:
            user: the user.
            name: the name among the user's kernels, for users with several.
            wait: whether to wait for a kernel to end instead of raising PoolFull. Waiting calls are
                served in order. They get the slot of a kernel that ends, or evict a kernel that has
                been idle for half a second.
            replaces: the name of another kernel of this user. If the pool cannot hold both and has
                no idle kernel to evict, that kernel is released, even if busy; no other request
                gets its slot.
            start: options for the start of the kernel if the user has none; the *kernel_id* must
                differ from those of the user's other kernels.

        Raises:
            PoolFull: the pool is full, and no kernel is idle or other requests already wait.
            QuotaExceeded: the user already has the maximum number of kernels.
            PoolError: the user's kernel has another type than *kernel_type*; or the kernel was
                released during its start; or the pool is not open.
            KernelProtoError: the kernel cannot be started, as for ``run_kernel``.
        """
        replaced = None if replaces is None else Lease(user, replaces)
        async with self._executor.hand_over(
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
        """Connect to a user's kernel for the block; start a kernel if the user has none.

        A connected kernel is not evicted, and culled only with ``cull_connected``. Connecting
        does not reset the idle time; only using the kernel does.

        The messages are those of this kernel alone, across restarts. They end with KernelDied after
        a death without a restart, and with ClientClosed after a release.

        Args:
            user: as for ``get``.
            name: as for ``get``.
            wait: as for ``get``.
            channels: the channels of the messages, as for ``KernelClient.messages``.
            msg_types: as for ``KernelClient.messages``.
            limit: as for ``KernelClient.messages``.
            overflow: as for ``KernelClient.messages``.
            start: as for ``get``.

        Raises:
            KernelProtoError: as for ``get``.
        """
        async with AsyncExitStack() as stack:
            lease = Lease(user, name)
            async with self._executor.hand_over(lease, wait=wait, start=start, used=False) as (
                managed,
                kernel,
            ):
                stack.enter_context(self._executor.connected(managed))
            messages = await stack.enter_async_context(
                kernel.messages(channels, msg_types=msg_types, limit=limit, overflow=overflow)
            )
            yield PoolConnection(kernel, messages)

    async def interrupt(self, user: str, *, name: str = _DEFAULT_NAME) -> None:
        """Interrupt a user's kernel; wait for a starting kernel first.

        Raises:
            PoolError: the user has no kernel of this name.
            KernelProtoError: the kernel could not be started, has died or was ended.
        """
        await (await self._existing(Lease(user, name))).interrupt()

    async def restart(self, user: str, *, name: str = _DEFAULT_NAME) -> None:
        """Restart a user's kernel with ``Kernel.restart``; wait for a starting kernel first.

        Raises:
            PoolError: the user has no kernel of this name.
            KernelProtoError: the kernel could not be started or restarted, or was ended. A kernel
                that could not be restarted is removed from the pool.
        """
        kernel = await self._existing(Lease(user, name))
        if self._keeping is not None:
            await self._keeping.note_restart(Lease(user, name))
        await kernel.restart()

    async def release(self, user: str, *, name: str = _DEFAULT_NAME) -> bool:
        """Shut a user's kernel down, even if busy, connected or starting.

        Returns when the kernel has ended completely. Cancellation of the caller does not stop the
        shutdown.

        Returns:
            Whether the user had a kernel of this name.
        """
        managed = self._executor.find(Lease(user, name))
        if managed is None:
            return False
        await self._executor.end(managed)
        return True

    async def release_all(self) -> None:
        """Shut all kernels down completely, even those that would outlive the pool."""
        await self._executor.end_all()

    def watch_restored(self, callback: Callable[[RestoredKernel], object]) -> None:
        """Call a function with each kernel of an earlier pool, as soon as the kernel is ready.

        There can be one function, and calls must not block. Kernels that are ready come now.
        """
        if self._keeping is not None:
            self._keeping.watch_restored(callback)

    def note(self, user: str, make: Callable[[], str], *, name: str = _DEFAULT_NAME) -> None:
        """Store a text with a user's kernel, for the pool that restores the kernel.

        Notes are stored at most once a second on average, all together. Without a registry, and
        for a kernel that ends with the pool, nothing is stored.

        Args:
            user: the user.
            make: returns the text; called when the pool stores the text, perhaps not at all if
                another note for this kernel follows.
            name: the name of the kernel.
        """
        if self._keeping is not None:
            self._keeping.note(Lease(user, name), make)

    async def take_over(self, row: RegisteredKernel) -> None:
        """Adopt a kernel in the registry that no program owns; only for a pool that is *shared*.

        Raises:
            RegistryError: the registry cannot be read or written.
        """
        if isinstance(self._keeping, SharingExecutor):
            await self._keeping.take_over(row)

    async def evict_idle(self) -> bool:
        """Evict the longest idle kernel of a *shared* pool; return whether there was one.

        Raises:
            RegistryError: the end cannot be stored yet.
        """
        return isinstance(self._keeping, SharingExecutor) and await self._keeping.evict_idle()

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a kernel now."""
        return self._executor.waiting

    def kernels(
        self, user: str | None = None, *, kernel_id: str | None = None
    ) -> list[PooledKernel]:
        """Describe the kernels of one user or of all users, in the order of their starts.

        The list includes kernels that are starting, but none that are ending.

        Args:
            user: the user; None means all users.
            kernel_id: only kernels with this id, of several users perhaps; None means any id.
        """
        return list(self._executor.describe(user, kernel_id=kernel_id))

    def lost(self, user: str | None = None) -> list[LostKernel]:
        """Describe kernels that died for good, the latest first, of the latest 1,000 of all users.

        Args:
            user: the user; None means all users.
        """
        return [lost for lost in reversed(self._executor.lost) if user in (None, lost.user)]

    def find(self, kernel_id: str, *, user: str) -> PooledKernel | None:
        """Describe a user's kernel by id; return None if there is none."""
        return next(self._executor.describe(user, kernel_id=kernel_id), None)

    async def _existing(self, lease: Lease) -> Kernel:
        managed = self._executor.find(lease)
        if managed is None:
            raise PoolError(f"{lease.user!r} has no kernel {lease.name!r}; get() starts it")
        return await managed.ready.wait()
