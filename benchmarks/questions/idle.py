"""How much CPU time does an idle client use in 10 s?"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import anyio

from benchmarks.alone import run_alone
from benchmarks.lab import Lab, Sizes
from benchmarks.peers import JUPYTER, OURS, Peer
from benchmarks.question import Contender, Question

_SECONDS = Sizes(10, 3, 1)

PEERS: list[Peer] = [*OURS, JUPYTER]


def client(name: str, file: str, seconds: float) -> float:
    """Return the CPU time of an idle client in milliseconds, in all threads."""
    peer = next(peer for peer in PEERS if peer.name == name)

    async def program() -> float:
        async with peer.connect(Path(file)) as client:
            await client.execute("result")
            before = time.process_time()
            await anyio.sleep(seconds)
            return (time.process_time() - before) * 1e3

    return peer.run(program)


def _milliseconds(name: str, lab: Lab) -> float:
    seconds = lab.size(_SECONDS)
    taken = float(run_alone(f"{__name__}:client", name, str(lab.synthetic), seconds))
    return taken / seconds * 10


QUESTIONS = [
    Question(
        name="idle",
        title="CPU time of an idle client in 10 s",
        unit="ms",
        contenders=[Contender(peer.name, partial(_milliseconds, peer.name)) for peer in PEERS],
        rounds=Sizes(2, 1, 1),
    )
]
