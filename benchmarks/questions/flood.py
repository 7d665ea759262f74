"""How many outputs a second reach the awaiting task, verified and decoded, in a flood of text?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.lab import Lab, Sizes
from benchmarks.peers import (
    BLOCKING,
    JUPYTER,
    JUPYTER_BLOCKING,
    OURS,
    PLAIN,
    PLAIN_DECODING,
    Jupyverse,
    Peer,
    ZmqAnyio,
)
from benchmarks.question import Contender, Goal, Question

_SYNTHETIC = Sizes(20_000, 5_000, 100)
_IPYKERNEL = Sizes(5_000, 1_000, 20)

PEERS: list[Peer] = [
    *OURS,
    BLOCKING,
    JUPYTER,
    JUPYTER_BLOCKING,
    Jupyverse(),
    ZmqAnyio(),
    PLAIN_DECODING,
    PLAIN,
]

DISPLAYS = """
import time
from IPython.display import display
display({{"text/plain": str(time.monotonic())}}, raw=True)
for number in range(1, {}):
    display({{"text/plain": str(number)}}, raw=True)
"""


def _per_second(
    peer: Peer, kernel: Callable[[Lab], Path], code: str, messages: Sizes, lab: Lab
) -> float:
    count = lab.size(messages)

    async def program() -> float:
        async with peer.connect(kernel(lab)) as client:
            await client.execute("pass")
            received, seconds = await client.stream(code.format(count))
            if received != count:
                raise RuntimeError(f"{count - received} of {count} outputs were lost")
            return count / seconds

    return peer.run(program)


def _question(name: str, kernel: Callable[[Lab], Path], code: str, messages: Sizes) -> Question:
    return Question(
        name=f"flood.{name}",
        title=f"Flood of outputs, {name}",
        unit="messages/s",
        better="more",
        contenders=[
            Contender(peer.name, partial(_per_second, peer, kernel, code, messages))
            for peer in PEERS
        ],
        goals=[
            Goal(subject=ours.name, baseline=baseline.name, limit=limit)
            for ours in OURS
            for baseline, limit in [(JUPYTER, 6), (PLAIN_DECODING, 0.8), (PLAIN, 0.8)]
            if name == "synthetic"
        ],
        rounds=Sizes(7, 3, 1) if name == "synthetic" else Sizes(3, 2, 1),
    )


QUESTIONS = [
    _question("synthetic", lambda lab: lab.synthetic, "outputs {}", _SYNTHETIC),
    _question("ipykernel", lambda lab: lab.ipykernel, DISPLAYS, _IPYKERNEL),
]
