"""How long does it take from the request for an ipykernel to its first result?"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.lab import Lab, Sizes
from benchmarks.launchers import COLD, FORKED, JUPYTER, LAUNCHERS
from benchmarks.peers import Launcher
from benchmarks.question import Contender, Goal, Question


def milliseconds(launcher: Launcher, lab: Lab) -> float:
    """Return the time from the request for a kernel to its first result."""

    async def program() -> float:
        began = time.perf_counter()
        async with launcher.launch() as kernel:
            assert await kernel.client.execute("6 * 7") == 1
            return (time.perf_counter() - began) * 1e3

    return launcher.run(program)


QUESTIONS = [
    Question(
        name="start",
        title="Start of an ipykernel to its first result",
        unit="ms",
        contenders=[
            Contender(launcher.name, partial(milliseconds, launcher)) for launcher in LAUNCHERS
        ],
        goals=[
            Goal(subject=launcher.name, baseline=JUPYTER.name, limit=limit)
            for launchers, limit in [(COLD, 0.55), (FORKED, 0.13)]
            for launcher in launchers
        ],
        rounds=Sizes(10, 2, 1),
    )
]
