"""KernelRestarter: restarts a kernel after a death or a silent heartbeat."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio
from anyio import AsyncContextManagerMixin
from anyio.abc import TaskGroup

from kernelproto.client.heartbeat import until_silent
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.exceptions import KernelDied, KernelProtoError
from kernelproto.interfaces import DeathReason
from kernelproto.supervise.events import Callback, EventT, Failed
from kernelproto.supervise.instance import Instance
from kernelproto.supervise.kernel import Kernel
from kernelproto.supervise.lifecycle import Replacement
from kernelproto.supervise.restart_policy import Decision, Restart, RestartPolicy

logger = logging.getLogger(__name__)


class KernelRestarter(AsyncContextManagerMixin):
    """Restarts a kernel during the block, after each death and each silent heartbeat.

    ``async with KernelRestarter(kernel, policy) as restarter``; ``run_kernel(restart=policy)`` does
    the same. When the kernel dies, pending calls raise KernelRestarted at once, and new requests
    wait for the new process. The new process has the same working directory, environment and launch
    parameters, and other addresses. A kernel that cannot be reached is not restarted. When the
    restarter gives up, all calls raise KernelDied.
    Leaving the block cancels a restart.

    Args:
        kernel: the kernel, which can have one restarter at a time.
        policy: whether and when the kernel is restarted.
        chance: returns a random number from 0 to 1, for the jitter of the backoff.
    """

    def __init__(
        self,
        kernel: Kernel,
        policy: RestartPolicy | None = None,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.kernel = kernel
        self.policy = policy or RestartPolicy()
        self._chance = chance
        self._lifecycle = kernel.lifecycle
        self._uptimes: list[float] = []
        self._tasks: TaskGroup

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[KernelRestarter]:
        async with background_tasks() as self._tasks:
            with self._lifecycle.supervised_by(self):
                yield self

    def add_callback(self, callback: Callback[EventT], event: type[EventT]) -> None:
        """Call a function for every event of a kind from now on.

        Args:
            callback: called with the event; may be async. Exceptions are logged.
            event: ``Died``, ``Restarted``, ``Failed``, ``Unreachable`` or ``Reachable``.
        """
        self._lifecycle.events.add_callback(callback, event)

    def remove_callback(self, callback: Callback[EventT], event: type[EventT]) -> None:
        """Remove a callback; an unknown callback is ignored."""
        self._lifecycle.events.remove_callback(callback, event)

    def started(self, instance: Instance, *, auto: bool) -> None:
        """Note that a new instance is ready; called by the kernel."""
        if not auto:
            self._uptimes.clear()
        if self.policy.time_to_dead is not None:
            self._tasks.start_soon(self._watch_heartbeat, instance, self.policy.time_to_dead)

    def died(self, uptime: float) -> Decision:
        """Decide whether to restart a kernel that has died; called by the kernel.

        Args:
            uptime: the seconds that the process was ready; 0 if never.
        """
        self._uptimes.append(uptime)
        # Older ones do not affect the decision.
        del self._uptimes[: -(self.policy.limit + 2)]
        return self.policy.decide(self._uptimes, self._chance())

    def revive(self, replacement: Replacement, decision: Restart) -> None:
        """Restart the kernel in a task; called by the kernel."""
        work = partial(self._revive, replacement, decision)
        self._tasks.start_soon(self._lifecycle.carry_out, replacement, work)

    async def _revive(self, replacement: Replacement, decision: Decision) -> None:
        failure: Exception | None = None
        while isinstance(decision, Restart):
            replacement.attempt = decision.attempt
            with anyio.move_on_after(decision.delay):
                await replacement.hurry.wait()
            try:
                await self._lifecycle.begin()
            except Exception as error:
                logger.warning("restart %d of a kernel failed: %s", decision.attempt, error)
                failure = error
                decision = self.died(0.0)
            else:
                return
        self._lifecycle.events.emit(Failed(decision.attempts))
        raise KernelDied(
            f"the kernel died, and {decision.attempts} consecutive restarts failed: {failure}"
        ) from failure

    async def _watch_heartbeat(self, instance: Instance, seconds: float) -> None:
        with suppress(KernelProtoError):  # the kernel has died or was ended
            await instance.client.heartbeat()  # a kernel without a heartbeat never answers
            await until_silent(instance.client, seconds)
            while not await _is_dead(instance, seconds):  # the silence was that of the connection
                await until_silent(instance.client, seconds)
            silence = DeathReason(f"its heartbeat was silent for {seconds:g} s", "silence")
            logger.warning("a kernel counts as dead: %s", silence)
            await instance.kill(silence)


async def _is_dead(instance: Instance, seconds: float) -> bool:
    """Return whether the silence of a kernel is a sign of death.

    The connection to another machine may have come back just now. So such a kernel gets a last
    heartbeat over a connection that works.
    """
    if not await instance.answers():
        return False
    if instance.reachability is None:
        return True
    with anyio.move_on_after(seconds):
        await instance.client.heartbeat()
        return False
    return await instance.answers()
