"""How long after a kernel was killed does the waiting task get an exception?"""

from __future__ import annotations

import math
import signal
import time
from functools import partial

import anyio

from benchmarks.lab import Lab, Sizes
from benchmarks.launchers import COLD, FORKED, JUPYTER, JUPYVERSE
from benchmarks.peers import Launcher
from benchmarks.question import Contender, Goal, Question

_PATIENCE_SECONDS = Sizes(10, 3, 1)


def _milliseconds(launcher: Launcher, lab: Lab) -> float:
    """Let the kernel kill itself while it runs code, and report the time by its own clock."""

    async def program() -> float:
        told = math.inf
        fifo = lab.folder / "killed"
        fifo.unlink(missing_ok=True)
        async with launcher.launch() as kernel:
            with anyio.move_on_after(lab.size(_PATIENCE_SECONDS)):
                await kernel.death(
                    "import os, pathlib, time\n"
                    f"pathlib.Path({str(fifo)!r}).write_text(str(time.monotonic()))\n"
                    f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
                )
                told = time.monotonic()
        return (told - float(fifo.read_text())) * 1e3

    return launcher.run(program)


QUESTIONS = [
    Question(
        name="sigkill",
        title="SIGKILL of an ipykernel to the exception in the waiting task",
        unit="ms",
        contenders=[
            Contender(launcher.name, partial(_milliseconds, launcher))
            for launcher in (*COLD, *FORKED, JUPYTER, JUPYVERSE)
        ],
        goals=[Goal(subject=launcher.name, limit=20) for launcher in (*COLD, *FORKED)],
        rounds=Sizes(10, 2, 1),
    )
]
