"""Lifecycle: a kernel's processes, one after the other, and the wait for the next one.

Theory of operation
-------------------
There is one current instance. When the instance dies or a caller restarts the kernel, a Replacement
begins. There is at most one Replacement at a time: further restarts join the present Replacement,
and requests wait for its end. A Replacement ends when the next instance is ready, or with an error.
After a call of ``restart``, a task of the kernel performs the Replacement; after a death, a task of
the supervisor.

``states.py`` has the states and the events that change them. An event that the table does not allow
raises RuntimeError.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from kernelproto.client.client import KernelClient
from kernelproto.client.comms import OnCommOpen
from kernelproto.client.observers import Observers
from kernelproto.concurrency.process_owner import LoopOwner
from kernelproto.concurrency.shield import to_the_end
from kernelproto.concurrency.task_groups import background_tasks, start_logged
from kernelproto.concurrency.waiter import Waiter
from kernelproto.exceptions import (
    ClientClosed,
    KernelDied,
    KernelProtoError,
    KernelRestarted,
    fresh,
)
from kernelproto.interfaces import IsListed
from kernelproto.supervise.events import EventHub, Failed, Reachable, Restarted, Unreachable
from kernelproto.supervise.instance import (
    Instance,
    Launch,
    death_error,
    start_instance,
)
from kernelproto.supervise.restart_policy import Decision, GiveUp, Restart
from kernelproto.supervise.states import Life, LifeEvent, next_life
from kernelproto.timeouts import Timeouts

logger = logging.getLogger(__name__)


class Replacement(Waiter[Instance]):
    """The next instance; several tasks may wait for this instance.

    Args:
        auto: whether a supervisor decided to restart the kernel.
        attempt: consecutive attempt number, starting at 1.

    Attributes:
        hurry: set when the restart must not wait for the backoff.
        scope: cancelled when the instance is no longer needed.
    """

    __slots__ = ("attempt", "auto", "hurry", "scope")

    def __init__(self, *, auto: bool, attempt: int = 1) -> None:
        super().__init__()
        self.auto = auto
        self.attempt = attempt
        self.hurry = anyio.Event()
        self.scope = anyio.CancelScope()


class Supervisor(Protocol):
    """Decides whether to restart a kernel that has died."""

    def started(self, instance: Instance, *, auto: bool) -> None:
        """Note that a new instance is ready."""
        ...

    def died(self, uptime: float) -> Decision:
        """Decide whether to restart a kernel that died after *uptime* seconds."""
        ...

    def revive(self, replacement: Replacement, decision: Restart) -> None:
        """Start a task that carries out a Replacement with ``Lifecycle.carry_out``."""
        ...


class Lifecycle:
    """A kernel's processes, one after the other.

    Args:
        launch: launches the kernel.
        tasks: the task group that serves the kernel.
        timeouts: the timeouts of each process.
        cwd: the working directory of the first process.

    Attributes:
        current: the instance that serves, or that served last.
        replacement: the next instance, during a restart.
        failure: the error of the last restart, if any.
        life: the state of the kernel.
        kernel_id: the id that all instances are listed under; by default that of the first one.
        cwd: the working directory of the next process; None means the caller's.
        env: environment variables of the next process, beside those of the first launch.
        observers: the observers of the kernel's messages.
        events: delivers the kernel's events.
    """

    def __init__(
        self, launch: Launch, tasks: TaskGroup, timeouts: Timeouts, *, cwd: str | None = None
    ) -> None:
        self.current: Instance
        self.replacement: Replacement | None = None
        self.failure: Exception | None = None
        self.life = Life.STARTING
        self.kernel_id = ""
        self.cwd = cwd
        self.env: Mapping[str, str] = {}
        self.observers = Observers(self.start_task)
        self.events = EventHub(self.start_task)
        self.owner = LoopOwner()
        self._launch = launch
        self._tasks = tasks
        self._timeouts = timeouts
        self._comm_targets: dict[str, OnCommOpen] = {}
        self._supervisor: Supervisor | None = None
        self._closing_error = ClientClosed("the kernel was shut down")

    @property
    def problem(self) -> str:
        """The reason why the current instance cannot be reached; "" if reachable."""
        reachability = self.current.reachability
        return "" if reachability is None else reachability.problem or ""

    async def begin(self) -> Instance:
        """Start an instance, in a task of the kernel, and return the ready instance.

        Raises:
            LaunchError: the instance could not be started.
        """
        instance: Instance = await self._tasks.start(self._serve)
        return instance

    async def client(self) -> KernelClient:
        """Return the client of the current instance; wait during a restart.

        Raises:
            KernelProtoError: the kernel could not be restarted, or was ended.
        """
        self.owner.check("kernel")
        if self.current.outlives:
            raise fresh(self._closing_error)
        if self.replacement is not None:
            return (await self.replacement.wait()).client
        if self.failure is not None:
            raise fresh(self.failure)
        return self.current.client

    async def restart(
        self, *, env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> None:
        """Replace the current instance; see ``Kernel.restart``."""
        self.owner.check("kernel")
        while self.replacement is not None and (env or cwd is not None):
            self.replacement.hurry.set()
            with suppress(Exception):  # raised in the tasks that asked for this restart
                await self.replacement.wait()
        if self.life is Life.OVER:
            raise fresh(self._closing_error)
        if self.replacement is None:
            self._apply(LifeEvent.RESTART)
            self.replacement = Replacement(auto=False)
            work = partial(self._restart, env or {}, cwd)
            self._tasks.start_soon(self.carry_out, self.replacement, work)
        self.replacement.hurry.set()
        await self.replacement.wait()

    async def carry_out(
        self, replacement: Replacement, work: Callable[[], Awaitable[None]]
    ) -> None:
        """Call *work*; fail the replacement if *work* does not start an instance.

        Args:
            replacement: the next instance, which tasks may wait for.
            work: starts the next instance, or raises.
        """
        failure: Exception | None = None
        try:
            with replacement.scope:
                await work()
        except Exception as error:
            failure = error
            logger.warning("a kernel could not be restarted: %s", error)
        finally:
            if self.replacement is replacement:
                self.replacement = None
                self._apply(LifeEvent.FAILED)
                self.failure = failure = failure or self._abandoned()
                self.observers.fail(failure)
                replacement.fail(failure)

    async def end(self) -> int | None:
        """End the kernel for good; return the exit status of the process, None if unknown.

        Raises:
            ClientClosed: this program has let go of the kernel, which may have another owner.
        """
        if self.current.outlives:
            raise fresh(self._closing_error)
        self._apply(LifeEvent.END)
        try:
            if self.replacement is not None:
                await to_the_end(partial(_abandon, self.replacement))
            return await self.current.end(self._closing_error)
        finally:
            self.observers.fail(self._closing_error)
            self.events.end()

    def list_as(self, kernel_id: str) -> None:
        """List all instances under an id, by which other programs find the kernel."""
        self.kernel_id = kernel_id
        if isinstance(self.current.manager, IsListed):
            self.current.manager.list_as(kernel_id)

    def explain_end(self, error: ClientClosed) -> None:
        """Set the error that calls on the kernel raise after its end."""
        self._closing_error = self.current.closing_error = error

    def let_go(self, reason: ClientClosed | None = None) -> bool:
        """Let the kernel outlive this program; return whether a process goes on.

        A process goes on if the kernel is ready or cannot be reached. From then on another program
        may own the kernel, and this one can neither use nor end the kernel.

        Args:
            reason: raised by later calls.
        """
        if self.current.outlives:
            return True
        if self.life not in (Life.READY, Life.UNREACHABLE):
            return False
        self._apply(LifeEvent.END)
        self.current.outlives = True
        self.explain_end(reason or ClientClosed("this program has let go of the kernel"))
        self.current.client.fail(self._closing_error)
        self.current.gone.set()
        self.observers.fail(self.current.client.failure or self._closing_error)
        self.events.end()
        return True

    @contextmanager
    def supervised_by(self, supervisor: Supervisor) -> Generator[None]:
        """Let a supervisor decide, during the block, about restarts of a kernel that dies."""
        if self._supervisor is not None:
            raise ValueError("this kernel has a KernelRestarter already")
        self._supervisor = supervisor
        supervisor.started(self.current, auto=False)
        try:
            yield
        finally:
            self._supervisor = None

    def start_task(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run an async function until the kernel ends; exceptions are logged."""
        start_logged(self._tasks, function, *args)

    def _apply(self, event: LifeEvent) -> None:
        self.life = next_life(self.life, event)

    async def _serve(self, *, task_status: TaskStatus[Instance]) -> None:
        async with start_instance(
            partial(self._launch, env=self.env, cwd=self.cwd),
            self._died,
            timeouts=self._timeouts,
            observers=self.observers,
            comm_targets=self._comm_targets,
        ) as instance:
            self.current = instance
            self.list_as(self.kernel_id or instance.manager.kernel_id)
            self._welcome(instance)
            task_status.started(instance)
            async with background_tasks() as tasks:
                tasks.start_soon(self._watch_connection, instance)
                await instance.gone.wait()

    async def _watch_connection(self, instance: Instance) -> None:
        """Note each loss and each return of the connection to the kernel."""
        reachability = instance.reachability
        while reachability is not None:
            problem = await reachability.until_lost()
            lost_at = anyio.current_time()
            if not instance.gone.is_set() and self._changes(LifeEvent.UNREACHABLE):
                logger.warning("kernel %s cannot be reached: %s", self.kernel_id, problem)
                self.events.emit(Unreachable(problem))
            await reachability.until_regained()
            if reachability.is_over:
                return  # the death of the kernel is told next
            seconds = anyio.current_time() - lost_at
            if not instance.gone.is_set() and self._changes(LifeEvent.REACHABLE):
                logger.info("kernel %s can be reached again, after %.1f s", self.kernel_id, seconds)
                self.events.emit(Reachable(seconds))

    def _changes(self, event: LifeEvent) -> bool:
        """Apply an event; return whether the state has changed."""
        before = self.life
        self._apply(event)
        return self.life is not before

    def _welcome(self, instance: Instance) -> None:
        """Let a new instance serve the waiting tasks."""
        self._apply(LifeEvent.READY)
        replacement, self.replacement = self.replacement, None
        if replacement is None:
            return  # the first instance
        self.failure = None
        self.observers.resume()
        replacement.set(instance)
        if self._supervisor is not None:
            self._supervisor.started(instance, auto=replacement.auto)
        self.events.emit(Restarted(replacement.auto, instance.info, replacement.attempt))

    def _died(self, instance: Instance, returncode: int | None) -> KernelProtoError:
        """Decide the step after the death of an instance; return the error of pending calls."""
        death = instance.death(returncode)
        self._apply(LifeEvent.DIED)
        if self.life is not Life.DEAD:  # a restart or the end is under way
            self.events.emit(death)
            if self.life is Life.OVER:
                return self._closing_error
            return death_error(death, KernelRestarted, "the kernel died and is being restarted")
        supervisor = self._supervisor
        decision = None if supervisor is None else supervisor.died(instance.uptime)
        if supervisor is not None and isinstance(decision, Restart):
            # Before the event, so that callbacks see the state "restarting".
            self._apply(LifeEvent.RESTART)
            self.replacement = Replacement(auto=True, attempt=decision.attempt)
            self.events.emit(death)
            supervisor.revive(self.replacement, decision)
            return death_error(death, KernelRestarted, "the kernel died and is being restarted")
        self.events.emit(death)
        if isinstance(decision, GiveUp):
            self.events.emit(Failed(decision.attempts))
        error = death_error(death)
        self.observers.fail(error)
        return error

    async def _restart(self, env: Mapping[str, str], cwd: str | None) -> None:
        before = self.env, self.cwd
        self.env, self.cwd = {**self.env, **env}, self.cwd if cwd is None else cwd
        try:
            await self.current.end(KernelRestarted("the kernel was restarted"), restart=True)
            await self.begin()
        except BaseException:
            self.env, self.cwd = before
            raise

    def _abandoned(self) -> KernelProtoError:
        if self.life is Life.OVER:
            return ClientClosed("the kernel was shut down during a restart")
        return KernelDied("the kernel died, and its KernelRestarter was closed during the restart")


async def _abandon(replacement: Replacement) -> None:
    """Cancel a replacement, and wait until the replacement has ended."""
    replacement.scope.cancel()
    with suppress(Exception):  # raised in the waiting tasks
        await replacement.wait()
