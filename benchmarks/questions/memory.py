"""How much memory do a client and an idle kernel with all its processes use?

Measured in a fresh process, as the difference in PSS between one and many of them.
"""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from benchmarks.alone import run_alone
from benchmarks.crowd import connected
from benchmarks.lab import Lab, Sizes
from benchmarks.launchers import COLD, FORKED, LAUNCHERS
from benchmarks.launchers import JUPYTER as JUPYTER_LAUNCHER
from benchmarks.peers import ASYNCIO, JUPYTER, TRIO
from benchmarks.proc import descendants, pss
from benchmarks.question import Contender, Question

_CLIENTS = Sizes(50, 20, 3)
_KERNELS = Sizes(10, 4, 2)


def clients(name: str, files: list[str]) -> float:
    """Return the KiB of a client: connect to all kernels, after the first."""
    peer = next(peer for peer in (ASYNCIO, TRIO, JUPYTER) if peer.name == name)

    async def program() -> float:
        async with connected(peer, [Path(files[0])]) as first:
            await peer.each(first, "result", 5)
            gc.collect()
            before = pss()
            async with connected(peer, [Path(file) for file in files[1:]]) as others:
                await peer.each(others, "result", 5)
                gc.collect()
                return (pss() - before) / (len(files) - 1) / 1024

    return peer.run(program)


def kernels(name: str, count: int) -> float:
    """Return the MiB of a kernel: start one, then more."""
    launcher = next(launcher for launcher in LAUNCHERS if launcher.name == name)

    async def program() -> float:
        async with AsyncExitStack() as stack:
            for _ in range(count):
                kernel = await stack.enter_async_context(launcher.launch())
                await kernel.client.execute("1")
            # All processes: memory shared by forked kernels counts once, with the fork server.
            return sum(map(pss, descendants())) / count / 2**20

    return launcher.run(program)


def _client(name: str, lab: Lab) -> float:
    files = [str(file) for file in lab.fifty[: lab.size(_CLIENTS)]]
    return float(run_alone(f"{__name__}:clients", name, files))


def _kernel(name: str, lab: Lab) -> float:
    return float(run_alone(f"{__name__}:kernels", name, lab.size(_KERNELS)))


QUESTIONS = [
    Question(
        name="memory.client",
        title="Memory of a client",
        unit="KiB",
        contenders=[
            Contender(peer.name, partial(_client, peer.name)) for peer in (ASYNCIO, TRIO, JUPYTER)
        ],
        rounds=Sizes(5, 1, 1),
    ),
    Question(
        name="memory.kernel",
        title="Memory of an idle ipykernel",
        unit="MiB",
        contenders=[
            Contender(launcher.name, partial(_kernel, launcher.name))
            for launcher in (COLD[0], FORKED[0], JUPYTER_LAUNCHER)
        ],
        rounds=Sizes(3, 1, 1),
    ),
]
