"""How long until 20 ipykernels, started at once, have all returned a result?"""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from functools import partial

import anyio

from benchmarks.lab import Lab, Sizes
from benchmarks.launchers import COLD, FORKED, JUPYTER, WARM
from benchmarks.peers import Launcher
from benchmarks.question import Contender, Goal, Question

_KERNELS = Sizes(20, 20, 2)


def _seconds(launcher: Launcher, lab: Lab) -> float:
    count = lab.size(_KERNELS)

    async def program() -> float:
        ended = anyio.Event()
        results = 0
        began = time.perf_counter()
        taken = 0.0

        async def one() -> None:
            nonlocal results, taken
            async with AsyncExitStack() as stack:
                kernel = await stack.enter_async_context(launcher.launch())
                assert await kernel.client.execute("6 * 7") == 1
                results += 1
                if results == count:
                    taken = time.perf_counter() - began
                    ended.set()
                await ended.wait()

        async with anyio.create_task_group() as tasks:
            for _ in range(count):
                tasks.start_soon(one)
        return taken

    return launcher.run(program)


QUESTIONS = [
    Question(
        name="twenty",
        title="20 ipykernels at once, to the last first result",
        unit="s",
        contenders=[
            Contender(launcher.name, partial(_seconds, launcher))
            for launcher in (*COLD, *FORKED, *WARM, JUPYTER)
        ],
        goals=[
            Goal(subject=launcher.name, baseline=JUPYTER.name, limit=limit)
            for launchers, limit in [(COLD, 0.7), (FORKED, 0.2)]
            for launcher in launchers
        ],
        rounds=Sizes(3, 1, 1),
    )
]
