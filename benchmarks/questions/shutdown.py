"""How long does it take to shut an ipykernel down, until its process is gone?"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.lab import Lab, Sizes
from benchmarks.launchers import COLD, JUPYTER, LAUNCHERS
from benchmarks.peers import Launcher
from benchmarks.question import Contender, Goal, Question


def _milliseconds(launcher: Launcher, lab: Lab) -> float:
    async def program() -> float:
        async with launcher.launch() as kernel:
            await kernel.client.execute("6 * 7")
            began = time.perf_counter()
            await kernel.shutdown()
            return (time.perf_counter() - began) * 1e3

    return launcher.run(program)


QUESTIONS = [
    Question(
        name="shutdown",
        title="Shutdown of an ipykernel",
        unit="ms",
        contenders=[
            Contender(launcher.name, partial(_milliseconds, launcher)) for launcher in LAUNCHERS
        ],
        goals=[Goal(subject=launcher.name, baseline=JUPYTER.name, limit=0.5) for launcher in COLD],
        rounds=Sizes(10, 2, 1),
    )
]
