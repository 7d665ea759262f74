"""How many conversations a minute: start an ipykernel, run three cells, shut it down?

Four run at the same time, in a fresh process whose fork server has forked a kernel before. The CPU
time is that of all processes: the program, the kernels and the fork server.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import anyio

from benchmarks.alone import run_alone
from benchmarks.lab import Lab, Sizes
from benchmarks.launchers import FORKED, JUPYTER, LAUNCHERS
from benchmarks.peers import Launcher
from benchmarks.proc import cpu_seconds
from benchmarks.question import Contender, Goal, Question

_CONVERSATIONS = Sizes(40, 12, 1)
_AT_ONCE = 4
_CELLS = ("x = 6", "print(x * 7)", "x + 1")


class Measured(NamedTuple):
    """The figures of a run.

    Attributes:
        rate: conversations per minute.
        cpu: ms of CPU time for each, in all processes.
    """

    rate: float
    cpu: float


def measure(name: str, count: int) -> Measured:
    """Have *count* conversations; called in a new process."""
    launcher = next(launcher for launcher in LAUNCHERS if launcher.name == name)

    async def converse() -> None:
        async with launcher.launch() as kernel:
            for cell in _CELLS:
                await kernel.client.execute(cell)
            await kernel.shutdown()

    async def program() -> Measured:
        used, began = cpu_seconds(), time.perf_counter()
        left = iter(range(count))

        async def take_turns() -> None:
            for _ in left:
                await converse()

        async with anyio.create_task_group() as tasks:
            for _ in range(_AT_ONCE):
                tasks.start_soon(take_turns)
        seconds = time.perf_counter() - began
        return Measured(count / seconds * 60, (cpu_seconds() - used) / count * 1e3)

    return launcher.run(program)


def _measured() -> Callable[[Launcher, str, Lab], float]:
    """Return a function that gives each question a figure of the same runs."""
    runs: defaultdict[str, list[Measured]] = defaultdict(list)
    asked: Counter[tuple[str, str]] = Counter()

    def figure(launcher: Launcher, name: str, lab: Lab) -> float:
        same, number = runs[launcher.name], asked[launcher.name, name]
        if number == len(same):
            count = lab.size(_CONVERSATIONS)
            same.append(Measured(*run_alone(f"{__name__}:measure", launcher.name, count)))
        asked[launcher.name, name] += 1
        return float(getattr(same[number], name))

    return figure


_figure = _measured()


def _contenders(figure: str) -> list[Contender]:
    return [
        Contender(launcher.name, partial(_figure, launcher, figure))
        for launcher in (FORKED[0], JUPYTER)
    ]


QUESTIONS = [
    Question(
        name="conversations.rate",
        title="Conversations of three cells, from start to shutdown",
        unit="conversations/minute",
        better="more",
        contenders=_contenders("rate"),
        goals=[
            Goal(subject=FORKED[0].name, limit=1_000),
            Goal(subject=FORKED[0].name, baseline=JUPYTER.name, limit=5),
        ],
        rounds=Sizes(3, 1, 1),
    ),
    Question(
        name="conversations.cpu",
        title="CPU time of a conversation of three cells, in all processes",
        unit="ms",
        contenders=_contenders("cpu"),
        goals=[Goal(subject=FORKED[0].name, limit=120)],
        rounds=Sizes(3, 1, 1),
    ),
]
