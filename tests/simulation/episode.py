"""Episodes: worlds that begin with nothing and end with nothing, one for each seed."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from kernelproto.exceptions import KernelProtoError
from tests.simulation import faults, schedule
from tests.simulation.faults import Fault
from tests.simulation.world import Violation, World

_LENGTHS = (1_000, 3_000, 3_000, 10_000)


class Outcome(NamedTuple):
    """The end of an episode.

    Attributes:
        seed: its seed.
        steps: the number of its steps.
        faults: its faults.
        counts: what has happened.
        violation: the first broken invariant; None if all of them hold.
    """

    seed: str
    steps: int
    faults: Sequence[Fault]
    counts: Counter[str]
    violation: Violation | None


def run(seed: str, planned: Sequence[Fault] | None = None) -> Outcome:
    """Run an episode.

    Args:
        seed: decides everything but the faults.
        planned: the faults; None means those of the seed.
    """
    length = random.Random(f"{seed}, length").choice(_LENGTHS)
    if planned is None:
        planned = faults.plan(seed, length)
    world = World(seed, length, planned)
    with _logged_errors(world):
        steps = schedule.run(world.run, seed=seed, between=world.between)
    return Outcome(seed, steps, planned, world.counts, world.violation)


def episodes(seed: int, steps: int) -> Iterator[Outcome]:
    """Run episodes until they have taken so many steps together, or one is broken."""
    number = 0
    while steps > 0:
        outcome = run(f"{seed}/{number}")
        yield outcome
        if outcome.violation is not None:
            return
        steps -= outcome.steps
        number += 1


def shorten(outcome: Outcome) -> Outcome:
    """Leave out faults while the episode still breaks; the invariant may be another one."""
    size = len(outcome.faults) // 2
    while size:
        begin = 0
        while begin < len(outcome.faults):
            fewer = [*outcome.faults[:begin], *outcome.faults[begin + size :]]
            shorter = run(outcome.seed, fewer)
            if shorter.violation is not None:
                outcome = shorter
            else:
                begin += size
        size //= 2
    return outcome


class _Errors(logging.Handler):
    """Reports each logged exception that is no KernelProtoError: it is a bug."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.WARNING)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, KernelProtoError):
            self._world.violate(f"logged: {record.getMessage()}: {error!r}", error)


@contextmanager
def _logged_errors(world: World) -> Generator[None]:
    logger, handler = logging.getLogger("kernelproto"), _Errors(world)
    logger.addHandler(handler)
    propagate, logger.propagate = logger.propagate, False
    try:
        yield
    finally:
        logger.propagate = propagate
        logger.removeHandler(handler)
