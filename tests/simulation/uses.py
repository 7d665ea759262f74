"""Uses: the kernels that a pool must end because they are idle, and those that it must not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn
from unittest.mock import patch

import anyio

from kernelproto.pool.executor import Executor
from kernelproto.pool.pooled_kernel import ManagedKernel

if TYPE_CHECKING:
    from tests.simulation.machine import Process
    from tests.simulation.programs import Program
    from tests.simulation.world import World

_LOOK_SECONDS = 2.0

# A program notices within this time that a kernel has begun or ended work, or can be reached again.
_NOTICE_SECONDS = 2.0

# An adopted kernel is ready within this time, and its idle time is stored to within this time.
_ADOPTION_SECONDS = 5.0

_ROUNDING_SECONDS = 0.001

_FOR_BEING_IDLE = ("culled", "evicted")


class Uses:
    """The last use of each kernel by anyone, and the ends of kernels that are idle.

    Args:
        world: the world.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._used_at: dict[tuple[str, str], float] = defaultdict(lambda: -math.inf)
        self._clock_set_at = -math.inf

    def note(self, user: str, *names: str) -> None:
        """Note that a user uses kernels now."""
        for name in names:
            self._used_at[user, name] = anyio.current_time()

    def note_clock(self) -> None:
        """Note that the clock of the store is set: idle times count from now."""
        self._clock_set_at = anyio.current_time()

    @contextmanager
    def watched(self) -> Generator[None]:
        """Check each decision of a pool to end a kernel during the block."""
        end = Executor._end

        def check_and_end(executor: Executor, managed: ManagedKernel, why: str) -> None:
            if not managed.ending and why in _FOR_BEING_IDLE:
                self._check_end(managed, why)
            end(executor, managed, why)

        with patch.object(Executor, "_end", check_and_end):
            yield

    async def serve(self) -> NoReturn:
        """Look at the idle kernels now and then, also while no task has anything to do."""
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            self.check()

    def check(self) -> None:
        """Check that no kernel is left that its pool must have culled."""
        now = anyio.current_time()
        for process in self._world.machine.alive():
            program = self._owner_of(process)
            if program is None or program.idle_timeout is None or process.lease is None:
                continue
            if process.is_stopped or process.executing_since is not None or process.held:
                continue
            if process.lease in program.leases_in_use:
                continue
            if now - program.opened_at < _ADOPTION_SECONDS:
                continue
            used_at = max(process.active_at, self._used_at[process.lease], self._clock_set_at)
            if now - used_at > program.idle_timeout + _ADOPTION_SECONDS:
                self._world.violate(
                    f"{program} keeps process {process.number}, idle for {now - used_at:.1f} s: it "
                    f"culls kernels after {program.idle_timeout:g} s"
                )

    def _owner_of(self, process: Process) -> Program | None:
        owner = process.owner
        return next((each for each in self._world.programs if each is owner and each.is_open), None)

    def _check_end(self, managed: ManagedKernel, why: str) -> None:
        self._world.counts[why] += 1
        process = None if managed._kernel is None else managed._kernel.manager._process
        program = None if process is None or not process.alive else process.owner
        if process is None or program is None:
            return
        now = anyio.current_time()
        since = process.executing_since
        if since is not None and now - since > _NOTICE_SECONDS:
            self._world.violate(
                f"{program} has {why} process {process.number}, which has executed code for "
                f"{now - since:.1f} s"
            )
        if why == "culled" and process.owned_since < process.written_at:
            idle = now - process.written_at
            if program.idle_timeout is None or idle < program.idle_timeout - _ROUNDING_SECONDS:
                self._world.violate(
                    f"{program} has culled process {process.number}, which wrote a line "
                    f"{idle:.1f} s ago"
                )
