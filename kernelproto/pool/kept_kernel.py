"""KeptKernel: one kernel of a pool that outlives the pool."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from datetime import timedelta
from typing import Any, NamedTuple

import anyio

from kernelproto.client.observers import Observers
from kernelproto.exceptions import ClientClosed
from kernelproto.interfaces import KernelManager
from kernelproto.pool.launcher import StartOptions
from kernelproto.pool.pooled_kernel import ManagedKernel, is_activity
from kernelproto.registry.interface import RegisteredKernel
from kernelproto.supervise import Kernel, KernelRestarter, RestartPolicy, let_go, open_kernel
from kernelproto.supervise.instance import Launch
from kernelproto.timeouts import Timeouts
from kernelproto.wire.connection import ChannelName
from kernelproto.wire.message import Message

# The limit for the messages that arrive while a kernel is being restored.
_MOST_BYTES = 64 * 2**20


class RestoredKernel(NamedTuple):
    """A kernel that has outlived an earlier pool.

    Attributes:
        user: the user of the kernel.
        name: the name among the user's kernels.
        kernel: the kernel, ready.
        note: the note that was stored last; see ``KernelPool.note``.
        messages: the messages that have arrived since the adoption, with their channels and their
            numbers (see ``KeepsMessages``; 0 without them). Beyond 64 MiB the oldest are missing.
        missing: the number of messages that no program has acknowledged and that are lost. 0 for a
            kernel without a host, where the number is unknown.
    """

    user: str
    name: str
    kernel: Kernel
    note: str
    messages: Iterable[tuple[Message, ChannelName, int]]
    missing: int = 0


class KeptKernel(ManagedKernel):
    """One kernel of a pool that goes on after the pool, unless ``end`` is called.

    Cancelling ``serve`` has no effect, because the cancelled tasks of a kernel end its process.
    The task that runs ``serve`` is ended by ``leave``: then ``serve`` returns after no more than
    a shutdown, or the start of a restored kernel.

    Args:
        facts: the arguments of ManagedKernel.
        start: the options of its start.
        store: stores the handle of a new kernel that is ready, before a user gets the kernel;
            raises if the kernel must end.
        on_restored: called with a restored kernel once the kernel is ready.
        restored: the kernel in the registry, if the kernel has outlived another pool.
        is_new: whether the kernel gets a new process, because there is none.

    Attributes:
        is_kept: whether the process goes on after ``serve``.
        newest: the newest process, from the first handle that is stored on; None before.
        start: the options of its start.
    """

    def __init__(
        self,
        *facts: Any,
        start: StartOptions,
        store: Callable[[KeptKernel, KernelManager], Awaitable[None]],
        on_restored: Callable[[RestoredKernel], None] | None = None,
        restored: RegisteredKernel | None = None,
        is_new: bool = True,
        **named: Any,
    ) -> None:
        super().__init__(*facts, **named)
        self.is_kept = False
        self.newest: KernelManager | None = None
        self.start = start
        self._store = store
        self._on_restored = on_restored
        self._restored = restored
        self._is_new = is_new
        self._early = None if is_new else _EarlyMessages()
        self._left = anyio.Event()
        self._reason: ClientClosed | None = None

    def leave(self, reason: ClientClosed) -> None:
        """Let go of the kernel; ``gone`` is set when this is done.

        A kernel that is being started is ended: the kernel has no state of a user.

        Args:
            reason: raised by later calls on the kernel.
        """
        if self._kernel is None and self._is_new:
            self.end(reason)
        elif not self.ending:
            self._reason = reason
            self._left.set()

    async def serve(
        self, launch: Launch, cwd: str | None, timeouts: Timeouts, restart: RestartPolicy | None
    ) -> None:
        """Start the kernel, and return when the kernel has ended, or was left and goes on."""
        with anyio.CancelScope(shield=True):
            await super().serve(launch, cwd, timeouts, restart)

    async def _live(
        self, launch: Launch, cwd: str | None, timeouts: Timeouts, restart: RestartPolicy | None
    ) -> None:
        opened = open_kernel(
            launch,
            timeouts=timeouts,
            cwd=cwd,
            outlives=True,
            kernel_id=self.kernel_id,
            watch=None if self._early is None else self._early.watch,
        )
        async with (
            opened as kernel,
            nullcontext() if restart is None else KernelRestarter(kernel, restart),
        ):
            is_stored = not self._is_new
            try:
                if not is_stored:
                    await self._store_newest(kernel.manager)
                    is_stored = True
                self._begin(kernel)
                self._hand_over(kernel)
                await self._left.wait()
            finally:
                # At once, so that no caller begins a restart of the kernel meanwhile.
                # The executor must not take a kernel that was let go for a dead one.
                is_wanted, self.ending = is_stored and not self.ending, True
                self.is_kept = is_wanted and let_go(kernel, self._reason)
                if not self.is_kept:
                    await kernel.shutdown()

    async def _store_newest(self, manager: KernelManager) -> None:
        """Store the handle of the process, and that of each one that replaces it meanwhile."""
        self.newest, stored = manager, None
        while stored is not self.newest:
            stored = self.newest
            await self._store(self, stored)

    def _hand_over(self, kernel: Kernel) -> None:
        early = self._early
        if early is not None:
            kernel.unwatch(early)
        if self._on_restored is not None and self._restored is not None:
            user, name = self.lease.user, self.lease.name
            messages = () if early is None else early.messages
            missing = 0 if early is None else early.missing
            self._on_restored(
                RestoredKernel(user, name, kernel, self._restored.note, messages, missing)
            )

    def _note_start(self) -> None:
        super()._note_start()
        if self._restored is not None and self._early is not None:
            age = self._restored.age
            # Any output of the time without a pool may have been written just now.
            idle = min(self._restored.idle, self.active_at - self._early.active_at)
            self.ready_at -= age
            self.active_at -= idle
            self._last_activity -= timedelta(seconds=idle)
            self._started_at -= timedelta(seconds=age)
            self._process_started_at = self._started_at
            self._has_worked = True  # if the kernel is busy now, a client uses it


class _EarlyMessages:
    """Keeps the messages of a kernel that is not ready yet; implements Watcher.

    Attributes:
        messages: the messages, with their channels and numbers.
        active_at: when the last message arrived that shows that the kernel is active for a client,
            by ``anyio.current_time``.
    """

    def __init__(self) -> None:
        self.messages: deque[tuple[Message, ChannelName, int]] = deque()
        self.active_at = -math.inf
        self._bytes = 0
        self._discarded = 0
        self._observers: Observers

    @property
    def missing(self) -> int:
        """The number of messages that no program has acknowledged and that are lost."""
        source = self._observers.source
        return 0 if source is None else source.lost + self._discarded

    def watch(self, observers: Observers) -> None:
        """Receive the messages of a kernel from now on."""
        self._observers = observers
        observers.watch(self)

    def offer(self, message: Message, channel: ChannelName) -> None:
        self.messages.append((message, channel, self._observers.number))
        self._bytes += message.size
        if is_activity(message, channel):
            self.active_at = anyio.current_time()
        while self._bytes > _MOST_BYTES:
            oldest, _, number = self.messages.popleft()
            self._bytes -= oldest.size
            source = self._observers.source
            self._discarded += source is not None and number > source.acknowledged

    def fail(self, error: Exception) -> None:
        """Do nothing: the start of the kernel fails."""

    def resume(self) -> None:
        """Do nothing: there is no restart before the kernel is ready."""
