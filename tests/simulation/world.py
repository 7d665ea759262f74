"""The world of the simulation: the machine, the store, programs, pages, and their invariants."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple
from unittest.mock import patch

import anyio
from anyio.abc import TaskGroup

from kernelproto import KernelProtoError
from kernelproto.concurrency.bell import Bell
from kernelproto.concurrency.task_groups import background_tasks
from kernelproto.launch.adopt import LocalHost
from tests.simulation import programs
from tests.simulation.faults import Fault
from tests.simulation.machine import Machine
from tests.simulation.pages import Page
from tests.simulation.programs import LIMIT_SECONDS, NAMES, Program
from tests.simulation.store import Row, Store
from tests.simulation.uses import Uses

USERS = ("ada", "bob", "eve")
NODES = ("a", "a", "a", "b")

_MOST_PAGES = 4

# How many programs have a registry.
_KEEPING = 0.8

# How many times a second a user does something: where it is seldom, kernels are culled.
_RATES = (0.5, 0.5, 0.01)

# The number of steps between two looks at all processes.
_STEPS_BETWEEN_LOOKS = 20

# After this time every claim has lapsed, also if the clock of the store was set back.
_LAPSED_SECONDS = 1_000_000.0

# Kernels that cannot be stored are removed from the registry within this time after an outage.
_SETTLED_SECONDS = 120.0


class Violation(NamedTuple):
    """A broken invariant.

    Attributes:
        step: the step after which it was found.
        text: the invariant.
        cause: the exception that shows it, if any.
    """

    step: int
    text: str
    cause: BaseException | None


class World:
    """One episode: it begins without programs, and ends without processes.

    Attributes:
        seed: decides everything.
        counts: what has happened.
        violation: the first broken invariant.
        rate: how many times a second a user does something.
        fences: the last fence of each kernel in the registry.
        is_quiet: whether there are no more faults and new actions.
    """

    def __init__(self, seed: str, steps: int, faults: Sequence[Fault]) -> None:
        self.seed = seed
        self.users = USERS
        self.counts = Counter[str]()
        self.violation: Violation | None = None
        self.is_quiet = False
        self.step = 0
        self.programs: list[Program] = []
        self.pages: list[Page] = []
        self.uses = Uses(self)
        self.fences: dict[str, int] = {}
        self.rate = random.Random(f"{seed}, rate").choice(_RATES)
        self.machine: Machine
        self.store: Store
        self._steps = steps
        self._faults = list(reversed(faults))
        self._chance = random.Random(f"{seed}, world")
        self._scope: anyio.CancelScope
        self._change = Bell()
        self._wanted = 1

    def violate(self, text: str, cause: BaseException | None = None) -> None:
        """Report a broken invariant, and end the episode."""
        if self.violation is None:
            self.violation = Violation(self.step, text, cause)
            self._scope.cancel()

    def between(self, step: int) -> None:
        """Inject the faults of this step, and look at the processes; called after each step."""
        self.step = step
        if not self.pages or self.is_quiet or self.violation is not None:
            return
        while self._faults and self._faults[-1].step <= step:
            self._faults.pop().inject(self)
            self._change.ring()
        if step % _STEPS_BETWEEN_LOOKS == 0:
            self.check_processes()
        if step == self._steps:
            self._change.ring()

    async def run(self) -> None:
        """Run the episode."""
        self.store = Store(self.seed.replace("/", "-"))
        try:
            with anyio.CancelScope() as self._scope:
                async with background_tasks() as tasks:
                    self.machine = Machine(tasks)
                    find = self.machine.find_launched
                    find_launched = patch.object(LocalHost, "find_launched", staticmethod(find))
                    with find_launched, self.uses.watched():
                        async with background_tasks() as actors:
                            actors.start_soon(self.uses.serve)
                            await self._live(actors)
                        await self._come_to_an_end()
        finally:
            self.store.close()

    def choose_program(self, chance: random.Random) -> Program | None:
        """Return a program that serves."""
        serving = [program for program in self.programs if program.is_open]
        return chance.choice(serving) if serving else None

    def running(self) -> list[Program]:
        """Return the programs that were not killed and have not ended."""
        return [each for each in self.programs if not each.killed and not each.ended.is_set()]

    def want_second_program(self) -> None:
        """Start another program beside the one that runs."""
        self._wanted = 2

    async def _live(self, actors: TaskGroup) -> None:
        async with anyio.create_task_group() as pages:
            for number in range(self._chance.randint(1, _MOST_PAGES)):
                self.pages.append(Page(self, number))
                pages.start_soon(self.pages[-1].live)
            while self.step < self._steps:
                if len(self.running()) < self._wanted:
                    self._start(actors)
                    self._wanted = 1
                await self._change.wait()
                with anyio.move_on_after(self._chance.choice((0.0, 0.0, 1.0, 20.0, 60.0))):
                    await self._change.wait()
            self.is_quiet = True
            self._end_faults()
        await self._check_users()
        for program in self.programs:
            program.closing.set()
            await self._end_of(program)

    def _start(self, actors: TaskGroup) -> Program:
        program = Program(
            self,
            len(self.programs),
            self._chance.choice(NODES),
            keeps=self._chance.random() < _KEEPING,
        )
        self.programs.append(program)
        actors.start_soon(self._run, program)
        return program

    async def _run(self, program: Program) -> None:
        await program.run()
        self._change.ring()

    async def _end_of(self, program: Program) -> None:
        with anyio.move_on_after(LIMIT_SECONDS) as guard:
            await program.ended.wait()
        if guard.cancelled_caught:
            self.violate(f"{program} does not end")

    def _end_faults(self) -> None:
        self.machine.faults.clear()
        for program in self.programs:
            program.outage = programs.Outage()
        for process in self.machine.alive():
            process.resume()

    async def _check_users(self) -> None:
        """Check that no row of an ended kernel keeps a user from having a kernel."""
        serving = [program for program in self.running() if program.is_open and program.keeps]
        if len(serving) != 1:
            return
        (program,) = serving
        await anyio.sleep(_SETTLED_SECONDS)
        alive = {process.number for process in self.machine.alive()}
        ids = {kernel.kernel_id for kernel in program.pool.kernels()}
        for row in self.store.rows():
            if row.node == program.node and row.process not in alive and row.kernel_id not in ids:
                await self._check_user(program, row)

    async def _check_user(self, program: Program, row: Row) -> None:
        for name in NAMES:  # for the quota of the user
            await program.pool.release(row.owner, name=name)
        env = programs.env_of((row.owner, row.name))
        error: KernelProtoError | None = None
        with anyio.move_on_after(LIMIT_SECONDS) as guard:
            try:
                await program.pool.get(row.owner, name=row.name, wait=True, env=env)
            except KernelProtoError as failure:
                error = failure
        if error is not None or guard.cancelled_caught:
            self.violate(
                f"{program} lets {row.owner} have no kernel {row.name!r}: the registry has an "
                f"ended one, {row.kernel_id}: {error}",
                error,
            )

    async def _come_to_an_end(self) -> None:
        """Let a last program have all kernels, and release them."""
        self.store.ahead += _LAPSED_SECONDS
        self.check_processes()
        last = Program(self, len(self.programs), "last", keeps=True, most=100)
        async with background_tasks() as tasks:
            tasks.start_soon(last.run)
            with anyio.move_on_after(LIMIT_SECONDS):
                while not last.is_open and not last.ended.is_set():  # noqa: ASYNC110
                    await anyio.sleep(1)
            if not last.is_open:
                self.violate("the last program could not be opened")
                return
            alive = {process.number for process in self.machine.alive()}
            for process in self.machine.alive():
                if process.owner is not last:
                    self.violate(f"process {process.number} was found by no program")
            for row in self.store.rows():
                if row.process not in alive:
                    self.violate(f"the registry keeps {row}, whose process has ended")
            for user in self.users:
                for name in NAMES:
                    await last.pool.release(user, name=name)
            await anyio.sleep(_SETTLED_SECONDS)
            for process in self.machine.alive():
                self.violate(f"process {process.number} was released, and goes on")
            for row in self.store.rows():
                self.violate(f"the registry keeps {row}, which was released")
            last.closing.set()
            await self._end_of(last)

    def _check_owners(self, rows: Sequence[Row]) -> None:
        """Check that the pool, the registry and the process name the same user of each kernel."""
        registered = {row.kernel_id: (row.owner, row.name) for row in rows}
        pooled = {
            kernel.kernel_id: (kernel.user, kernel.name)
            for program in self.running()
            if program.is_open
            for kernel in program.pool.kernels()
        }
        for process in self.machine.alive():
            lease, kernel_id = process.lease, process.listed_as
            if process.detached and not kernel_id:
                self.violate(f"process {process.number} is listed under no id")
            for place, known in (("registry", registered), ("pool", pooled)):
                if known.get(kernel_id, lease) != lease:
                    self.violate(
                        f"process {process.number} was started for {lease}, and belongs to "
                        f"{known[kernel_id]} in the {place}"
                    )

    def check_processes(self) -> None:
        """Check that each process has one owner or a row, and each lease one process.

        A process that has run code must have its handle in the registry, so that it is restored.
        """
        rows = self.store.rows()
        in_rows = {row.process for row in rows}
        ids = {row.kernel_id for row in rows}
        leases: dict[object, list[int]] = defaultdict(list)
        self._check_owners(rows)
        for process in self.machine.alive():
            if process.number in in_rows:
                process.registered = True
            elif process.owner is None and process.listed_as not in ids:
                self.violate(f"process {process.number} has neither an owner nor a row")
            if process.detached and process.outputs and not process.registered:
                self.violate(f"process {process.number} has run code, and no row has its handle")
            if process.registered and process.lease is not None and process.owner is not None:
                leases[process.lease].append(process.number)
        for lease, numbers in leases.items():
            if len(numbers) > 1:
                self.violate(f"the processes {numbers} are all the kernel {lease}")
