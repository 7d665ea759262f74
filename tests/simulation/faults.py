"""Faults: what goes wrong, and when; each is one synchronous change between two steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import anyio

from tests.simulation.machine import LaunchFault, Process

if TYPE_CHECKING:
    from tests.simulation.programs import Program
    from tests.simulation.world import World

# The mean number of steps between two faults.
_STEPS_BETWEEN = 150


class Fault(NamedTuple):
    """A fault after a step.

    Attributes:
        step: the step.
        kind: the name of the fault.
        seed: decides its details.
    """

    step: int
    kind: str
    seed: int

    def inject(self, world: World) -> None:
        """Let it happen."""
        _KINDS[self.kind](world, random.Random(self.seed))
        world.counts[f"fault: {self.kind}"] += 1

    def __str__(self) -> str:
        return f"after step {self.step}: {self.kind} ({self.seed})"


def plan(seed: str, steps: int) -> list[Fault]:
    """Return the faults of an episode."""
    chance = random.Random(f"{seed}, faults")
    names, weights = zip(*((kind, weight) for kind, weight in _WEIGHTS.items()), strict=True)
    faults: list[Fault] = []
    step = 0
    while (step := step + 1 + int(chance.expovariate(1 / _STEPS_BETWEEN))) < steps:
        (kind,) = chance.choices(names, weights)
        faults.append(Fault(step, kind, chance.getrandbits(32)))
    return faults


def _process(world: World, chance: random.Random) -> Process | None:
    alive = list(world.machine.alive())
    return chance.choice(alive) if alive else None


def _program(world: World, chance: random.Random) -> Program | None:
    running = world.running()
    return chance.choice(running) if running else None


def _kernel_dies(world: World, chance: random.Random) -> None:
    if (process := _process(world, chance)) is not None:
        process.fake.die(chance.choice((-9, -11, 1, 0)))


def _kernel_is_stopped(world: World, chance: random.Random) -> None:
    if (process := _process(world, chance)) is not None:
        process.stop(anyio.current_time() + chance.choice((0.5, 5.0, 40.0)))


def _launch_fails(world: World, chance: random.Random) -> None:
    kind = chance.choice(("slow", "slow", "refused", "dies", "silent"))
    world.machine.faults.append(LaunchFault(kind, chance.choice((0.1, 3.0, 25.0))))


def _registry_fails(world: World, chance: random.Random) -> None:
    if (program := _program(world, chance)) is not None:
        program.outage.until = anyio.current_time() + chance.choice((0.2, 4.0, 20.0, 50.0))
        program.outage.hangs = False


def _registry_hangs(world: World, chance: random.Random) -> None:
    if (program := _program(world, chance)) is not None:
        program.outage.until = anyio.current_time() + chance.choice((0.2, 4.0, 20.0))
        program.outage.hangs = True


def _registry_is_slow(world: World, chance: random.Random) -> None:
    if (program := _program(world, chance)) is not None:
        program.outage.seconds = chance.choice((0.0, 0.0, 0.1, 2.0))


def _claim_lapses(world: World, chance: random.Random) -> None:
    """Let another node claim a kernel whose claim has lapsed, or whose store's clock jumped."""
    rows = world.store.rows()
    if rows:
        world.store.ahead += chance.choice((0.0, 31.0, 31.0))
        world.store.claim(chance.choice(rows).kernel_id, "outsider", chance.choice((1.0, 60.0)))


def _clock_is_set(world: World, chance: random.Random) -> None:
    world.store.ahead += chance.choice((-3600.0, -20.0, -1.0, 1.0, 20.0))
    world.uses.note_clock()


def _program_is_killed(world: World, chance: random.Random) -> None:
    if (program := _program(world, chance)) is not None:
        program.kill()


def _program_is_closed(world: World, chance: random.Random) -> None:
    if (program := _program(world, chance)) is not None:
        program.closing.set()


def _second_program(world: World, chance: random.Random) -> None:
    world.want_second_program()


def _page_is_dropped(world: World, chance: random.Random) -> None:
    chance.choice(world.pages).drop()


def _operation_is_cancelled(world: World, chance: random.Random) -> None:
    if (program := _program(world, chance)) is not None and program.operations:
        chance.choice(list(program.operations.values())).scope.cancel()


_KINDS: dict[str, Callable[[World, random.Random], None]] = {
    "a kernel dies": _kernel_dies,
    "a kernel is stopped": _kernel_is_stopped,
    "a launch fails": _launch_fails,
    "the registry fails": _registry_fails,
    "the registry hangs": _registry_hangs,
    "the registry is slow": _registry_is_slow,
    "another node claims a kernel": _claim_lapses,
    "the store's clock is set": _clock_is_set,
    "a program is killed": _program_is_killed,
    "a program is closed": _program_is_closed,
    "a second program starts": _second_program,
    "a page loses its connection": _page_is_dropped,
    "an operation is cancelled": _operation_is_cancelled,
}

_WEIGHTS = {
    "a kernel dies": 4,
    "a kernel is stopped": 3,
    "a launch fails": 4,
    "the registry fails": 2,
    "the registry hangs": 1,
    "the registry is slow": 1,
    "another node claims a kernel": 1,
    "the store's clock is set": 1,
    "a program is killed": 2,
    "a program is closed": 2,
    "a second program starts": 1,
    "a page loses its connection": 8,
    "an operation is cancelled": 4,
}
