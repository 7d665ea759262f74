"""How many executions per second, if many are sent before the first has ended?"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.lab import Lab, Sizes
from benchmarks.peers import (
    JUPYTER,
    JUPYTER_BLOCKING,
    OURS,
    PLAIN,
    Jupyverse,
    Peer,
    ZmqAnyio,
)
from benchmarks.question import Contender, Question

_REQUESTS = Sizes(500, 200, 5)


def _per_second(peer: Peer, lab: Lab) -> float:
    count = lab.size(_REQUESTS)

    async def program() -> float:
        async with peer.connect(lab.synthetic) as client:
            await client.execute("pass")
            began = time.perf_counter()
            await client.pipeline("result", count)
            return count / (time.perf_counter() - began)

    return peer.run(program)


QUESTIONS = [
    Question(
        name="pipelined",
        title="Pipelined executions: 500 in flight",
        unit="executions/s",
        better="more",
        contenders=[
            Contender(peer.name, partial(_per_second, peer))
            for peer in (*OURS, JUPYTER, JUPYTER_BLOCKING, Jupyverse(), ZmqAnyio(), PLAIN)
        ],
    )
]
