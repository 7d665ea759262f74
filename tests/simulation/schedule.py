"""Trio with a simulated clock, and an order of tasks that a seed decides."""

from __future__ import annotations

import importlib
import random
import uuid
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import ModuleType

import trio
import trio.abc
from trio.testing import MockClock

Between = Callable[[int], None]


def run(main: Callable[[], Awaitable[None]], *, seed: str, between: Between) -> int:
    """Run an async function on Trio; time passes only while all tasks wait.

    With the same seed, the same tasks run in the same order, unless ``can_order()`` is False.

    Args:
        main: the async function.
        seed: decides the order of tasks that are ready at the same time, ids and random numbers.
        between: called after each step of a task, with the number of steps so far.

    Returns:
        The number of steps.
    """
    steps = _Steps(between)
    with _ordered(seed), _seeded(seed):
        trio.run(main, clock=MockClock(autojump_threshold=0), instruments=[steps])
    if steps.failure is not None:
        raise steps.failure
    return steps.count


def can_order() -> bool:
    """Return whether this version of Trio orders its tasks by a seed."""
    return _scheduler() is not None


class _Steps(trio.abc.Instrument):
    """Counts the steps of all tasks: each is the code of one task between two checkpoints."""

    def __init__(self, between: Between) -> None:
        self.count = 0
        self.failure: BaseException | None = None
        self._between = between

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1
        if self.failure is None:
            try:
                self._between(self.count)
            except BaseException as error:  # Trio would log it, and go on without this instrument
                self.failure = error


def _scheduler() -> ModuleType | None:
    """Return the module of Trio that orders tasks; None if it has changed.

    Trio has no public way to choose the order. Its own way, for Hypothesis, is these two names.
    """
    try:
        module = importlib.import_module("trio._core._run")
    except ImportError:
        return None
    known = isinstance(getattr(module, "_ALLOW_DETERMINISTIC_SCHEDULING", None), bool)
    return module if known and isinstance(getattr(module, "_r", None), random.Random) else None


@contextmanager
def _ordered(seed: str) -> Generator[None]:
    scheduler = _scheduler()
    if scheduler is None:
        yield
        return
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING, scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        scheduler._r.setstate(before[1])


@contextmanager
def _seeded(seed: str) -> Generator[None]:
    """Take ids and the random numbers of the library from the seed."""
    chance, before, uuid4 = random.Random(f"ids of {seed}"), random.getstate(), uuid.uuid4
    random.seed(f"numbers of {seed}")
    uuid.uuid4 = lambda: uuid.UUID(int=chance.getrandbits(128), version=4)
    try:
        yield
    finally:
        uuid.uuid4 = uuid4
        random.setstate(before)
