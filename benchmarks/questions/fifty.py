"""How many outputs per second, if 50 clients in one process listen to 50 busy kernels?"""

from __future__ import annotations

import time
from functools import partial

from benchmarks.crowd import connected
from benchmarks.lab import Lab, Sizes
from benchmarks.peers import JUPYTER, OURS, PLAIN, Peer
from benchmarks.question import Contender, Question

_CLIENTS = Sizes(50, 50, 3)
_OUTPUTS = Sizes(400, 100, 5)


def _per_second(peer: Peer, lab: Lab) -> float:
    count, outputs = lab.size(_CLIENTS), lab.size(_OUTPUTS)

    async def program() -> float:
        async with connected(peer, lab.fifty[:count]) as clients:
            await peer.each(clients, "pass", 1)
            began = time.perf_counter()
            await peer.each(clients, f"outputs {outputs}", 1)
            return count * outputs / (time.perf_counter() - began)

    return peer.run(program)


QUESTIONS = [
    Question(
        name="fifty",
        title="50 clients on 50 kernels, all talking at once",
        unit="messages/s",
        better="more",
        contenders=[
            Contender(peer.name, partial(_per_second, peer)) for peer in (*OURS, JUPYTER, PLAIN)
        ],
        rounds=Sizes(3, 2, 1),
    )
]
